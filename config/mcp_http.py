"""MCP over HTTP: refuses what must not come in, finds out who asks, and hands the request to the MCP server.

In this order: host, origin, address, method, credential, body. A refusal of HTTP itself has our error envelope; an
answer to a JSON-RPC message keeps JSON-RPC's shape.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from django.conf import settings
from django.http.request import split_domain_port, validate_host
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from apps.auth import services as auth
from apps.core import budget, logs
from apps.core.actor import Actor
from apps.core.doors import read_json
from apps.core.errors import (
    Malformed,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    ServiceError,
    UnsupportedMediaType,
)
from apps.core.threads import in_thread
from config.bodies import read_body
from config.mcp_held import HELD, paced
from config.mcp_lists import LEFT, filled
from config.mcp_relay import Relay, relaying
from config.mcp_server import build_server, caller
from config.mcp_sessions import RELAYED, Sessions

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WATCH_SECONDS = 3.0
NO_SESSION = 404
_CREDENTIALS_IN_QUERY = frozenset({"access_token", "token", "api_key", "apikey", "key", "authorization", "bearer"})
_METHODS = ("GET", "POST", "DELETE")


class Misdirected(ServiceError):
    """The request names a host that is not ours."""

    code, status, default = "MISDIRECTED", 421, "This server does not answer to that host name."


# What runs -------------------------------------------------------------------------------------------------------

_apps: dict[asyncio.AbstractEventLoop, Any] = {}
_sessions: dict[asyncio.AbstractEventLoop, Sessions] = {}
_relays: dict[asyncio.AbstractEventLoop, Relay] = {}


@asynccontextmanager
async def running() -> AsyncIterator[None]:
    """The MCP server of the running event loop."""
    server = build_server(_actor_of, endpoint=settings.MCP_PATH, is_checked=True)
    app = server.http_app(path=settings.MCP_PATH, json_response=True)
    loop = asyncio.get_running_loop()
    async with app.lifespan(app):
        _apps[loop], _sessions[loop] = app, Sessions()
        try:
            async with _with_others(loop):
                yield
        finally:
            del _apps[loop], _sessions[loop]


@asynccontextmanager
async def _with_others(loop: asyncio.AbstractEventLoop) -> AsyncIterator[None]:
    """Reach the sessions of other web processes, where Redis lets there be others."""
    from config.asgi import application

    async with relaying(application) as relay:
        if relay is not None:
            _relays[loop] = relay
        try:
            yield
        finally:
            _relays.pop(loop, None)


def count_sessions(organization_id: UUID | None) -> int:
    """How many sessions this process holds open for an organisation, or for all; any thread may ask."""
    return sum(sessions.count(organization_id) for sessions in list(_sessions.values()))


async def _actor_of(ctx: ServerRequestContext[Any, Any]) -> Actor:
    # The request's own, never the session's: a session outlives the rights of the request that opened it.
    request: Any = ctx.request
    actor: Actor = request.scope["actor"]
    return actor


# One request -----------------------------------------------------------------------------------------------------


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one HTTP request; raises what it refuses, for the front to answer."""
    headers = _read_headers(scope)
    _check_host(headers)
    _check_origin(scope, headers)
    _check_address(scope)
    _check_method(scope, headers)
    credential = _credential(headers)
    actor = await _admit(credential, scope, headers)
    method, body = await _read_message(scope, headers, receive)
    relay = _relays.get(asyncio.get_running_loop())
    if relay is not None:
        owner, session_id = relay.owner_of(headers.get(b"mcp-session-id", b"").decode("latin-1"))
        if owner not in ("", relay.name) and RELAYED not in scope:
            if await relay.forward(owner, scope, body, receive, send):
                return
        elif owner:
            scope = _with_inner_id(scope, headers, session_id.encode())
        send = _with_public_id(relay, send)
    marks = logs.current_actor.set(actor), caller.set(actor)
    try:
        left: list[bytes] = []
        inner = {**scope, "path": settings.MCP_PATH, "raw_path": settings.MCP_PATH.encode(), "root_path": "",
                 "actor": actor, "user": _principal(actor), LEFT: left}  # fmt: skip
        with budget.share_for(actor.organization_id) as inner[HELD]:
            work = _within_share(inner, headers, _replayed(body, receive), filled(left, paced(send)))
            if scope["method"] == "GET" or method == "subscriptions/listen":
                await _while_admitted(work, lambda: _admit(credential, scope, headers))
            else:
                await work
    finally:
        logs.current_actor.reset(marks[0])
        caller.reset(marks[1])


def _with_inner_id(scope: Scope, headers: dict[bytes, bytes], session_id: bytes) -> Scope:
    """The request with the session's id as the SDK knows it; the headers that were read follow."""
    headers[b"mcp-session-id"] = session_id
    sent = [(name, session_id if name == b"mcp-session-id" else value) for name, value in scope["headers"]]
    return {**scope, "headers": sent}


def _with_public_id(relay: Relay, send: Send) -> Send:
    """A `send` that tells a session's id with its process."""

    async def send_public(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [
                (name, relay.public_id(value.decode()).encode() if name == b"mcp-session-id" else value)
                for name, value in message["headers"]
            ]}  # fmt: skip
        await send(message)

    return send_public


async def _within_share(inner: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
    """Let the SDK answer, and end the caller's oldest session where this request has opened one too many."""
    loop = asyncio.get_running_loop()
    app, sessions, actor = _apps[loop], _sessions[loop], inner["actor"]
    known = headers.get(b"mcp-session-id", b"").decode("latin-1")
    opened: list[str] = []

    async def watched(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and (
            inner["method"] == "DELETE" or message["status"] == NO_SESSION
        ):
            sessions.note_end(actor, known)
        elif message["type"] == "http.response.start" and not known:
            opened.extend(value.decode() for name, value in message["headers"] if name == b"mcp-session-id")
        await send(message)

    sessions.note_use(actor, known)
    await app(inner, receive, watched)
    for session_id in opened:
        for oldest, user in sessions.note_open(actor, session_id, inner["user"]):
            await _end_session(app, inner, oldest, user)


async def _end_session(app: Any, scope: Scope, session_id: str, user: Any) -> None:
    """End a session as its own client would."""

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ignore(_: MutableMapping[str, Any]) -> None:
        """Nobody waits for the answer."""

    await app(
        {**scope, "method": "DELETE", "headers": [(b"mcp-session-id", session_id.encode())], "user": user},
        receive,
        ignore,
    )


def _read_headers(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name; those that decide anything may not come twice."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in _ONCE:
            raise Malformed(f"The header {name.decode('latin-1')} must not come twice.")
        headers[name] = value
    return headers


_ONCE = frozenset({b"host", b"origin", b"authorization", b"x-organization", b"content-type", b"content-length",
                   b"content-encoding", b"mcp-session-id"})  # fmt: skip


def _check_host(headers: dict[bytes, bytes]) -> None:
    host, _ = split_domain_port(headers.get(b"host", b"").decode("latin-1"))
    if not host or not validate_host(host, settings.ALLOWED_HOSTS):
        raise Misdirected


def _check_origin(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """A page may only ask from our own origin; a client that is no browser sends none."""
    origin = headers.get(b"origin")
    if origin is None:
        return
    port = (scope.get("server") or ("", 0))[1]
    local = {f"http://{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")}
    if origin.decode("latin-1").lower() not in {_origin(settings.PUBLIC_URL), *local}:
        raise NotPermitted("Pages of this origin may not use the MCP endpoint.")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _check_address(scope: Scope) -> None:
    if scope["path"].rstrip("/") != settings.MCP_PATH:
        raise NotFound(f"There is no MCP endpoint here. Use {settings.MCP_PATH}.")
    names = {
        name.lower() for name, _ in parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    }
    if names & _CREDENTIALS_IN_QUERY:
        raise NotAuthenticated("Send the credential in the Authorization header, never in the address.")


def _check_method(scope: Scope, headers: dict[bytes, bytes]) -> None:
    revision = headers.get(b"mcp-protocol-version")
    is_stateless = revision is not None and revision.decode("latin-1") not in HANDSHAKE_PROTOCOL_VERSIONS
    allowed: Iterable[str] = ("POST",) if is_stateless else _METHODS
    if scope["method"] not in allowed:
        raise MethodNotAllowed(details={"allowed": list(allowed)})


def _credential(headers: dict[bytes, bytes]) -> str:
    scheme, _, credential = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise NotAuthenticated
    return credential.strip()


async def _admit(credential: str, scope: Scope, headers: dict[bytes, bytes]) -> Actor:
    """Who asks; memory only, mostly. Raises NotAuthenticated, Malformed, NotFound or RateLimited."""
    organization = headers[b"x-organization"].decode("latin-1") if b"x-organization" in headers else None
    address: str = scope.get("gatehouse.address") or (scope.get("client") or ("",))[0]
    audience: str = settings.MCP_AUDIENCE
    known = auth.known_actor(credential, surface="mcp", audience=audience, address=address, organization=organization)
    if known is not None:
        return known
    return await in_thread(
        auth.actor_from_bearer, credential, surface="mcp", audience=audience, address=address, organization=organization
    )


async def _read_message(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> tuple[str, bytes]:
    """The JSON-RPC method, if there is one, and the body, read strictly."""
    if scope["method"] != "POST":
        return "", b""
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != "application/json" or headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("Send the message as application/json, not compressed.")
    body = await read_body(headers, receive)
    message = read_json(body)
    method = message.get("method") if isinstance(message, dict) else None
    return method if isinstance(method, str) else "", body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read once more, then whatever else comes."""
    pending = [body]

    async def replay() -> MutableMapping[str, Any]:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


def _principal(actor: Actor) -> AuthenticatedUser:
    """Whom the SDK binds a session to: the key, or the user, in this organisation."""
    return AuthenticatedUser(
        AccessToken(
            token="",
            client_id=f"{actor.kind}:{actor.key_id or actor.id}",
            scopes=[],
            subject=f"{actor.user_id}@{actor.organization_id}",
        )
    )


async def _while_admitted(work: Awaitable[None], admit: Callable[[], Awaitable[Actor]]) -> None:
    """Let a stream run as long as its credential holds; a revoked one ends it within seconds."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=WATCH_SECONDS))[0]:
            try:
                await admit()
            except ServiceError:
                break
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
