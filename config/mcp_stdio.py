"""MCP over standard input and output, for one client: a line is a message.

The same methods as over HTTP, and the same sessions, of which there is one. Requests are answered as they are ready,
not in their order; what has to be said before a result is simply written.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request

from apps.auth import services as auth
from apps.core import budget
from apps.core.actor import Actor
from apps.core.doors import read_json
from apps.core.errors import Malformed, ServiceError
from apps.core.threads import in_thread
from apps.gateway import services as gateway
from config.mcp_conversation import LISTEN, Admit, Conversation
from config.mcp_exchange import Exchange
from config.mcp_messages import META, Message, RpcError, as_rpc_error, error_message, read_message
from config.mcp_methods import answer
from config.mcp_notices import Changes, Telling, changes_of
from config.mcp_sessions import Session, owner_of

HERE = "127.0.0.1"
"""From where somebody calls over standard input: this machine. A key that is bound to addresses has to allow it."""
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

    async def deliver(self, message: bytes) -> None:
        """Write an answer."""
        self.put(message)

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


class StdioConversation(Conversation):
    """One client over standard input and output, in either era."""

    at = "stdio"

    def __init__(self, lines: Lines, admit: Admit) -> None:
        super().__init__(lines)
        self._lines = lines
        self._admit = admit
        self._changes: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Answer until the input ends."""
        try:
            while (line := await self._lines.next()) is not None:
                if line.strip():
                    self._read(line)
            await self._answer_the_rest()
        finally:
            await self.end()

    def _read(self, line: bytes) -> None:
        try:
            message = read_message(read_json(line))
        except Malformed as error:
            number, told = _id_of(line), as_rpc_error(error)
            code = PARSE_ERROR if number is None else told.code
            self._lines.put(error_message(number, RpcError(code, told.message, told.data)))
        except RpcError as error:
            self._lines.put(error_message(None, error))
        else:
            self.hear(message, len(line), self._admit)

    def begin(self, actor: Actor, version: str, capabilities: Mapping[str, Any], client: Mapping[str, Any]) -> None:
        """Begin a session, or another one in the place of the last."""
        session = Session("stdio", owner_of(actor), actor.organization_id, "", version, capabilities, client)
        if self.session is not None:
            self.session.end()
        session.notices = self._lines
        self.session = session
        self._watch(changes_of(session))

    async def answer(self, actor: Actor, message: Message, share: budget.Share) -> bytes:
        """The answer to a request of either era; raises RpcError."""
        if message.method == "initialize" or META + "protocolVersion" not in message.meta:
            return await super().answer(actor, message, share)
        verdict = classify_inbound_request(message.body)
        if isinstance(verdict, InboundLadderRejection):
            raise RpcError(verdict.code, verdict.message, verdict.data)
        if message.method == LISTEN:
            return await self._listen(actor, message)
        capabilities, info = (
            each if isinstance(each, dict) else {} for each in (verdict.client_capabilities, verdict.client_info)
        )
        return await answer(
            Exchange(actor, message, self._lines, "", True, None, capabilities, info, share, at=self.at)
        )  # fmt: skip

    async def _listen(self, actor: Actor, message: Message) -> bytes:
        telling = Telling(actor, message, "", self._lines)
        try:
            await telling.begin()
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                await telling.changes.look(await self._admit())
        finally:
            telling.end()

    def _watch(self, changes: Changes) -> None:
        async def look() -> None:
            while True:
                with suppress(RpcError, ServiceError, OperationalError, InterfaceError):
                    await changes.look(await self._admit())
                await asyncio.sleep(WATCH_SECONDS)

        if self._changes is not None:
            self._changes.cancel()
        self._changes = asyncio.get_running_loop().create_task(look())

    async def _answer_the_rest(self) -> None:
        """Who closes the input after a question may still read the answer, if that is ready soon."""
        pending = [task for task, message in self._tasks.items() if message.method != LISTEN]
        if pending:
            await asyncio.wait(pending, timeout=LAST_ANSWERS_SECONDS)

    async def end(self) -> None:
        """Stop everything, and close what the session opened."""
        if self._changes is not None:
            self._changes.cancel()
            await asyncio.gather(self._changes, return_exceptions=True)
        await super().end()
        if self.session is not None:
            self.session.end()
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

    await StdioConversation(Lines(), admit).serve()
