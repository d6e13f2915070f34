"""One message over HTTP, in either era: checked as its revision wants it, answered, and told with the right status.

Up to 2025-11-25 a session begins with `initialize` and lives on; 2026-07-28 has none: every request says by itself who
asks and how, and its headers repeat what proxies route by.
"""

import asyncio
from contextlib import suppress
from typing import Any

from apps.core.errors import NotAuthenticated, ServiceError
from config.mcp_exchange import Exchange
from config.mcp_headers import check_headers, check_param_headers
from config.mcp_listening import subscribe
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
from config.mcp_notices import changes_of
from config.mcp_request import Request, session_of
from config.mcp_rights import Admit, still_allowed
from config.mcp_sessions import Session
from config.mcp_streams import Reply

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
        request.share, size=len(request.body),
    )  # fmt: skip
    exchange.runs(reply.cancel)
    try:
        await _finish(reply, exchange, is_modern=False)
    finally:
        exchange.is_out()


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
        exchange.is_out()
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
        await subscribe(request, message, admit)
        return
    if message.method not in MODERN_METHODS:
        await request.hand_over()
        return
    check = still_allowed(admit, message, request.bundle)
    reply = Reply(request.send, request.receive, can_stream=request.accepts("text/event-stream"), check=check)
    info = message.meta.get(META + "clientInfo")
    exchange = Exchange(
        request.actor, message, reply, request.bundle, True, None, message.meta[META + "clientCapabilities"],
        info if isinstance(info, dict) else {}, request.share, size=len(request.body),
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


async def end_session(request: Request) -> None:
    """DELETE: the end of a session."""
    session = await session_of(request)
    if session is not None:
        request.here.sessions.end(session)
        await request.give(200)
