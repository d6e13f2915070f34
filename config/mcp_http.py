"""MCP over HTTP: refuses what must not come in, finds out who asks, and hands the request to the MCP server.

In this order: host, origin, address, method, credential, body. A refusal of HTTP itself has our error envelope; an
answer to a JSON-RPC message keeps JSON-RPC's shape.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from django.conf import settings
from django.http.request import split_domain_port, validate_host

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
from apps.gateway import services as gateway
from config import mcp_sse
from config.bodies import read_body
from config.mcp_held import CUT, Paced, no_cut
from config.mcp_listening import listen
from config.mcp_messages import LEGACY
from config.mcp_posts import end_session, post, post_plain
from config.mcp_relay import Relay, relaying
from config.mcp_request import Request
from config.mcp_rights import Admit
from config.mcp_server import build_server
from config.mcp_sessions import RELAYED, SWEEP_SECONDS, Sessions

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CREDENTIALS_IN_QUERY = frozenset({"access_token", "token", "api_key", "apikey", "key", "authorization", "bearer"})
_METHODS = ("GET", "POST", "DELETE")
SSE_WAYS = frozenset({mcp_sse.STREAM, mcp_sse.MESSAGES})
PLAIN_METHODS = frozenset({"prompts/list", "prompts/get", "tools/list", "tools/call"})
"""Methods that have an address each, below /mcp, for clients of the prompt server that Gatehouse grew from."""
_SLUG = re.compile(r"[a-z0-9-]{1,20}\Z")


class Misdirected(ServiceError):
    """The request names a host that is not ours."""

    code, status, default = "MISDIRECTED", 421, "This server does not answer to that host name."


# What runs -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """What serves MCP on one event loop."""

    rest: Any
    """FastMCP, for what is not answered here."""
    sessions: Sessions = field(default_factory=Sessions)
    relay: Relay | None = None


_running: dict[asyncio.AbstractEventLoop, Running] = {}


@asynccontextmanager
async def running() -> AsyncIterator[None]:
    """Serve MCP on the running event loop."""
    app = build_server().http_app(path=settings.MCP_PATH, json_response=True)
    loop = asyncio.get_running_loop()
    async with app.lifespan(app):
        here = _running[loop] = Running(app)
        sweeping = loop.create_task(_end_idle_sessions(here))
        try:
            async with _with_others(here):
                yield
        finally:
            sweeping.cancel()
            here.sessions.end_all()
            gateway.parking_lot().end_all()
            del _running[loop]


async def _end_idle_sessions(here: Running) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        here.sessions.end_idle(asyncio.get_running_loop().time())


@asynccontextmanager
async def _with_others(here: Running) -> AsyncIterator[None]:
    """Reach the sessions of other web processes, where Redis lets there be others."""
    from config.asgi import application

    async with relaying(application) as relay:
        here.relay = relay
        gateway.parking_lot().process = relay.name if relay else ""
        try:
            yield
        finally:
            here.relay = None


def count_sessions(organization_id: UUID | None) -> int:
    """How many sessions this process holds open for an organisation, or for all; any thread may ask."""
    return sum(each.sessions.count(organization_id) for each in list(_running.values()))


# One request -----------------------------------------------------------------------------------------------------


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one HTTP request; raises what it refuses, for the front to answer."""
    headers = _read_headers(scope)
    _check_host(headers)
    _check_origin(scope, headers)
    bundle, way = _check_address(scope)
    _check_method(scope, headers, way)
    if way in SSE_WAYS:
        _take_session_from_address(scope, headers)
    credential = _credential(headers)
    actor = await _admit(credential, scope, headers)
    if bundle:
        await gateway.view_for(actor, bundle=bundle)  # raises NotFound for one that is not theirs
    parsed, body = await _read_message(scope, headers, receive)
    here = _running[asyncio.get_running_loop()]
    mark = logs.current_actor.set(actor)
    try:
        with budget.share_for(actor.organization_id) as share:
            cut = scope.get(CUT, no_cut)
            if here.relay is not None:
                elsewhere = _process_elsewhere(here.relay, scope, headers, parsed)
                if elsewhere and await here.relay.forward(
                    elsewhere, scope, body, receive, Paced(send, cut), share=share
                ):
                    return
                send = _with_public_id(here.relay, send)
            request = Request(here, scope, headers, actor, bundle, receive, Paced(send, cut), share, body)
            await _answer(request, parsed, way, lambda: _admit(credential, scope, headers))
    finally:
        logs.current_actor.reset(mark)


async def _answer(request: Request, parsed: Any, way: str, admit: Admit) -> None:
    if way == mcp_sse.STREAM:
        await mcp_sse.open_stream(request, admit)
    elif way == mcp_sse.MESSAGES:
        await mcp_sse.take(request, parsed, admit)
    elif way:
        await post_plain(request, parsed, way, admit)
    elif request.scope["method"] == "POST":
        await post(request, parsed, admit)
    elif request.scope["method"] == "GET":
        await listen(request, admit)
    else:
        await end_session(request)


def _process_elsewhere(relay: Relay, scope: Scope, headers: dict[bytes, bytes], parsed: Any) -> str:
    """The other process that a request is for: where its session lives, the call or the task that it is about."""
    owner, session_id = relay.owner_of(headers.get(b"mcp-session-id", b"").decode("latin-1"))
    if owner == relay.name:
        headers[b"mcp-session-id"] = session_id.encode()  # that of another keeps its name: it is unknown here
    elif not owner:
        params = parsed.get("params") if isinstance(parsed, dict) else None
        state, task_id = (params.get("requestState"), params.get("taskId")) if isinstance(params, dict) else (0, 0)
        if isinstance(state, str):
            owner = gateway.owner_of_state(state)
        elif isinstance(task_id, str):
            owner = gateway.process_of_task(task_id)
    return "" if owner == relay.name or RELAYED in scope else owner


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
    if not _is_ours(headers.get(b"host", b""), tuple(settings.ALLOWED_HOSTS)):
        raise Misdirected


@lru_cache(maxsize=256)
def _is_ours(host: bytes, allowed: tuple[str, ...]) -> bool:
    name, _ = split_domain_port(host.decode("latin-1"))
    return bool(name) and validate_host(name, allowed)


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


def _check_address(scope: Scope) -> tuple[str, str]:
    """The bundle that is asked for, "" being everything that the caller may use, and the way: a method's, or of SSE."""
    path: str = scope["path"].rstrip("/")
    rest = path.removeprefix(settings.MCP_PATH).removeprefix("/")
    bundle, _, way = rest.rpartition("/")
    if rest in PLAIN_METHODS:
        bundle, way = "", rest
    elif way not in SSE_WAYS:
        bundle, way = rest, ""
    elif not settings.MCP_SSE:
        raise NotFound(f"HTTP+SSE is off: its operator may set GATEHOUSE_MCP_SSE to 1. Use {settings.MCP_PATH}.")
    is_crooked = path != "/".join(part for part in (settings.MCP_PATH, bundle, way) if part)
    if is_crooked or (bundle and not _SLUG.match(bundle)):
        raise NotFound(f"There is no MCP endpoint here. Use {settings.MCP_PATH}.")
    if _CREDENTIALS_IN_QUERY & {name.lower() for name, _ in _query_of(scope)}:
        raise NotAuthenticated("Send the credential in the Authorization header, never in the address.")
    return bundle, way


def _query_of(scope: Scope) -> list[tuple[str, str]]:
    query: bytes = scope.get("query_string", b"")
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []


def _check_method(scope: Scope, headers: dict[bytes, bytes], way: str) -> None:
    revision = headers.get(b"mcp-protocol-version")
    is_stateless = revision is not None and revision.decode("latin-1") not in LEGACY
    allowed: Iterable[str] = ("POST",) if is_stateless or way else _METHODS
    if way == mcp_sse.STREAM:
        allowed = ("GET",)
    if scope["method"] not in allowed:
        raise MethodNotAllowed(details={"allowed": list(allowed)})


def _take_session_from_address(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """In HTTP+SSE the address of a POST names the session; that of a stream, which begins one, names none."""
    headers.pop(b"mcp-session-id", None)
    if scope["method"] == "POST":
        named = [value for name, value in _query_of(scope) if name == "session_id"]
        if len(named) != 1:
            raise Malformed("Post to the address that the stream names first, with its session_id.")
        headers[b"mcp-session-id"] = named[0].encode()


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


async def _read_message(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> tuple[Any, bytes]:
    """The body, read strictly."""
    if scope["method"] != "POST":
        return None, b""
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != "application/json" or headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("Send the message as application/json, not compressed.")
    body = await read_body(headers, receive)
    return read_json(body), body
