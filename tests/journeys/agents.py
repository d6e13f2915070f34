"""An agent: the client of the MCP SDK with a key, in either era of the protocol."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

PATIENCE_SECONDS = 60
"""More than the platform takes for a call to a server that hangs; with less, an agent gives up without a word."""

ERAS = {"2025-11-25": "legacy", "2026-07-28": "2026-07-28"}


@asynccontextmanager
async def connected(url: str, key: str, era: str) -> AsyncIterator[Client]:
    """A connected client."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE_SECONDS) as http,
        Client(streamable_http_client(url, http_client=http), mode=ERAS[era]) as client,
    ):
        yield client


def tool_names(url: str, key: str, era: str = "2025-11-25") -> set[str]:
    """The names of the tools that the agent sees."""

    async def ask() -> set[str]:
        async with connected(url, key, era) as client:
            return {tool.name for tool in (await client.list_tools()).tools}

    return asyncio.run(ask())


def call(url: str, key: str, name: str, arguments: dict[str, Any], era: str = "2025-11-25") -> Any:
    """What one tool answers."""

    async def ask() -> Any:
        async with connected(url, key, era) as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(ask())


def call_over_stdio(
    command: list[str], env: dict[str, str], cwd: str, name: str, arguments: dict[str, Any], *, era: str = "2025-11-25"
) -> Any:  # fmt: skip
    """What one tool answers through a program that speaks MCP on its standard streams."""

    async def ask() -> Any:
        parameters = StdioServerParameters(command=command[0], args=command[1:], env=env, cwd=cwd)
        async with Client(stdio_client(parameters), mode=ERAS[era]) as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(ask())
