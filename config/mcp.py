"""The MCP door: where it begins and ends, and the tools about the platform itself.

`mcp_door` serves one HTTP request, `serve_stdio` one client over standard input and output. `mcp_lifespan` is an async
context manager: whoever serves HTTP enters it and leaves it in one and the same task (see lifespan.py).
FastMCP costs more than a second to import, so nothing here does it before a server starts.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from django.conf import settings
from pydantic import BaseModel, Field

from apps.core.actor import Actor
from apps.core.toolbox import Toolbox
from apps.gateway import services as gateway

toolbox = Toolbox("platform")


async def mcp_door(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Serve one HTTP request at the MCP endpoint; needs `mcp_lifespan` to be entered."""
    await _serve()(scope, receive, send)


@cache
def _serve() -> Callable[..., Awaitable[None]]:
    from config.mcp_http import serve

    return serve


@asynccontextmanager
async def mcp_lifespan() -> AsyncIterator[None]:
    """Start what serves MCP on the running event loop; at the end close every session, upstream and child."""
    from config.mcp_http import running

    async with running():
        try:
            yield
        finally:
            await gateway.close_upstreams()


class HealthOut(BaseModel):
    """How the platform fares."""

    status: str = Field(description="healthy or unhealthy.")
    checks: dict[str, str] = Field(description="Each part: ok, or what is wrong with it.")
    unavailable_servers: list[dict[str, Any]] = Field(description="Servers of yours whose last check failed.")


class MetadataOut(BaseModel):
    """What this platform is."""

    name: str
    version: str
    url: str
    mcp_endpoint: str
    organization: str = Field(description="The organisation that you act in.")
    tools: int = Field(description="How many tools you may use.")
    servers: list[str] = Field(description="The servers that they belong to.")


@toolbox.tool(permission="tool.read", title="Platform health")
def platform_health(actor: Actor) -> HealthOut:
    """Tell whether this platform and the servers behind it work.

    Use it when a tool fails, to see whether the cause is known. It changes nothing.
    """
    from config.health import collect_checks

    checks = collect_checks()
    return HealthOut(
        status="healthy" if all(check.ok for check in checks) else "unhealthy",
        checks={check.name: "ok" if check.ok else check.message for check in checks},
        unavailable_servers=gateway.read_view(actor).unavailable,
    )


@toolbox.tool(permission="tool.read", title="Platform metadata")
def platform_metadata(actor: Actor) -> MetadataOut:
    """Tell which platform this is, which organisation you act in, and how much you may use here.

    It changes nothing.
    """
    tools = gateway.read_view(actor).tools.values()
    return MetadataOut(
        name="Gatehouse",
        version=settings.VERSION,
        url=settings.PUBLIC_URL,
        mcp_endpoint=settings.MCP_AUDIENCE,
        organization=actor.organization_slug,
        tools=len(tools),
        servers=sorted({tool.server for tool in tools if tool.server}),
    )
