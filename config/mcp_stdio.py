"""MCP over standard input and output, for one client: a line is a message.

The same methods as over HTTP, and the same sessions, of which there is one. Requests are answered as they are ready,
not in their order; what has to be said before a result is simply written.
"""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

from django.conf import settings
from django.db import InterfaceError, OperationalError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request

from apps.auth import services as auth
from apps.core import logs
from apps.core.actor import Actor
from apps.core.doors import read_json
from apps.core.errors import Malformed, ServiceError
from apps.core.threads import in_thread
from apps.gateway import services as gateway
from config.mcp_exchange import Exchange
from config.mcp_messages import (
    INVALID_REQUEST,
    META,
    Message,
    RpcError,
    as_rpc_error,
    error_message,
    read_message,
    result_message,
)
from config.mcp_methods import answer, hello
from config.mcp_notices import Changes, Telling, changes_of
from config.mcp_sessions import Session, owner_of
from config.outages import as_outage

logger = logging.getLogger(__name__)

HERE = "127.0.0.1"
"""From where somebody calls over standard input: this machine. A key that is bound to addresses has to allow it."""
MOST_AT_ONCE = 64
MOST_UNDER_WAY = 1024
"""How many requests are taken before the next one is refused; those beyond MOST_AT_ONCE wait for their turn."""
WATCH_SECONDS = 1.0
LAST_ANSWERS_SECONDS = 2.0
PARSE_ERROR = -32700


class Lines:
    """Standard output, written in order by one thread, and standard input, read by another."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[bytes] = asyncio.Queue()
        self._lock = threading.Lock()
        self.readers = 1
        threading.Thread(target=self._listen, name="stdin", daemon=True).start()

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Write a message; False where nobody reads any more."""
        with self._lock, suppress(OSError, ValueError):
            sys.stdout.buffer.write(message + b"\n")
            sys.stdout.buffer.flush()
            return True
        return False

    @property
    def is_read(self) -> bool:
        """Whether everything has been sent: a write ends when it is."""
        return True

    def end(self) -> None:
        """The end of the session; the stream stays."""

    async def next(self) -> bytes | None:
        """The next line, or None at the end."""
        return await self._read.get() or None

    def _listen(self) -> None:
        limit: int = settings.MAX_BODY_BYTES
        while line := sys.stdin.buffer.readline(limit + 1):
            self._loop.call_soon_threadsafe(self._read.put_nowait, line)
        with suppress(RuntimeError):  # the loop may have ended before
            self._loop.call_soon_threadsafe(self._read.put_nowait, b"")


class Conversation:
    """One client and what it has under way."""

    def __init__(self, lines: Lines, admit: Callable[[], Awaitable[Actor]]) -> None:
        self._lines = lines
        self._admit = admit
        self._session: Session | None = None
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: dict[str | int, asyncio.Task[None]] = {}
        self._lasting: set[asyncio.Task[None]] = set()
        self._changes: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Answer until the input ends."""
        try:
            while (line := await self._lines.next()) is not None:
                if line.strip():
                    await self._hear(line)
            await self._answer_the_rest()
        finally:
            await self._end()

    async def _hear(self, line: bytes) -> None:
        try:
            message = read_message(read_json(line))
        except Malformed as error:
            number, told = _id_of(line), as_rpc_error(error)
            code = PARSE_ERROR if number is None else told.code
            self._lines.put(error_message(number, RpcError(code, told.message, told.data)))
            return
        except RpcError as error:
            self._lines.put(error_message(None, error))
            return
        if message.is_request:
            assert message.id is not None  # noqa: S101 - it is a request
            if message.id in self._tasks or len(self._tasks) >= MOST_UNDER_WAY:
                said = "A request of this id is under way." if message.id in self._tasks else "Too many are under way."
                self._lines.put(error_message(message.id, RpcError(INVALID_REQUEST, said)))
                return
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._tasks[message.id] = task
            if message.method == "subscriptions/listen":
                self._lasting.add(task)
            task.add_done_callback(lambda done: self._ended(message.id, done))
        elif not message.method and self._session is not None:
            self._session.answered(message.id, message.body)
        elif message.method == "notifications/cancelled":
            task_of = self._tasks.get(message.cancels)
            if task_of is not None:
                task_of.cancel()
        elif self._session is not None:
            self._session.heard(message.method, message.params)

    def _ended(self, number: str | int | None, done: "asyncio.Task[None]") -> None:
        self._lasting.discard(done)
        if number is not None and self._tasks.get(number) is done:
            del self._tasks[number]

    async def _answer(self, message: Message) -> None:
        # The turn is waited for here and not by who reads: what is under way may wait for the next line.
        async with AsyncExitStack() as turn:
            if message.method != "subscriptions/listen":
                await turn.enter_async_context(self._room)
            await self._answer_now(message)

    async def _answer_now(self, message: Message) -> None:
        mark = logs.current_actor.set(None)
        try:
            actor = await self._actor()
            logs.current_actor.set(actor)
            if message.method == "initialize":
                body = await self._initialize(actor, message)
            elif META + "protocolVersion" in message.meta:
                body = await self._answer_modern(actor, message)
            else:
                body = await self._answer_legacy(actor, message)
        except RpcError as error:
            body = error_message(message.id, error)
        except Exception as error:
            refused = error if isinstance(error, ServiceError) else as_outage(error) or ServiceError()
            if refused.code == ServiceError.code:
                logger.exception("A message could not be answered.")
            body = error_message(message.id, as_rpc_error(refused))
        finally:
            logs.current_actor.reset(mark)
        self._lines.put(body)

    async def _actor(self) -> Actor:
        try:
            return await self._admit()
        except ServiceError as error:
            raise as_rpc_error(error) from error

    async def _initialize(self, actor: Actor, message: Message) -> bytes:
        version, said = await hello(actor, message.params, "")
        info = message.params.get("clientInfo")
        session = Session(
            "stdio", owner_of(actor), actor.organization_id, "", version, message.params.get("capabilities") or {},
            info if isinstance(info, dict) else {},
        )  # fmt: skip
        if self._session is not None:
            self._session.end()
        session.notices = self._lines
        self._session = session
        self._watch(changes_of(session))
        assert message.id is not None  # noqa: S101 - it is a request
        return result_message(message.id, said)

    async def _answer_legacy(self, actor: Actor, message: Message) -> bytes:
        session = self._session
        if session is None:
            raise RpcError(INVALID_REQUEST, "There is no session yet: begin with initialize.")
        return await answer(
            Exchange(
                actor, message, self._lines, "", False, session, session.capabilities, session.client_info, at="stdio"
            )
        )

    async def _answer_modern(self, actor: Actor, message: Message) -> bytes:
        verdict = classify_inbound_request(message.body)
        if isinstance(verdict, InboundLadderRejection):
            raise RpcError(verdict.code, verdict.message, verdict.data)
        capabilities = verdict.client_capabilities
        exchange = Exchange(
            actor, message, self._lines, "", True, None, capabilities if isinstance(capabilities, dict) else {},
            verdict.client_info if isinstance(verdict.client_info, dict) else {}, at="stdio",
        )  # fmt: skip
        if message.method == "subscriptions/listen":
            return await self._listen(actor, message)
        return await answer(exchange)

    async def _listen(self, actor: Actor, message: Message) -> bytes:
        telling = Telling(actor, message, "", self._lines)
        try:
            await telling.begin()
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                await telling.changes.look(await self._actor())
        finally:
            telling.end()

    def _watch(self, changes: Changes) -> None:
        async def look() -> None:
            while True:
                with suppress(RpcError, ServiceError, OperationalError, InterfaceError):
                    await changes.look(await self._actor())
                await asyncio.sleep(WATCH_SECONDS)

        if self._changes is not None:
            self._changes.cancel()
        self._changes = asyncio.get_running_loop().create_task(look())

    async def _answer_the_rest(self) -> None:
        """Who closes the input after a question may still read the answer, if that is ready soon."""
        pending = set(self._tasks.values()) - self._lasting
        if pending:
            await asyncio.wait(pending, timeout=LAST_ANSWERS_SECONDS)

    async def _end(self) -> None:
        pending = [*self._tasks.values(), *([self._changes] if self._changes else [])]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self._session is not None:
            self._session.end()
        gateway.parking_lot().end_all()


def _id_of(line: bytes) -> str | int | None:
    """The id of a message that is refused, where it can be told: its sender waits for the answer to it."""
    try:
        number = json.loads(line).get("id")
    except (ValueError, AttributeError, RecursionError):
        return None
    return number if isinstance(number, str) or type(number) is int else None


async def serve_stdio(credential: str) -> None:
    """Serve one client over standard input and output until it closes the input."""

    async def admit() -> Actor:
        audience: str = settings.MCP_AUDIENCE
        known = auth.known_actor(credential, surface="mcp", audience=audience, address=HERE)
        if known is not None:
            return known
        return await in_thread(auth.actor_from_bearer, credential, surface="mcp", audience=audience, address=HERE)

    await Conversation(Lines(), admit).serve()
