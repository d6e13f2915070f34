"""One client that is told everything one way, answers and all else: what it has under way, and how that ends.

Standard output is such a way, and so is the stream of HTTP+SSE. Requests are answered as they are ready, not in their
order; what has to be said before a result is simply said.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Protocol

from apps.core import budget, logs
from apps.core.actor import Actor
from apps.core.errors import ServiceError
from config.mcp_exchange import Exchange
from config.mcp_messages import INVALID_REQUEST, Message, RpcError, as_rpc_error, error_message, result_message
from config.mcp_methods import answer, hello
from config.mcp_rights import still_allowed, while_allowed
from config.mcp_sessions import Session
from config.outages import as_outage

logger = logging.getLogger(__name__)
Admit = Callable[[], Awaitable[Actor]]

MOST_AT_ONCE = 64
MOST_UNDER_WAY = 1024
"""How many requests are taken before the next one is refused; those beyond MOST_AT_ONCE wait for their turn."""
MOST_BYTES_UNDER_WAY = 16_777_216
"""How long all requests under way may be together: who sends one more may well be told at once, and so goes on."""
LISTEN = "subscriptions/listen"
"""The method whose answer comes when its client wants no more: it takes nobody's turn."""


class Way(Protocol):
    """Takes what is said to a client."""

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Whether it will be sent."""

    async def deliver(self, message: bytes) -> None:
        """Send an answer; returns when it has left, or nobody takes it."""


class Conversation:
    """One client and what it has under way. Each door says how a session begins."""

    at, way_name = "/mcp", ""

    def __init__(self, way: Way, bundle: str = "") -> None:
        self.session: Session | None = None
        """The session once it has begun."""
        self.running: dict[str | int, Callable[[], None]] = {}
        """What stops a request, by its id, as long as its answer is not on its way."""
        self.bundle = bundle
        self._way = way
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: dict[asyncio.Task[None], Message] = {}
        self._bytes = 0

    def begin(self, actor: Actor, version: str, capabilities: Mapping[str, Any], client: Mapping[str, Any]) -> None:
        """Begin the session, at `initialize`; may raise RpcError."""
        raise NotImplementedError

    def hear(self, message: Message, size: int, admit: Admit) -> None:
        """Take a message of so many bytes; what is asked is answered when that is ready."""
        if message.is_request:
            self._take(message, size, admit)
        elif message.method == "notifications/cancelled":
            stop = self.running.get(message.cancels)
            if stop is not None:
                stop()
        elif self.session is None:
            return
        elif not message.method:
            self.session.answered(message.id, message.body)
        else:
            self.session.heard(message.method, message.params)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and no answer on its way."""
        return not self._tasks

    async def end(self) -> None:
        """Stop everything under way; returns when it has stopped."""
        pending = list(self._tasks)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _take(self, message: Message, size: int, admit: Admit) -> None:
        assert message.id is not None  # noqa: S101 - it is a request
        is_too_long = bool(self._tasks) and self._bytes + size > MOST_BYTES_UNDER_WAY
        if message.id in self.running or len(self._tasks) >= MOST_UNDER_WAY or is_too_long:
            said = "A request of this id is under way." if message.id in self.running else "Too many are under way."
            self._way.put(error_message(message.id, RpcError(INVALID_REQUEST, said)))
            return
        number, task = message.id, asyncio.get_running_loop().create_task(self._answer(message, admit))

        def stop() -> None:
            del self.running[number]
            task.cancel()

        self.running[number] = stop
        self._tasks[task] = message
        self._bytes += size
        task.add_done_callback(lambda done: self._ended(done, size))

    def _ended(self, done: "asyncio.Task[None]", size: int) -> None:
        del self._tasks[done]
        self._bytes -= size

    async def _answer(self, message: Message, admit: Admit) -> None:
        assert message.id is not None  # noqa: S101 - it is a request
        # The turn is waited for here and not by who hears: what is under way may wait for the next message.
        async with AsyncExitStack() as turn:
            if message.method != LISTEN:
                await turn.enter_async_context(self._room)
            held = turn.enter_context(ExitStack())
            body = await self._answer_of(message, admit, held)
            self.running.pop(message.id, None)  # an answer on its way is not taken back
            await self._way.deliver(body)

    async def _answer_of(self, message: Message, admit: Admit, held: ExitStack) -> bytes:
        """The answer as bytes, which count as held until they have left."""
        logs.current_actor.set(None)
        try:
            actor = await admit()
            logs.current_actor.set(actor)
            share = held.enter_context(budget.share_for(actor.organization_id))
            answering = self.answer(actor, message, share)
            return await while_allowed(answering, still_allowed(admit, message, self.bundle))
        except RpcError as error:
            return error_message(message.id, error)
        except Exception as error:
            refused = error if isinstance(error, ServiceError) else as_outage(error) or ServiceError()
            if refused.code == ServiceError.code:
                logger.exception("A message could not be answered.")
            return error_message(message.id, as_rpc_error(refused))

    async def answer(self, actor: Actor, message: Message, share: budget.Share) -> bytes:
        """The answer to a request within a session, or to the one that begins it; raises RpcError."""
        if message.method == "initialize":
            return await self._initialize(actor, message)
        session = self.session
        if session is None:
            raise RpcError(INVALID_REQUEST, "There is no session yet: begin with initialize.")
        return await answer(
            Exchange(
                actor, message, self._way, self.bundle, False, session, session.capabilities, session.client_info,
                share, at=self.at, way=self.way_name,
            )
        )  # fmt: skip

    async def _initialize(self, actor: Actor, message: Message) -> bytes:
        version, said = await hello(actor, message.params, self.bundle)
        info = message.params.get("clientInfo")
        self.begin(actor, version, message.params.get("capabilities") or {}, info if isinstance(info, dict) else {})
        assert message.id is not None  # noqa: S101 - it is a request
        return result_message(message.id, said)
