"""Which failures are a server's outage, and how a caller is told about them: by the server's name, with what to do."""

from apps.core.errors import BackendDown, BackendError, BackendTimeout, TooLarge
from apps.core.logs import redact
from apps.registry import services as registry

LONGEST_MESSAGE = 500
_SERVER_FAULT = 500


class Busy(BackendTimeout):
    """No call slot became free in time."""


class Crowded(Busy):
    """There was no room for the answer in time."""


class Paused(BackendDown):
    """A process that ended by itself is not started again yet."""


class ServerRefused(registry.UpstreamError):
    """A server's own JSON-RPC error, with the server's name; `said` is what it said itself."""

    def __init__(self, error: registry.UpstreamError, route: registry.ServerRoute) -> None:
        self.said = without_secrets(error.message, route)
        super().__init__(error.rpc_code, f"The server {route.slug} refused the call: {self.said}", error.data)
        self.details["server"] = route.slug


def busy(route: registry.ServerRoute) -> Busy:
    """The error of a call that found no slot in time."""
    return Busy(
        f"The server {route.slug} is busy: {route.max_concurrency} calls are running. Try again in a moment.",
        details={"server": route.slug},
    )


def crowded(route: registry.ServerRoute) -> Crowded:
    """The error of a call whose answer was not read to its end, because too much was held already."""
    return Crowded(
        f"The answer of the server {route.slug} is large, and so are others that are on their way just now: there was"
        " no room for it in time. Try again in a moment, or ask for less.",
        details={"server": route.slug, "retry_after": 1},
    )


def unanswered(route: registry.ServerRoute) -> registry.Unanswered:
    """The error of a call whose client was asked something, and did not answer."""
    return registry.Unanswered(
        f"The server {route.slug} asked a question in the middle of this call, and nobody answered it in time: the call"
        " was given up. Call again when somebody is there to answer.",
        details={"server": route.slug},
    )


def is_outage(error: BackendError) -> bool | None:
    """Whether the server as a whole is at fault: it did not answer, or broke off. None: this says nothing of it."""
    if isinstance(error, Busy | Paused | registry.Unanswered):
        return None
    if isinstance(error, registry.UpstreamError) or isinstance(error.__cause__, TooLarge):
        return False
    return not isinstance(error, registry.HttpRefusal) or error.http_status >= _SERVER_FAULT


def named(error: BackendError, route: registry.ServerRoute) -> BackendError:
    """The error with the server's name in it, and what to do next."""
    again = "Try again in a moment; if it stays so, ask an admin to look at it under Servers."
    kind: type[BackendError] = BackendError
    if isinstance(error, registry.UpstreamError):
        return ServerRefused(error, route)
    if isinstance(error, registry.Unanswered):
        return unanswered(route)
    if isinstance(error, BackendTimeout):
        kind = BackendTimeout
        message = f"The server {route.slug} did not answer within {route.timeout_seconds:g} seconds. {again}"
    elif isinstance(error, BackendDown):
        kind = BackendDown
        message = f"The server {route.slug} cannot be reached. {again}"
    else:
        message = f"The server {route.slug} answered wrongly: {without_secrets(error.message, route)} {again}"
    return kind(message, details={**error.details, "server": route.slug})


def without_secrets(text: str, route: registry.ServerRoute) -> str:
    """A message of the server, shortened, and without anything that looks like a secret."""
    return str(redact(registry.without_secrets(text, registry.secrets_of(route))))[:LONGEST_MESSAGE]
