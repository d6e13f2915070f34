"""What clients that nobody here wrote see of the reference server: prompts, resources, progress, and questions to them.

Each tour makes the same steps and gives the same shape, so that they can be compared; calls of further tools come last.
The roots come first: until it knows them the server asks for them at any time, on no request's own stream.
"""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from typing import Any

import httpx2
import mcp_types as types
from fastmcp import Client as FastMCPClient
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StreamableHttpTransport
from mcp.client.client import Client as SdkClient
from mcp.client.streamable_http import streamable_http_client

from tests.fixtures import node_tools
from tests.journeys.agents import ERAS, PATIENCE_SECONDS

ROOT = "file:///srv/acme"
ITEM = "demo://resource/dynamic/text/7"
WEATHER = {"city": "Paris", "state": "FR"}
RUN = {"duration": 0.2, "steps": 2}
SAMPLE = {"prompt": "Capital?", "maxTokens": 10}
COMPLETED = types.PromptReference(type="ref/prompt", name="completable-prompt")
Tour = dict[str, Any]
Calls = Sequence[tuple[str, dict[str, Any]]]


def by_sdk(url: str, key: str, era: str, prefix: str, calls: Calls = ()) -> Tour:
    """The client of the MCP SDK for Python."""
    progress: list[list[float | None]] = []

    async def elicit(_: Any, __: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Alice"})

    async def sample(_: Any, __: Any) -> types.CreateMessageResult:
        said = types.TextContent(type="text", text="Paris")
        return types.CreateMessageResult(role="assistant", content=said, model="test")

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=ROOT, name="Acme")])

    async def progressed(done: float, total: float | None, _: str | None) -> None:
        progress.append([done, total])

    async def ask() -> Tour:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_SECONDS) as http,
            SdkClient(
                streamable_http_client(url, http_client=http), mode=ERAS[era],
                elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots,
            ) as client,
        ):  # fmt: skip
            roots_told = text_of(await client.call_tool(f"{prefix}get-roots-list", {}))
            prompts = (await client.list_prompts()).prompts
            prompt = await client.get_prompt(f"{prefix}args-prompt", WEATHER)
            reference = COMPLETED.model_copy(update={"name": prefix + COMPLETED.name})
            completed = await client.complete(
                reference, {"name": "name", "value": "A"}, context_arguments={"department": "Engineering"}
            )
            resources = (await client.list_resources()).resources
            templates = (await client.list_resource_templates()).resource_templates
            ran = await client.call_tool(f"{prefix}trigger-long-running-operation", RUN, progress_callback=progressed)
            return {
                "revision": client.protocol_version,
                "prompts": [each.name for each in prompts],
                "prompt": prompt.messages[0].content.text,
                "completion": completed.completion.values,
                "resources": [str(each.uri) for each in resources],
                "templates": [each.uri_template for each in templates],
                "document": (await client.read_resource(resources[0].uri)).contents[0].text,
                "item": (await client.read_resource(ITEM)).contents[0].text,
                "progress": progress,
                "ran": text_of(ran),
                "elicited": text_of(await client.call_tool(f"{prefix}trigger-elicitation-request", {})),
                "sampled": text_of(await client.call_tool(f"{prefix}trigger-sampling-request", SAMPLE)),
                "roots": roots_told,
                "calls": [text_of(await client.call_tool(name, given)) for name, given in calls],
            }

    return asyncio.run(ask())


def by_fastmcp(url: str, key: str, era: str, prefix: str, calls: Calls = ()) -> Tour:
    """The client of FastMCP."""
    progress: list[list[float | None]] = []
    roots = [types.Root(uri=ROOT, name="Acme")]

    async def elicit(_: str, __: Any, ___: Any, ____: Any) -> ElicitResult[Any]:
        return ElicitResult(action="accept", content={"name": "Alice"})

    async def sample(_: Any, __: Any, ___: Any) -> types.CreateMessageResult:
        said = types.TextContent(type="text", text="Paris")
        return types.CreateMessageResult(role="assistant", content=said, model="test")

    async def progressed(done: float, total: float | None, _: str | None) -> None:
        progress.append([done, total])

    async def ask() -> Tour:
        transport = StreamableHttpTransport(url, headers={"Authorization": f"Bearer {key}"})
        async with FastMCPClient(
            transport, mode=ERAS[era], elicitation_handler=elicit, sampling_handler=sample, roots=roots
        ) as client:
            roots_told = text_of(await client.call_tool_mcp(f"{prefix}get-roots-list", {}))
            prompt = await client.get_prompt(f"{prefix}args-prompt", WEATHER)
            reference = COMPLETED.model_copy(update={"name": prefix + COMPLETED.name})
            completed = await client.complete(
                reference, {"name": "name", "value": "A"}, context_arguments={"department": "Engineering"}
            )
            resources = await client.list_resources()
            ran = await client.call_tool_mcp(
                f"{prefix}trigger-long-running-operation", RUN, progress_handler=progressed
            )
            return {
                "revision": client.protocol_version,
                "prompts": [each.name for each in await client.list_prompts()],
                "prompt": prompt.messages[0].content.text,
                "completion": completed.values,
                "resources": [str(each.uri) for each in resources],
                "templates": [each.uri_template for each in await client.list_resource_templates()],
                "document": (await client.read_resource(resources[0].uri))[0].text,
                "item": (await client.read_resource(ITEM))[0].text,
                "progress": progress,
                "ran": text_of(ran),
                "elicited": text_of(await client.call_tool_mcp(f"{prefix}trigger-elicitation-request", {})),
                "sampled": text_of(await client.call_tool_mcp(f"{prefix}trigger-sampling-request", SAMPLE)),
                "roots": roots_told,
                "calls": [text_of(await client.call_tool_mcp(name, given)) for name, given in calls],
            }

    return asyncio.run(ask())


def by_typescript(url: str, key: str, prefix: str, calls: Calls = ()) -> list[Tour]:
    """Version 1 of the TypeScript SDK, and version 2 in the older era, by its own choice, and in the newer era."""
    script = node_tools.NODE_FOLDER / "tour.mjs"
    done = subprocess.run(
        [node_tools.node(), str(script), url, key, prefix, json.dumps(calls)],
        env=node_tools.node_environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tours: list[Tour] = json.loads(done.stdout)
    return tours


def text_of(result: Any) -> str:
    """The texts of a result."""
    return "\n".join(getattr(each, "text", "") for each in result.content)
