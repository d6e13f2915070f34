"""One request of an agent while it is answered: who asks, by which client, what is said to it meanwhile."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from apps.core import budget
from apps.core.actor import Actor
from apps.gateway import services as gateway
from apps.registry import services as registry
from config.mcp_messages import HAS_TASKS, INTERNAL_ERROR, META, METHOD_NOT_FOUND, Message, call_message, malformed
from config.mcp_sessions import Session

_TRAVELS = ("progressToken", "traceparent", "tracestate", "baggage", META + "logLevel")


class Answering(Protocol):
    """Takes what has to be said to a client before the result."""

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Whether it will be sent."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request of an agent while it is answered; to the gateway it is the client."""

    actor: Actor
    message: Message
    reply: Answering
    bundle: str
    is_modern: bool
    session: Session | None
    capabilities: Mapping[str, Any]
    info: Mapping[str, Any]
    share: budget.Share | None = None
    at: str = "/mcp"
    way: str = ""
    size: int = 0
    """How long the request is, in bytes; 0 where nobody has counted."""
    _stop: Callable[[], None] | None = None

    def runs(self, stop: Callable[[], None]) -> None:
        """It is under way in its session, which can stop it."""
        self._stop = stop
        if self.session is not None and self.message.id is not None:
            self.session.running[self.message.id] = stop

    def is_out(self) -> None:
        """Its answer is there, and is not taken back; its id may be used for another. May be called again."""
        number, stop = self.message.id, self._stop
        if self.session is None or number is None or stop is None:
            return
        if self.session.running.get(number) == stop:
            del self.session.running[number]

    @property
    def endpoint(self) -> str:
        """Where it was asked, as it is counted."""
        return "/".join(part for part in (self.at, self.bundle, self.way) if part)

    @property
    def session_id(self) -> str | None:
        """Its session."""
        return self.session.id if self.session else None

    @property
    def log_level(self) -> str:
        """How much of servers' logs it wants: said once for a session, or with each request."""
        if self.session is not None:
            return self.session.log_level
        level = self.message.meta.get(META + "logLevel")
        return level if isinstance(level, str) else ""

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Say something on the stream of this request."""
        self.reply.put(call_message(method, params), may_be_dropped=True)

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the client on the stream of this request; raises Refused."""
        question = self.session.ask(self.reply.put, method, params) if self.session else None
        if question is None:
            raise registry.Refused(METHOD_NOT_FOUND, "This client cannot be asked: it takes no event stream.")
        number, answer = question
        try:
            said = await answer
        except asyncio.CancelledError:
            self.reply.put(call_message("notifications/cancelled", {"requestId": number}))
            raise
        error, result = said.get("error"), said.get("result")
        if isinstance(error, Mapping):
            code = error.get("code")
            raise registry.Refused(
                code if type(code) is int else INTERNAL_ERROR, str(error.get("message"))[:1000], error.get("data")
            )
        return dict(result) if isinstance(result, Mapping) else {}

    def as_ask(self) -> gateway.Ask:
        """How the gateway is asked."""
        params = self.message.params
        answers, state = params.get("inputResponses"), params.get("requestState")
        if not (answers is None or isinstance(answers, dict)) or not (state is None or isinstance(state, str)):
            raise malformed("inputResponses is an object and requestState a text.")
        meta = {name: value for name, value in self.message.meta.items() if name in _TRAVELS}
        return gateway.Ask(self, self.endpoint, self.bundle, meta, answers, state, self.share, self.size, self._task())

    @property
    def has_early_tasks(self) -> bool:
        """Whether its revision has the tasks that were experimental in it."""
        return self.session is not None and self.session.version == HAS_TASKS

    def _task(self) -> dict[str, Any] | None:
        """What is said of the task that a call is to be; raises RpcError."""
        if not self.has_early_tasks or self.message.method != "tools/call":
            return None
        task = self.mapping("task")
        if task is None:
            return None
        ttl = task.get("ttl")
        if not (ttl is None or (type(ttl) in (int, float) and ttl >= 0)):
            raise malformed("The ttl of a task is a number of milliseconds.")
        return {} if ttl is None else {"ttl": ttl}

    def text(self, name: str) -> str:
        """A parameter that has to be a text; raises RpcError."""
        value = self.message.params.get(name)
        if not isinstance(value, str) or not value:
            raise malformed(f"{self.message.method} takes {name}, a text.")
        return value

    def mapping(self, name: str, *, is_needed: bool = False) -> dict[str, Any] | None:
        """A parameter that has to be an object; raises RpcError."""
        value = self.message.params.get(name)
        if not isinstance(value, dict) and (is_needed or value is not None):
            raise malformed(f"{self.message.method} takes {name}, an object.")
        return value
