"""The reference server of npm, which nobody here wrote: our clients give what the SDK's own client gives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp_types import ErrorData

from apps.registry.services.reading import read_all
from apps.registry.services.routes import connect
from tests.fixtures import servers
from tests.fixtures.node_tools import is_installed
from tests.registry.conftest import make_route, run

pytestmark = [
    pytest.mark.slow_process,
    pytest.mark.skipif(not is_installed(), reason="The servers of npm are installed by `make test`."),
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("echo", {"message": "grüße ✓"}),
    ("get-sum", {"a": 2, "b": 40.5}),
    ("get-tiny-image", {}),
    ("get-structured-content", {"location": "New York"}),
    ("get-sum", {"a": "not a number"}),
]


def as_wire(result: Any) -> dict[str, Any]:
    """What counts of a result."""
    kept = ("content", "structuredContent", "isError")
    return {key: result[key] for key in kept if result.get(key) not in (None, False)}


async def refuse(*_: Any) -> ErrorData:
    """Answer whatever is asked: who declares that they can be asked is shown all tools."""
    return ErrorData(code=-32603, message="Not now.")


@asynccontextmanager
async def direct(transport: Any) -> AsyncIterator[Any]:
    """The SDK's client."""
    from mcp.client.client import Client

    everything = dict.fromkeys(("elicitation_callback", "sampling_callback", "list_roots_callback"), refuse)
    async with Client(transport, **everything) as client:
        yield client


async def results_of_ours(route: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """What our client gives for each call, and the tools it lists."""
    upstream = connect(route)
    await upstream.open()
    try:
        results = [
            as_wire(await upstream.request("tools/call", {"name": name, "arguments": given}, timeout_seconds=10))
            for name, given in CALLS
        ]
    finally:
        await upstream.aclose()
    return results, (await read_all(route)).items["tool"]


async def results_of_sdk(transport: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """What the SDK's client gives."""
    async with direct(transport) as client:
        results = [await client.call_tool(name, given) for name, given in CALLS]
        tools = (await client.list_tools()).tools
    dumped = [as_wire(result.model_dump(mode="json", by_alias=True, exclude_none=True)) for result in results]
    return dumped, [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


def test_over_http_our_answers_equal_those_of_the_sdk(settings: Any) -> None:
    port = servers.free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    url = f"http://127.0.0.1:{port}/mcp"

    with servers.everything_http(port):
        ours, tools = run(lambda: results_of_ours(make_route(url=url)))
        theirs, their_tools = asyncio.run(results_of_sdk(url))

    assert ours == theirs
    assert {"get-roots-list", "trigger-elicitation-request", "trigger-sampling-request"} <= {
        tool["name"] for tool in tools
    }
    assert [tool["name"] for tool in tools] == [tool["name"] for tool in their_tools]
    assert [tool["inputSchema"] for tool in tools] == [tool["inputSchema"] for tool in their_tools]


def test_over_the_transport_of_two_addresses_our_answers_equal_those_of_the_sdk(settings: Any) -> None:
    from mcp.client.sse import sse_client

    port = servers.free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    url = f"http://127.0.0.1:{port}/sse"

    with servers.everything_sse(port):
        ours, tools = run(lambda: results_of_ours(make_route(transport="sse", url=url)))
        theirs, their_tools = asyncio.run(results_of_sdk(sse_client(url)))

    assert ours == theirs
    assert [tool["name"] for tool in tools] == [tool["name"] for tool in their_tools]


def test_over_stdio_our_answers_equal_those_of_the_sdk(settings: Any) -> None:
    from mcp.client.stdio import StdioServerParameters, stdio_client

    command = servers.everything_stdio_command()
    settings.STDIO_ALLOW = (" ".join(command),)

    ours, tools = run(lambda: results_of_ours(make_route(transport="stdio", command=tuple(command))))
    transport = stdio_client(StdioServerParameters(command=command[0], args=command[1:]))
    theirs, their_tools = asyncio.run(results_of_sdk(transport))

    assert ours == theirs
    assert [tool["name"] for tool in tools] == [tool["name"] for tool in their_tools]
