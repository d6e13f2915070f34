"""What can go wrong, with the code and the HTTP status that every door shows for it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar


class ServiceError(Exception):
    """A refusal or failure that a person may read; only doors catch it.

    `message` says what happened and what to do next. `details` is JSON and holds nothing secret.
    """

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    default: ClassVar[str] = "Something went wrong on our side. The request id helps us to find it."

    def __init__(self, message: str = "", *, details: Mapping[str, Any] | None = None) -> None:
        self.message = message or self.default
        self.details: dict[str, Any] = dict(details or {})
        super().__init__(self.message)


class Malformed(ServiceError):
    """Bytes, JSON or a query that we refuse to parse."""

    code, status, default = "MALFORMED", 400, "The request could not be read."


class InvalidInput(ServiceError):
    """A well-formed value that we refuse; `details["fields"]` maps a field to its messages."""

    code, status, default = "INVALID_INPUT", 422, "Some values were refused. See details.fields."

    @classmethod
    def for_field(cls, field: str, message: str) -> "InvalidInput":
        """The error of one field."""
        return cls(message, details={"fields": {field: [message]}})


class NotAuthenticated(ServiceError):
    """Nobody, or nobody any more."""

    code, status, default = "NOT_AUTHENTICATED", 401, "Sign in, or send a valid key or token as a bearer credential."


class SecondFactorNeeded(NotAuthenticated):
    """The password is right, and this account has a second factor besides."""

    code, default = "SECOND_FACTOR_NEEDED", "This account has a second factor. Send its code as well, as `code`."


class NotPermitted(ServiceError):
    """Somebody, but not allowed to do this."""

    code, status, default = "NOT_PERMITTED", 403, "You are not allowed to do this. Ask an admin of the organisation."


class QuotaExceeded(NotPermitted):
    """The period's quota is used up."""

    code, default = "QUOTA_EXCEEDED", "The quota of this period is used up."


class ApprovalNeeded(NotPermitted):
    """Held until a person approves."""

    code, default = "APPROVAL_NEEDED", "A person must approve this first."


class ConfirmationNeeded(NotPermitted):
    """Staff must prove that it is them before they touch what opens doors."""

    code, default = "CONFIRMATION_NEEDED", "Confirm that it is you, then do this again."


class NotFound(ServiceError):
    """There is no such thing, or it is not yours."""

    code, status, default = "NOT_FOUND", 404, "There is nothing here by that name."


class MethodNotAllowed(ServiceError):
    """The address does not take this method; the Allow header names those it takes."""

    code, status = "METHOD_NOT_ALLOWED", 405
    default = "This address does not take this method. The Allow header names those it takes."


class Conflict(ServiceError):
    """It stands in the way of something that exists."""

    code, status, default = "CONFLICT", 409, "This already exists or has changed meanwhile."


class TooLarge(ServiceError):
    """More bytes than we take."""

    code, status, default = "TOO_LARGE", 413, "The request is larger than this address takes."


class UnsupportedMediaType(ServiceError):
    """A body of a kind that this address does not read."""

    code, status = "UNSUPPORTED_MEDIA_TYPE", 415
    default = "Bodies of this kind are not read here. Send application/json."


class RateLimited(ServiceError):
    """Too many in this moment; `details["retry_after"]` gives seconds."""

    code, status, default = "RATE_LIMITED", 429, "Too many requests. Wait a moment and try again."


class BackendError(ServiceError):
    """Something outside the process answered wrongly."""

    code, status, default = "BACKEND_FAILED", 502, "A service that we depend on answered wrongly."


class BackendTimeout(BackendError):
    """Something outside the process did not answer in time."""

    code, status, default = "BACKEND_TIMEOUT", 504, "A service that we depend on did not answer in time."


class BackendDown(BackendError):
    """Something outside the process cannot be reached."""

    code, status, default = "BACKEND_DOWN", 503, "A service that we depend on cannot be reached. Try again in a moment."


def envelope(
    code: str, message: str, *, details: Mapping[str, Any] | None = None, request_id: str = ""
) -> dict[str, dict[str, Any]]:
    """The one shape of every error: `{"error": {code, message, details, timestamp, request_id}}`."""
    return {
        "error": {
            "code": code,
            "message": message,
            "details": dict(details or {}),
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": request_id,
        }
    }


def render(error: ServiceError, request_id: str = "") -> dict[str, dict[str, Any]]:
    """The envelope of a service error."""
    return envelope(error.code, error.message, details=error.details, request_id=request_id)
