"""The HTTP+SSE of 2024-11-05 towards agents: one stream for all that they are told, and POSTs for what they say.

A session begins with its stream and ends with it: then everything in it is cancelled, and what it opened at servers is
closed. Each POST is checked like one to `/mcp` and answered 202; the answer to its message comes on the stream.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from django.conf import settings

from apps.core import budget
from apps.core.actor import Actor
from config.mcp_conversation import Admit, Conversation
from config.mcp_listening import while_admitted
from config.mcp_messages import (
    INVALID_REQUEST,
    LEGACY,
    META,
    UNSUPPORTED_VERSION,
    Message,
    RpcError,
    read_message,
)
from config.mcp_notices import changes_of
from config.mcp_request import Request, session_of
from config.mcp_sessions import Session
from config.mcp_streams import KEPT_BYTES, MOST_WAITING_BYTES, Stream

STREAM, MESSAGES = "sse", "messages"
"""The last part of each of the two addresses, and therefore no slug of a bundle."""


class Wire(Stream):
    """The one stream of a session. What has been promised is not dropped: answers wait, one is on its way at a time."""

    def __init__(self, opening: bytes) -> None:
        super().__init__(opening=opening)
        self._turn = asyncio.Lock()
        self._answer_bytes = 0
        self._has_moved = asyncio.Event()

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Add a notice or a question; False where too much waits already, beside the answer on its way."""
        waiting = self._waiting_bytes()
        if waiting and waiting + len(message) > (KEPT_BYTES if may_be_dropped else MOST_WAITING_BYTES):
            return False
        return super().put(message)

    async def deliver(self, message: bytes) -> None:
        """Send an answer; returns when it has left, or the stream has ended."""
        async with self._turn:
            if not super().put(message):
                return
            number, self._answer_bytes = self._first + len(self._events) - 1, len(message)
            while self._read_to < number and not self.is_ended:
                self._has_moved.clear()
                await self._has_moved.wait()
            self._answer_bytes = 0

    def end(self) -> None:
        """Nothing follows."""
        super().end()
        self._has_moved.set()

    def _waiting_bytes(self) -> int:
        return max(0, super()._waiting_bytes() - self._answer_bytes)

    def _forget(self) -> None:
        """Drop what was sent, which nobody can read again, and nothing else."""
        while self._events and self._first <= self._read_to:
            self._drop()
        self._has_moved.set()


class SseConversation(Conversation):
    """One client of a stream; its session is there before it begins, so that the stream can name it."""

    way_name = STREAM

    def __init__(self, wire: Wire, session: Session, admit: Admit) -> None:
        super().__init__(wire, session.bundle)
        self._wire = wire
        self._opened = session
        self._admit = admit
        session.running, session.streams[""], session.conversation = self.running, wire, self

    async def admitted(self) -> Actor:
        """Who asks, by the credential that came last: a token ends sooner than a stream."""
        return await self._admit()

    def hear(self, message: Message, size: int, admit: Admit) -> None:
        """Take a message that a POST has brought, with its credential."""
        self._admit = admit
        super().hear(message, size, admit)

    def begin(self, actor: Actor, version: str, capabilities: Mapping[str, Any], client: Mapping[str, Any]) -> None:
        """Begin the session, once."""
        if self.session is not None:
            raise RpcError(INVALID_REQUEST, "The session has begun already. Open another stream for another one.")
        session = self.session = self._opened
        session.version, session.capabilities, session.client_info = version, capabilities, client
        session.notices = self._wire

    async def answer(self, actor: Actor, message: Message, share: budget.Share) -> bytes:
        """The answer to a request; raises RpcError, also for the revision that has no sessions."""
        asked = message.meta.get(META + "protocolVersion")
        if asked is not None and message.method != "initialize":
            told = {"supported": list(LEGACY), "requested": asked}
            raise RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", told)
        return await super().answer(actor, message, share)


async def open_stream(request: Request, admit: Admit) -> None:
    """GET: a session, and its stream until one side ends."""
    if not request.accepts("text/event-stream"):
        await request.give_error(406, RpcError(INVALID_REQUEST, "Accept text/event-stream."))
        return
    here = request.here
    session: Session = here.sessions.open(
        request.actor, bundle=request.bundle, version="", capabilities={}, client_info={}
    )
    name = here.relay.public_id(session.id) if here.relay is not None else session.id
    wire = Wire(f"event: endpoint\ndata: {_address_of(request.bundle)}?session_id={name}\n\n".encode())
    conversation = SseConversation(wire, session, admit)
    changes = changes_of(session)
    try:
        await changes.look(request.actor)  # before the client sees a list, so that no change after it goes untold
        await while_admitted(
            request, wire.copy(request.send), conversation.admitted, changes,
            only_listens=lambda: conversation.is_idle and wire.is_read,
        )  # fmt: skip
    finally:
        here.sessions.end(session)
        await conversation.end()


async def take(request: Request, parsed: Any, admit: Admit) -> None:
    """POST: one message of a session whose stream is open."""
    try:
        message = read_message(parsed)
    except RpcError as error:
        await request.give_error(400, error)
        return
    session = await session_of(request, message.id, is_piped=True)
    if session is not None and session.conversation is not None:
        session.conversation.hear(message, len(request.body), admit)
        await request.give(202)


def _address_of(bundle: str) -> str:
    return "/".join(part for part in (settings.MCP_PATH, bundle, MESSAGES) if part)
