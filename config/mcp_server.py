"""The MCP server: FastMCP, with lists and calls of tools answered from the gateway's snapshot.

FastMCP builds and checks a list of a thousand tools in a quarter of a second, and runs that for each call of revision
2026-07-28. The SDK's own middleware, which sees a request before any of that, answers both methods with what the
gateway holds ready. Everything else (initialize, discover, ping, the empty lists) stays with FastMCP.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

import orjson
from django.conf import settings
from django.db import InterfaceError, OperationalError
from fastmcp import FastMCP
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, SERVER_INFO_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from apps.core import logs
from apps.core.actor import Actor
from apps.core.doors import read_json
from apps.core.errors import Malformed, ServiceError, render
from apps.gateway import services as gateway
from config.outages import as_outage

logger = logging.getLogger(__name__)
INSTRUCTIONS = (
    "Gatehouse shows you the tools that your organisation lets you use, each named server__tool."
    " `search` finds tools by words and `fetch` shows one in full; `platform_health` tells what is out of order."
)
LIST_SECONDS = 5
_LISTS = frozenset({"tools/list", "resources/list", "resources/templates/list", "prompts/list"})
HERE = "127.0.0.1"
"""From where somebody calls over standard input: this machine. A key that is bound to addresses has to allow it."""
UNAVAILABLE = "gatehouse/unavailable"
ERROR = "gatehouse/error"

ActorOf = Callable[[ServerRequestContext[Any, Any]], Awaitable[Actor]]
caller: ContextVar[Actor | None] = ContextVar("mcp_caller", default=None)


def build_server(actor_of: ActorOf, *, endpoint: str, is_checked: bool) -> FastMCP[Any]:
    """A server whose callers are told by `actor_of`. `is_checked` says that the door has read the JSON strictly."""
    server: FastMCP[Any] = FastMCP("gatehouse", version=settings.VERSION, instructions=INSTRUCTIONS)
    low = server._mcp_server  # FastMCP has no public way to the SDK's middleware
    stamp = {SERVER_INFO_META_KEY: low.server_info_stamp}
    low.middleware.insert(0, Road(actor_of, stamp, endpoint=endpoint, is_checked=is_checked))
    low.get_tool_input_schema = _input_schema
    return server


def _input_schema(name: str) -> Mapping[str, Any] | None:
    """For the check of Mcp-Param headers, which would else list all tools for each call."""
    actor = caller.get()
    return gateway.input_schema(actor, name) if actor else None


class Road:
    """The SDK middleware that answers `tools/list` and `tools/call`, and ends with a session what it opened."""

    def __init__(self, actor_of: ActorOf, stamp: dict[str, Any], *, endpoint: str, is_checked: bool) -> None:
        self._actor_of = actor_of
        self._stamp = stamp
        self._endpoint = endpoint
        self._is_checked = is_checked

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Answer one message, or let FastMCP answer it."""
        if ctx.request_id is None:
            return await call_next(ctx)
        if ctx.method == "initialize":
            _close_with_session(ctx)
            return await call_next(ctx)
        if ctx.method in _LISTS and (ctx.params or {}).get("cursor") is not None:
            raise _rpc_error(INVALID_PARAMS, Malformed("This cursor is not one of ours: the list has one page."))
        is_modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        # Before the handshake FastMCP refuses both in the SDK's own words.
        is_ready = is_modern or ctx.session.client_params is not None
        if is_ready and ctx.method == "tools/call":
            return await self._call(ctx, is_modern=is_modern)
        if is_ready and ctx.method == "tools/list":
            return await self._list(ctx, is_modern=is_modern)
        return await call_next(ctx)

    async def _list(self, ctx: ServerRequestContext[Any, Any], *, is_modern: bool) -> dict[str, Any]:
        try:
            tools = await gateway.tools_for(await self._actor(ctx))
        except (OperationalError, InterfaceError) as error:
            raise _rpc_error(INTERNAL_ERROR, as_outage(error) or ServiceError()) from error
        meta = {UNAVAILABLE: tools.unavailable} if tools.unavailable else {}
        listed = orjson.loads(tools.encoded(is_modern=is_modern))
        if not is_modern:
            return {"tools": listed, **({"_meta": meta} if meta else {})}
        return {
            "tools": listed,
            "resultType": "complete",
            "ttlMs": LIST_SECONDS * 1000,
            "cacheScope": "private",
            "_meta": {**meta, **self._stamp},
        }

    async def _call(self, ctx: ServerRequestContext[Any, Any], *, is_modern: bool) -> dict[str, Any]:
        actor = await self._actor(ctx)
        name, arguments = self._read_call(ctx.params or {})
        try:
            result = await gateway.call_tool(
                actor, name=name, arguments=arguments,
                ask=gateway.Ask(gateway.Silent(_session_id(ctx)), self._endpoint),
            )  # fmt: skip
        except gateway.UnknownTool as error:
            raise _rpc_error(INVALID_PARAMS, error) from error
        except ServiceError as error:
            result = error_result(error)
        except (OperationalError, InterfaceError) as error:
            result = error_result(as_outage(error) or ServiceError())
        except Exception:
            logger.exception("A tool call failed.")
            result = error_result(ServiceError())
        if is_modern:
            return {**result, "resultType": "complete", "_meta": {**result.get("_meta", {}), **self._stamp}}
        return result

    async def _actor(self, ctx: ServerRequestContext[Any, Any]) -> Actor:
        try:
            return await self._actor_of(ctx)
        except ServiceError as error:
            raise _rpc_error(INVALID_REQUEST, error) from error

    def _read_call(self, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or not name or not (arguments is None or isinstance(arguments, dict)):
            raise _rpc_error(INVALID_PARAMS, Malformed("tools/call takes a name and an object of arguments."))
        if not self._is_checked:
            try:
                read_json(json.dumps([name, arguments]).encode())
            except ServiceError as error:
                raise _rpc_error(INVALID_PARAMS, error) from error
        return name, arguments or {}


def error_result(error: ServiceError) -> dict[str, Any]:
    """A failed call as a model reads it: what failed and what to try, with the envelope's error for programs."""
    inner = render(error, logs.request_id.get())["error"]
    lines = [error.message]
    fields = error.details.get("fields")
    if isinstance(fields, dict):
        lines += [f"{field}: {' '.join(messages)}" for field, messages in fields.items()]
    if error.code == ServiceError.code:
        lines.append(f"Request id: {inner['request_id']}")
    return {"content": [{"type": "text", "text": "\n".join(lines)}], "isError": True, "_meta": {ERROR: inner}}


def _rpc_error(code: int, error: ServiceError) -> MCPError:
    """JSON-RPC's shape, with the envelope's error in `data`."""
    return MCPError(code=code, message=error.message, data=render(error, logs.request_id.get())["error"])


def _session_id(ctx: ServerRequestContext[Any, Any]) -> str | None:
    session_id: str | None = ctx.session._connection.session_id  # no public way to the connection
    return session_id


def _close_with_session(ctx: ServerRequestContext[Any, Any]) -> None:
    """What is opened for a session ends with it: its own DELETE, its idle time, or the end of the server."""
    session_id = _session_id(ctx)
    if session_id is None:
        return
    stack = ctx.session._connection.exit_stack  # no public way to the connection
    stack.callback(gateway.upstreams().close_session, session_id)


async def serve_stdio(credential: str) -> None:
    """Serve one client over standard input and output until it closes the input."""
    from apps.auth import services as auth
    from apps.core.threads import in_thread

    async def actor_of(_: ServerRequestContext[Any, Any]) -> Actor:
        audience: str = settings.MCP_AUDIENCE
        known = auth.known_actor(credential, surface="mcp", audience=audience, address=HERE)
        if known is not None:
            return known
        return await in_thread(auth.actor_from_bearer, credential, surface="mcp", audience=audience, address=HERE)

    server = build_server(actor_of, endpoint="stdio", is_checked=False)
    await server.run_stdio_async(show_banner=False)
