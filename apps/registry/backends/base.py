"""What every way to a server has in common: the route to it, and the Protocol of its client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from apps.core.errors import BackendError, BackendTimeout

NEWEST = "2026-07-28"
HAS_TASKS = "2025-11-25"
"""The revision that has tasks of its own; in the one after it they are an extension, and another protocol."""
ParamHeaders = tuple[tuple[tuple[str, ...], str], ...]
"""Which arguments of a tool a 2026-07-28 call repeats in its headers: (path in the arguments, name of the header)."""


@dataclass(frozen=True, slots=True)
class ServerRoute:
    """All that is needed to reach a server, without the database. Headers and variables may hold secrets."""

    id: UUID
    organization_id: UUID
    slug: str
    name: str
    transport: str
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    command: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 30.0
    max_concurrency: int = 16
    isolate_sessions: bool = False
    protocol_version: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    tags: tuple[str, ...] = ()
    param_headers: Mapping[str, ParamHeaders] = field(default_factory=dict, repr=False)
    known_secrets: list[str] | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def reaches(self) -> tuple[object, ...]:
        """What it leads to."""
        return self.transport, self.url, self.command, self.env

    @property
    def is_modern(self) -> bool:
        """Whether it is known to speak 2026-07-28: no sessions, and questions in results."""
        return self.protocol_version >= NEWEST

    @property
    def runs_tasks(self) -> bool:
        """Whether it carries out calls as tasks in the manner of 2025-11-25."""
        return runs_tasks(self.protocol_version, self.capabilities)


def runs_tasks(version: str, capabilities: Mapping[str, Any]) -> bool:
    """Whether a server of this revision that declares this carries out calls of tools as tasks of 2025-11-25."""
    found: Any = capabilities
    for name in ("tasks", "requests", "tools", "call"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return version == HAS_TASKS and isinstance(found, Mapping)


@dataclass(frozen=True, slots=True)
class Hello:
    """What a server says about itself. All but the version is empty when a known 2026-07-28 server was not asked."""

    protocol_version: str
    server_info: dict[str, Any] = field(default_factory=dict)
    capabilities: dict[str, Any] = field(default_factory=dict)
    instructions: str = ""


class UpstreamError(BackendError):
    """The server answered a request with a JSON-RPC error: it lives, and refuses."""

    def __init__(self, rpc_code: int, message: str, data: Any = None) -> None:
        super().__init__(message, details={"rpc_code": rpc_code})
        self.rpc_code = rpc_code
        self.data = data


class HttpRefusal(BackendError):
    """The server answered with an HTTP status that carries no JSON-RPC message."""

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(message, details={"http_status": http_status})
        self.http_status = http_status


class Unanswered(BackendTimeout):
    """A server asked the caller something in the middle of a request, and nobody answered while its time ran out."""


class Refused(Exception):
    """What a listener raises where it does not answer a question: the JSON-RPC error that the server gets."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Listener(Protocol):
    """Who hears what a server says beside its answers, and is asked what the server asks."""

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Hear a notification. Called in the middle of reading, so it returns at once; it may come from any task."""

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Give the result of a question: sampling/createMessage, elicitation/create or roots/list.

        Raises Refused. Cancelled where the server takes its question back, or where what it belonged to has ended.
        """


class Upstream(Protocol):
    """A client of one server. It belongs to the event loop that opened it."""

    @property
    def is_open(self) -> bool:
        """Whether requests can be made: opened, not closed, its process (if it has one) alive."""

    @property
    def protocol_version(self) -> str:
        """The revision that is spoken; empty before `open`."""

    async def open(self) -> Hello:
        """Connect and agree on a revision. Costs no request where the route knows that the server speaks 2026-07-28.

        Raises BackendDown, BackendTimeout or BackendError.
        """

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float,
        listener: Listener | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one request and give its JSON-RPC result.

        The listener hears the request's progress, under the token in the `_meta` of the parameters, and whatever else
        belongs to it; a result of 2026-07-28 that asks for more input is given only to who listens. While the listener
        is asked something, the time limit stands still, for ten minutes at most. `capabilities` are what the caller can
        do; only 2026-07-28 says so with each request.

        Raises UpstreamError for a JSON-RPC error, BackendTimeout when the whole exchange took longer, Unanswered when
        the time was up while the listener was asked, BackendDown when the server cannot be reached or ended,
        BackendError for an answer that breaks the protocol or the size limit.
        """

    async def listen(self, notices: Mapping[str, Any], listener: Listener) -> None:
        """Hear what a server says unasked, until cancelled or until this upstream is not open any more.

        `notices` are the parameters of `subscriptions/listen`, for a server of 2026-07-28; one of the older era says
        all that it has to say. What breaks off is begun again; what was said meanwhile is lost where the server does
        not keep it. Raises BackendDown before `open` and after the end.
        """

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification; nothing comes back, and a failure to send it is not told."""

    async def aclose(self) -> None:
        """End the session, or the process and all its descendants. May be called twice."""
