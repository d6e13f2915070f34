"""MCP clients that nobody here wrote, each asked to list the tools of an endpoint and to call one.

What they print or return is brought into one shape: the names of the tools, and the result of the call in the words of
the protocol (`content`, `structuredContent`, `isError`).
"""

import asyncio
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastmcp import Client as FastMCPClient
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from mcp.client.client import Client as SdkClient
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.fixtures import node_tools
from tests.fixtures.servers import PROJECT
from tests.journeys.agents import ERAS, connected

SECONDS = 60
TOOL_ERROR = 5
INSPECTOR_ERAS = {"2025-11-25": "legacy", "2026-07-28": "modern", "auto": "auto"}
SERVER_INFO = "io.modelcontextprotocol/serverInfo"


@dataclass(frozen=True)
class Command:
    """A program that speaks MCP on its standard streams, with the variables that it needs."""

    line: list[str]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Seen:
    """What one client saw: the revision it spoke, the tools, and the result of the call."""

    revision: str
    names: set[str]
    result: dict[str, Any]


def in_words_of_the_protocol(result: Any) -> dict[str, Any]:
    """What a call answers, as the protocol has it; no `isError` means that there was none."""
    said = result if isinstance(result, dict) else result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "content": said.get("content"),
        "structuredContent": said.get("structuredContent"),
        "isError": said.get("isError", False),
    }


# Over HTTP -------------------------------------------------------------------------------------------------------


def by_sdk(url: str, key: str, era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The client of the MCP SDK for Python."""

    async def ask() -> Seen:
        async with connected(url, key, era) as client:
            return await _asked(client, tool, arguments)

    return asyncio.run(ask())


def by_fastmcp(url: str, key: str, era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The client of FastMCP."""

    async def ask() -> Seen:
        transport = StreamableHttpTransport(url, headers={"Authorization": f"Bearer {key}"})
        async with FastMCPClient(transport, mode=ERAS[era]) as client:
            return await _asked_by_fastmcp(client, tool, arguments)

    return asyncio.run(ask())


def by_sdk_over_sse(url: str, key: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The client of the MCP SDK for Python by HTTP+SSE, which chooses the revision itself."""

    async def ask() -> Seen:
        way = sse_client(url, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS)
        async with SdkClient(way) as client:
            return await _asked(client, tool, arguments)

    return asyncio.run(ask())


def by_fastmcp_over_sse(url: str, key: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The client of FastMCP by HTTP+SSE, which chooses the revision itself."""

    async def ask() -> Seen:
        async with FastMCPClient(SSETransport(url, headers={"Authorization": f"Bearer {key}"})) as client:
            return await _asked_by_fastmcp(client, tool, arguments)

    return asyncio.run(ask())


def by_inspector(url: str, key: str, era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The inspector's command line."""
    target = [url, "--transport", "http", "--header", f"Authorization: Bearer {key}"]
    return _inspected(target, {}, era, tool, arguments)


def by_typescript(url: str, key: str, tool: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Version 1 and version 2 of the TypeScript SDK, the latter in each of its ways to choose a revision."""
    script = PROJECT / "benchmarks" / "ts_client.mjs"
    command = [node_tools.node(), str(script), str(node_tools.NODE_FOLDER), url, tool, json.dumps(arguments)]
    done = subprocess.run(
        [*command, f"Authorization: Bearer {key}"],
        env=node_tools.node_environment(), capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    attempts: list[dict[str, Any]] = json.loads(done.stdout)
    return attempts


def researching(url: str, key: str, tool: str) -> list[dict[str, Any]]:
    """What both TypeScript SDKs see of a tool that is called as a task, version 1 by asking for one as well."""
    script = node_tools.NODE_FOLDER / "research.mjs"
    done = subprocess.run(
        [node_tools.node(), str(script), url, key, tool],
        env=node_tools.node_environment(), capture_output=True, text=True, timeout=2 * SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: list[dict[str, Any]] = json.loads(done.stdout)
    return seen


# Over standard streams -------------------------------------------------------------------------------------------


def by_sdk_over_stdio(command: Command, era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The client of the MCP SDK for Python, which starts the program itself."""

    async def ask() -> Seen:
        program, *rest = command.line
        parameters = StdioServerParameters(command=program, args=rest, env=dict(command.env), cwd="/")
        async with SdkClient(stdio_client(parameters), mode=ERAS[era]) as client:
            return await _asked(client, tool, arguments)

    return asyncio.run(ask())


def by_fastmcp_over_stdio(command: Command, era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The client of FastMCP, which starts the program itself."""

    async def ask() -> Seen:
        program, *rest = command.line
        transport = StdioTransport(program, rest, env=dict(command.env), cwd="/")
        async with FastMCPClient(transport, mode=ERAS[era]) as client:
            return await _asked_by_fastmcp(client, tool, arguments)

    return asyncio.run(ask())


def by_inspector_over_stdio(command: Command, era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    """The inspector's command line, which starts the program itself."""
    return _inspected([*command.line, "--transport", "stdio"], command.env, era, tool, arguments)


# Each in its own way ---------------------------------------------------------------------------------------------


async def _asked(client: SdkClient, tool: str, arguments: dict[str, Any]) -> Seen:
    names = {each.name for each in (await client.list_tools()).tools}
    result = in_words_of_the_protocol(await client.call_tool(tool, arguments))
    return Seen(client.protocol_version, names, result)


async def _asked_by_fastmcp(client: "FastMCPClient[Any]", tool: str, arguments: dict[str, Any]) -> Seen:
    names = {each.name for each in await client.list_tools()}
    result = in_words_of_the_protocol(await client.call_tool_mcp(tool, arguments))
    return Seen(client.protocol_version, names, result)


def _inspected(target: list[str], env: Mapping[str, str], era: str, tool: str, arguments: dict[str, Any]) -> Seen:
    given = [part for name, value in env.items() for part in ("-e", f"{name}={value}")]
    options = [*given, "--protocol-era", INSPECTOR_ERAS[era], "--format", "json", "--connect-timeout", "60000"]
    listed = _inspector([*target, *options, "--method", "tools/list"])
    call = ["--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments)]
    answered = _inspector([*target, *options, *call])
    # It does not say which revision it spoke, but prints `_meta`, where only 2026-07-28 names the server.
    revision = "2026-07-28" if SERVER_INFO in answered.get("_meta", {}) else "2025-11-25"
    return Seen(revision, {each["name"] for each in listed["tools"]}, in_words_of_the_protocol(answered))


def _inspector(arguments: list[str]) -> dict[str, Any]:
    """Run the inspector with a home of its own: it keeps files there."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [node_tools.node(), str(node_tools.INSPECTOR), "--cli", *arguments],
            env={**node_tools.node_environment(), "HOME": home},
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode in (0, TOOL_ERROR), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)["result"]
    return result
