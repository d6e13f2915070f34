"""One message over HTTP, in either era: checked as its revision wants it, answered, and told with the right status.

Up to 2025-11-25 a session begins with `initialize` and lives on; 2026-07-28 has none: every request says by itself who
asks and how, and its headers repeat what proxies route by.
"""

import asyncio
import logging
from collections.abc import Awaitable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import NotAuthenticated, RateLimited, ServiceError
from config.mcp_exchange import Exchange
from config.mcp_headers import check_headers, check_param_headers
from config.mcp_held import Paced
from config.mcp_messages import (
    HEADER_MISMATCH,
    INVALID_REQUEST,
    LEGACY,
    META,
    MODERN,
    UNSUPPORTED_VERSION,
    Message,
    RpcError,
    as_rpc_error,
    error_message,
    read_message,
    result_message,
    status_of,
)
from config.mcp_methods import MODERN_METHODS, answer, hello
from config.mcp_notices import Changes, Telling, changes_of
from config.mcp_rights import Admit, still_allowed
from config.mcp_sessions import Session
from config.mcp_streams import JSON_HEADERS, Receive, Reply, Stream, place_of

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
"""How often an open stream asks whether its caller is still let in, and whether its lists have changed."""
MOST_STREAMS_OF_ONE_CALLER = 64
_streams: dict[str, int] = {}


@dataclass(slots=True)
class Request:
    """One HTTP request that was let in."""

    here: Any
    scope: MutableMapping[str, Any]
    headers: dict[bytes, bytes]
    actor: Actor
    bundle: str
    receive: Receive
    send: Paced
    share: budget.Share
    body: bytes = b""

    def header(self, name: bytes) -> str | None:
        """A header's value."""
        found = self.headers.get(name)
        return found.decode("latin-1") if found is not None else None

    def accepts(self, kind: str) -> bool:
        """Whether the caller takes answers of this type."""
        said = self.headers.get(b"accept")
        return said is None or _accepts(said, kind)

    async def give(self, status: int, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answer at once."""
        length = (b"content-length", str(len(body)).encode())
        sent = [*(JSON_HEADERS if body else []), length, *(headers or [])]
        await self.send({"type": "http.response.start", "status": status, "headers": sent})
        await self.send({"type": "http.response.body", "body": body})

    async def hand_over(self) -> None:
        """Let FastMCP answer: it knows the extensions of the protocol, and refuses what nobody knows."""
        pending = [self.body]

        async def receive() -> MutableMapping[str, Any]:
            if pending:
                return {"type": "http.request", "body": pending.pop(), "more_body": False}
            return await self.receive()

        path: str = settings.MCP_PATH
        inner = {**self.scope, "path": path, "raw_path": path.encode(), "root_path": "", "actor": self.actor}
        await self.here.rest(inner, receive, self.send)

    async def give_error(self, status: int, error: RpcError, number: str | int | None = None) -> None:
        """Answer with a JSON-RPC error."""
        await self.give(status, error_message(number, error))


@lru_cache(maxsize=256)
def _accepts(said: bytes, kind: str) -> bool:
    ranges = {part.partition(";")[0].strip().lower() for part in said.decode("latin-1").split(",")}
    return bool(ranges & {kind, f"{kind.partition('/')[0]}/*", "*/*"})


# POST ----------------------------------------------------------------------------------------------------------------


async def post(request: Request, parsed: Any, admit: Admit) -> None:
    """Serve one message."""
    if not request.accepts("application/json"):
        await request.give_error(406, RpcError(INVALID_REQUEST, "Accept application/json, and text/event-stream."))
        return
    try:
        message = read_message(parsed)
    except RpcError as error:
        await request.give_error(400, error)
        return
    revision = request.header(b"mcp-protocol-version")
    if revision is not None and revision not in LEGACY:
        await _post_modern(request, message, admit)
    elif message.is_request and message.method != "initialize" and META + "protocolVersion" in message.meta:
        said = "The MCP-Protocol-Version header does not match the revision that the message names."
        await request.give_error(400, RpcError(HEADER_MISMATCH, said), message.id)
    else:
        await _post_legacy(request, message, admit)


async def post_plain(request: Request, parsed: Any, method: str, admit: Admit) -> None:
    """Serve one message at the address of its own method: without a session, and with nothing said of revisions."""
    try:
        message = read_message(parsed)
    except RpcError as error:
        await request.give_error(400, error)
        return
    if not message.is_request or message.method != method:
        refusal = RpcError(INVALID_REQUEST, f"This address takes requests for {method} alone.")
        await request.give_error(400, refusal, message.id if message.is_request else None)
        return
    check = still_allowed(admit, message, request.bundle)
    reply = Reply(request.send, request.receive, can_stream=False, check=check)
    await _finish(
        reply,
        Exchange(request.actor, message, reply, request.bundle, False, None, {}, {}, request.share),
        is_modern=False,
    )


# Up to 2025-11-25 ----------------------------------------------------------------------------------------------------


async def _post_legacy(request: Request, message: Message, admit: Admit) -> None:
    if message.method == "initialize" and message.is_request:
        await _initialize(request, message)
        return
    session = await session_of(request, message.id)
    if session is None:
        return
    if message.is_request:
        await _answer_in(session, request, message, admit)
        return
    if not message.method:
        session.answered(message.id, message.body)
    elif message.method == "notifications/cancelled":
        stop = session.running.get(message.cancels)
        if stop is not None:
            stop()
    else:
        session.heard(message.method, message.params)
    await request.give(202)


async def _initialize(request: Request, message: Message) -> None:
    assert message.id is not None  # noqa: S101 - it is a request
    try:
        version, said = await hello(request.actor, message.params, request.bundle)
    except RpcError as error:
        await request.give_error(200, error, message.id)
        return
    info = message.params.get("clientInfo")
    session = request.here.sessions.open(
        request.actor, bundle=request.bundle, version=version, capabilities=message.params.get("capabilities") or {},
        client_info=info if isinstance(info, dict) else {},
    )  # fmt: skip
    with suppress(ServiceError):
        await changes_of(session).look(request.actor)
    await request.give(200, result_message(message.id, said), [(b"mcp-session-id", session.id.encode())])


async def session_of(request: Request, number: str | int | None = None, *, is_piped: bool = False) -> Session | None:
    """The session that a request names; where there is none, that is answered."""
    session_id = request.header(b"mcp-session-id")
    if session_id is None:
        error = RpcError(INVALID_REQUEST, "There is no session yet: begin with initialize.")
        await request.give_error(400, error, number)
        return None
    session: Session | None = request.here.sessions.find(
        request.actor, session_id, bundle=request.bundle, is_piped=is_piped
    )
    if session is None:
        await request.give_error(404, RpcError(INVALID_REQUEST, "Session not found. Open another one."), number)
    return session


async def _answer_in(session: Session, request: Request, message: Message, admit: Admit) -> None:
    assert message.id is not None  # noqa: S101 - it is a request
    if message.id in session.running:
        await request.give_error(400, RpcError(INVALID_REQUEST, "A request of this id is under way."), message.id)
        return
    can_stream = request.accepts("text/event-stream")
    check = still_allowed(admit, message, request.bundle)
    reply = Reply(request.send, request.receive, can_stream=can_stream, stream=session.new_stream, check=check)
    exchange = Exchange(
        request.actor, message, reply, request.bundle, False, session, session.capabilities, session.client_info,
        request.share,
    )  # fmt: skip
    session.running[message.id] = reply.cancel
    try:
        await _finish(reply, exchange, is_modern=False)
    finally:
        session.running.pop(message.id, None)


async def _finish(reply: Reply, exchange: Exchange, *, is_modern: bool) -> None:
    """Answer a request; one that was cancelled, or whose caller has left, ends without a result.

    Raises NotAuthenticated for a caller whose credential was taken away before anything was said.
    """
    number = exchange.message.id
    try:
        try:
            body, status = await answer(exchange), 200
        except RpcError as error:
            body, status = error_message(number, error), status_of(error, is_modern=is_modern)
        await reply.finish(body, status)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not reply.is_cancelled or task is None:
            reply.stop()
            raise
        task.uncancel()
        if reply.refusal is None:
            await reply.drop()
            return
        if isinstance(reply.refusal, NotAuthenticated) and not reply.has_begun:
            reply.stop()
            raise reply.refusal from None
        # With the status of an answer: 404 alone would tell a client that its session is over.
        refused = as_rpc_error(reply.refusal)
        await reply.finish(error_message(number, refused), status_of(refused, is_modern=is_modern))


# 2026-07-28 ----------------------------------------------------------------------------------------------------------


async def _post_modern(request: Request, message: Message, admit: Admit) -> None:
    if not message.is_request:
        await _note_modern(request, message)
        return
    headers = request.scope["headers"]
    try:
        if META + "protocolVersion" not in message.meta:
            _check_revision(request)
        check_headers(message, headers)
        await check_param_headers(request.actor, message, request.bundle, headers)
    except RpcError as error:
        await request.give_error(status_of(error, is_modern=True), error, message.id)
        return
    if message.method == "subscriptions/listen":
        await _subscribe(request, message, admit)
        return
    if message.method not in MODERN_METHODS:
        await request.hand_over()
        return
    check = still_allowed(admit, message, request.bundle)
    reply = Reply(request.send, request.receive, can_stream=request.accepts("text/event-stream"), check=check)
    info = message.meta.get(META + "clientInfo")
    exchange = Exchange(
        request.actor, message, reply, request.bundle, True, None, message.meta[META + "clientCapabilities"],
        info if isinstance(info, dict) else {}, request.share,
    )  # fmt: skip
    await _finish(reply, exchange, is_modern=True)


async def _note_modern(request: Request, message: Message) -> None:
    """A notification is taken and means nothing: who wants to cancel closes the connection. Answers are refused."""
    if not message.method:
        error = RpcError(INVALID_REQUEST, f"Clients of {MODERN} send no answers: call again, with inputResponses.")
        await request.give_error(400, error)
        return
    try:
        _check_revision(request)
    except RpcError as error:
        await request.give_error(400, error)
        return
    await request.give(202)


def _check_revision(request: Request) -> None:
    """Raise RpcError for a revision that nobody here speaks, in a request that may be of either era."""
    revision = request.header(b"mcp-protocol-version") or ""
    if revision != MODERN:
        told = {"supported": [*LEGACY, MODERN], "requested": revision[:40]}
        raise RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", told)


# Streams -------------------------------------------------------------------------------------------------------------


async def listen(request: Request, admit: Admit) -> None:
    """GET: the stream of a session for what belongs to no request, or the rest of a stream that broke off."""
    if not request.accepts("text/event-stream"):
        await request.give_error(406, RpcError(INVALID_REQUEST, "Accept text/event-stream."))
        return
    session = await session_of(request)
    if session is None:
        return
    place = place_of(request.header(b"last-event-id") or "")
    stream = session.streams.get(place[0]) if place else None
    after = place[1] if place and stream else 0
    if stream is None:
        stream = session.open_notices()
    changes = changes_of(session) if stream is session.notices else Changes(request.bundle, {}, lambda _: None)
    await while_admitted(request, stream.copy(request.send, after), admit, changes)


async def end_session(request: Request) -> None:
    """DELETE: the end of a session."""
    session = await session_of(request)
    if session is not None:
        request.here.sessions.end(session)
        await request.give(200)


async def _subscribe(request: Request, message: Message, admit: Admit) -> None:
    """`subscriptions/listen`: acknowledge what will be told, then tell it until one side ends."""
    number = message.id
    assert number is not None  # noqa: S101 - it is a request
    if not request.accepts("text/event-stream"):
        await request.give_error(
            406, RpcError(INVALID_REQUEST, "Accept text/event-stream: this answer is one."), number
        )
        return
    owner = f"{request.actor.key_id or request.actor.id}"
    if _streams.get(owner, 0) >= MOST_STREAMS_OF_ONE_CALLER:
        refused = RateLimited(f"You listen {MOST_STREAMS_OF_ONE_CALLER} times already. End one of them.")
        await request.give_error(200, as_rpc_error(refused), number)
        return
    _streams[owner] = _streams.get(owner, 0) + 1
    try:
        stream = Stream()
        try:
            telling = Telling(request.actor, message, request.bundle, stream)
        except RpcError as error:
            await request.give_error(status_of(error, is_modern=True), error, number)
            return
        try:
            if await _unless_left(request, telling.begin()):
                await while_admitted(request, stream.copy(request.send), admit, telling.changes)
        finally:
            telling.end()
    finally:
        _streams[owner] -= 1
        if not _streams[owner]:
            del _streams[owner]


async def _unless_left(request: Request, work: Awaitable[None]) -> bool:
    """Whether some work was done before its caller left, who has it cancelled; raises what the work raises."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def while_admitted(request: Request, work: Any, admit: Admit, changes: Changes) -> None:
    """Let a stream run as long as its credential holds and its caller reads; a revoked one ends it within seconds."""
    writing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        while True:
            done, _ = await asyncio.wait({writing, leaving}, timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if done or request.send.is_left:
                break
            try:
                await changes.look(await admit())
            except ServiceError as refusal:
                logger.info("a stream was ended, for its caller is let in no more: %s", refusal)
                break
    finally:
        for task in (writing, leaving):
            task.cancel()
        await asyncio.gather(writing, leaving, return_exceptions=True)
        await request.send.end()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
