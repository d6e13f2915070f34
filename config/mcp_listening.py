"""Streams on which an agent is told what belongs to no request: of a session (GET), or as long as one listens.

A stream lives as long as its credential holds, its caller reads, and the server has not been told to stop.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.db import InterfaceError, OperationalError

from apps.core.errors import NotAuthenticated, NotFound, NotPermitted, RateLimited, ServiceError
from config.mcp_messages import INVALID_REQUEST, Message, RpcError, as_rpc_error, status_of
from config.mcp_notices import Changes, Telling, changes_of
from config.mcp_request import Request, session_of
from config.mcp_rights import Admit
from config.mcp_stopping import stopping
from config.mcp_streams import Receive, Stream, place_of

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
"""How often an open stream asks whether its caller is still let in, and whether its lists have changed."""
MOST_STREAMS_OF_ONE_CALLER = 64
_streams: dict[str, int] = {}


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
    await while_admitted(
        request, stream.copy(request.send, after), admit, changes, only_listens=lambda: stream is session.notices
    )


async def subscribe(request: Request, message: Message, admit: Admit) -> None:
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
                await while_admitted(
                    request, stream.copy(request.send), admit, telling.changes, only_listens=lambda: stream.is_read
                )
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


async def while_admitted(
    request: Request, work: Any, admit: Admit, changes: Changes, *, only_listens: Callable[[], bool]
) -> None:
    """Let a stream run as long as its credential holds and its caller reads; a revoked one ends it within seconds.

    When the server is told to stop, it ends as soon as `only_listens` says that no call is answered there.
    """
    writing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        while True:
            done, _ = await asyncio.wait({writing, leaving}, timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if done or request.send.is_left or (stopping.is_told and only_listens()):
                break
            try:
                await changes.look(await admit())
            except (NotAuthenticated, NotPermitted, NotFound) as refusal:
                logger.info("a stream was ended, for its caller is let in no more: %s", refusal)
                break
            except (ServiceError, OperationalError, InterfaceError):
                pass  # nobody knows just now
    finally:
        for task in (writing, leaving):
            task.cancel()
        await asyncio.gather(writing, leaving, return_exceptions=True)
        await request.send.end()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
