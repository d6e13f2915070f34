"""JSON-RPC as agents speak it: the messages that come in, and the answers as bytes."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from apps.core import logs
from apps.core.errors import (
    BackendError,
    InvalidInput,
    Malformed,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RateLimited,
    ServiceError,
    render,
)

MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""The revisions that begin with `initialize`, oldest first."""
HAS_TASKS = "2025-11-25"
"""The one of them in which a client may ask for a call to be a task."""

INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32600, -32601, -32602, -32603
RESOURCE_NOT_FOUND = -32002
"""What the revisions before 2026-07-28 answer for a resource that does not exist."""
REFUSED = -32000
"""A request that was understood and not carried out: `data.code` says why."""
HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32020, -32021, -32022

META = "io.modelcontextprotocol/"
SERVER_INFO = META + "serverInfo"
SUBSCRIPTION_ID = META + "subscriptionId"
ERROR = "gatehouse/error"
UNAVAILABLE = "gatehouse/unavailable"

_STATUS = {
    INVALID_REQUEST: 400, INVALID_PARAMS: 400, HEADER_MISMATCH: 400, MISSING_CAPABILITY: 400, UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}  # fmt: skip
"""What HTTP says of a JSON-RPC error in 2026-07-28; in the revisions before, errors have status 200."""
_LONGEST_ID = 256


class RpcError(Exception):
    """A JSON-RPC error on its way to the caller."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a client; a request has an id and a method, a notification no id, an answer no method."""

    id: str | int | None
    method: str
    params: dict[str, Any]
    body: Mapping[str, Any]

    @property
    def is_request(self) -> bool:
        """Whether it wants an answer."""
        return self.id is not None and bool(self.method)

    @property
    def meta(self) -> dict[str, Any]:
        """What it says about itself."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}

    @property
    def cancels(self) -> str | int:
        """The id of the request that a notification cancels; empty, which is nobody's, for what is no id."""
        number: Any = self.params.get("requestId")
        wanted: str | int = number if _is_id(number) else ""
        return wanted


def read_message(parsed: Any) -> Message:
    """One message out of a parsed body; raises RpcError for a batch and for what is no message."""
    if not isinstance(parsed, dict) or parsed.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, "Send one JSON-RPC 2.0 message at a time; there are no batches here.")
    method, params = parsed.get("method"), parsed.get("params")
    if "id" in parsed and not _is_id(parsed["id"]):
        raise RpcError(INVALID_REQUEST, "The id of a message is a text or an integer.")
    if method is None and "id" in parsed and ("result" in parsed) != ("error" in parsed):
        return Message(parsed["id"], "", {}, parsed)
    if not isinstance(method, str) or not method:
        raise RpcError(INVALID_REQUEST, "The message is neither a request nor a notification nor an answer.")
    if params is not None and not isinstance(params, dict):
        raise RpcError(INVALID_REQUEST, "The params of a message are an object.")
    return Message(parsed.get("id"), method, params or {}, parsed)


def _is_id(value: Any) -> bool:
    return (type(value) is int) or (isinstance(value, str) and 0 < len(value) <= _LONGEST_ID)


def result_message(number: str | int, result: Mapping[str, Any]) -> bytes:
    """The answer to a request."""
    return b"".join((b'{"jsonrpc":"2.0","id":', orjson.dumps(number), b',"result":', orjson.dumps(result), b"}"))


def result_with_list(number: str | int, kind: str, listed: bytes, rest: Mapping[str, Any]) -> bytes:
    """The answer to a request for a list that is there as bytes."""
    more = orjson.dumps(rest)[1:]
    return b"".join((
        b'{"jsonrpc":"2.0","id":', orjson.dumps(number), b',"result":{"', kind.encode(), b'":', listed,
        b"," if rest else b"", more, b"}",
    ))  # fmt: skip


def error_message(number: str | int | None, error: RpcError) -> bytes:
    """The answer to a request that fails; without its data where that is a server's and too deep for JSON."""
    inner: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        with suppress(TypeError):
            return orjson.dumps({"jsonrpc": "2.0", "id": number, "error": {**inner, "data": error.data}})
    return orjson.dumps({"jsonrpc": "2.0", "id": number, "error": inner})


def call_message(method: str, params: Mapping[str, Any] | None, number: str | int | None = None) -> bytes:
    """A notification to a client, or with a number a request."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        message["id"] = number
    if params:
        message["params"] = params
    return orjson.dumps(message)


def status_of(error: RpcError, *, is_modern: bool) -> int:
    """The HTTP status that goes with an error."""
    return _STATUS.get(error.code, 200) if is_modern else 200


def as_rpc_error(error: ServiceError) -> RpcError:
    """A refusal of ours in JSON-RPC's shape, with the envelope's error in `data`."""
    return RpcError(_code_of(error), error.message, inner_error(error))


def malformed(message: str) -> RpcError:
    """The refusal of parameters that are not what a method takes."""
    return as_rpc_error(Malformed(message))


def _code_of(error: ServiceError) -> int:
    if isinstance(error, NotFound | InvalidInput | Malformed):
        return INVALID_PARAMS
    if isinstance(error, NotAuthenticated):
        return INVALID_REQUEST
    if isinstance(error, NotPermitted | RateLimited | BackendError) or error.code != ServiceError.code:
        return REFUSED
    return INTERNAL_ERROR


def inner_error(error: ServiceError) -> dict[str, Any]:
    """The envelope's error."""
    found: dict[str, Any] = render(error, logs.request_id.get())["error"]
    return found


def error_result(error: ServiceError) -> dict[str, Any]:
    """A failed call as a model reads it: what failed and what to try, with the envelope's error for programs."""
    inner = inner_error(error)
    lines = [error.message]
    fields = error.details.get("fields")
    if isinstance(fields, dict):
        lines += [f"{field}: {' '.join(messages)}" for field, messages in fields.items()]
    if error.code == ServiceError.code:
        lines.append(f"Request id: {inner['request_id']}")
    return {"content": [{"type": "text", "text": "\n".join(lines)}], "isError": True, "_meta": {ERROR: inner}}
