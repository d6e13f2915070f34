"""What an agent and a server say to each other through the road, in every pairing of the two eras.

The agent is the SDK's own client; the server is the one that passes the official suite.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client as SdkClient
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from apps.registry import services as registry
from apps.registry.models import Server
from tests.fixtures.servers import Forked, free_port
from tests.gateway.agent import MODERN, refresh
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
OVER_SSE = "legacy over HTTP+SSE"
OLDER, MODES = ("legacy", OVER_SSE), ("legacy", OVER_SSE, MODERN)
SECONDS = 60
_SHORTENED = re.compile("up__test_input_required_result_mul.*_[0-9a-f]{8}$")


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, str]]:
    """The same server twice: as of today, and as of before 2026-07-28."""
    ports = {"modern": free_port(), "legacy": free_port()}
    urls = {era: f"http://127.0.0.1:{port}/mcp" for era, port in ports.items()}
    command = [sys.executable, "-m", "tests.fixtures.conformance", "--port"]
    with (
        Forked([*command, str(ports["modern"])], ready=urls["modern"]),
        Forked([*command, str(ports["legacy"]), "--legacy"], ready=urls["legacy"]),
    ):
        yield urls


@pytest.fixture(params=["legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    """The server's era."""
    found: str = request.param
    return found


@pytest.fixture
def server(era: str, upstreams: dict[str, str], alice: Person, settings: Any) -> Server:
    """A server of that era, discovered and approved."""
    url = upstreams[era]
    settings.EGRESS_ALLOW = frozenset({url.split("/")[2]})
    made = registry.register_server(alice.actor, name="Up", slug="up", url=url)
    registry.discover_server(alice.actor, server_id=made.id)
    registry.approve_server(alice.actor, server_id=made.id)
    refresh(alice)
    made.refresh_from_db()
    assert (made.protocol_version == MODERN) == (era == "modern")
    return made


@pytest.fixture(autouse=True)
def _sse_is_on(settings: Any) -> None:
    settings.MCP_SSE = True


@dataclass
class Watcher:
    """Whoever sits before the agent's client, and what they were shown."""

    asked: list[Any] = field(default_factory=list)
    log: list[Any] = field(default_factory=list)
    progress: list[tuple[float, float | None]] = field(default_factory=list)
    notices: list[Any] = field(default_factory=list)

    async def elicit(self, _: Any, params: Any) -> types.ElicitResult:
        """Fill in whatever form there is."""
        self.asked.append(params)
        names = params.requested_schema.get("properties", {}) if hasattr(params, "requested_schema") else {}
        return types.ElicitResult(action="accept", content=dict.fromkeys(names, "Ada"))

    async def sample(self, _: Any, params: Any) -> types.CreateMessageResult:
        """Say what a model says."""
        self.asked.append(params)
        said = types.TextContent(type="text", text="Paris")
        return types.CreateMessageResult(role="assistant", content=said, model="test")

    async def roots(self, _: Any) -> types.ListRootsResult:
        """The one root."""
        return types.ListRootsResult(roots=[types.Root(uri="file:///srv/acme")])

    async def logged(self, params: Any) -> None:
        """Keep a line of log."""
        self.log.append(params)

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        """Keep a report of progress."""
        self.progress.append((progress, total))

    async def heard(self, message: Any) -> None:
        """Keep a notice."""
        self.notices.append(message)


@asynccontextmanager
async def agent(live: Live, key: str, mode: str, person: Watcher, **options: Any) -> AsyncIterator[SdkClient]:
    """The SDK's client with a person before it."""
    given: dict[str, Any] = {
        "elicitation_callback": person.elicit, "sampling_callback": person.sample,
        "list_roots_callback": person.roots, "logging_callback": person.logged, "message_handler": person.heard,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {key}"}
    async with asyncio.timeout(SECONDS), httpx2.AsyncClient(headers=headers, timeout=SECONDS) as http:
        way: Any = streamable_http_client(live.mcp_url, http_client=http)
        if mode == OVER_SSE:
            way, mode = sse_client(f"{live.mcp_url}/sse", headers=headers, timeout=SECONDS), "legacy"
        async with SdkClient(way, mode=mode, **{**given, **options}) as client:
            yield client


@pytest.mark.parametrize("mode", MODES)
def test_prompts_resources_templates_and_completion(live: Live, alice: Person, server: Server, mode: str) -> None:
    key = live.key(alice)

    async def talk() -> None:
        async with agent(live, key, mode, Watcher()) as client:
            prompts = {each.name: each for each in (await client.list_prompts()).prompts}
            assert "up__test_prompt_with_arguments" in prompts
            got = await client.get_prompt("up__test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
            assert got.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"
            uris = {str(each.uri) for each in (await client.list_resources()).resources}
            assert {"test://static-text", "test://static-binary"} <= uris
            assert (await client.read_resource("test://static-binary")).contents[0].blob
            templates = (await client.list_resource_templates()).resource_templates
            assert "test://template/{id}/data" in {each.uri_template for each in templates}
            read = await client.read_resource("test://template/7/data")
            assert '"id": "7"' in read.contents[0].text
            ref = types.PromptReference(type="ref/prompt", name="up__test_prompt_with_arguments")
            found = await client.complete(ref, {"name": "arg1", "value": "par"})
            assert found.completion.values == ["paris", "park", "party"]

    asyncio.run(talk())


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_offered_is_not_found(live: Live, alice: Person, server: Server, mode: str) -> None:
    key = live.key(alice)

    async def talk() -> None:
        async with agent(live, key, mode, Watcher()) as client:
            for uri in (
                "file:///etc/passwd",
                "http://169.254.169.254/latest",
                "test://template/a/b/data",
                "up+test://x",
            ):
                with pytest.raises(MCPError) as refused:
                    await client.read_resource(uri)
                assert refused.value.error.code == (-32602 if mode == MODERN else -32002)
                assert refused.value.error.data["uri"] == uri
            with pytest.raises(MCPError) as refused:
                await client.get_prompt("up__no_such")
            assert refused.value.error.code == -32602

    asyncio.run(talk())


@pytest.mark.parametrize("mode", MODES)
def test_progress_arrives_in_order_and_before_the_result(live: Live, alice: Person, server: Server, mode: str) -> None:
    person = Watcher()

    key = live.key(alice)

    async def talk() -> None:
        async with agent(live, key, mode, person) as client:
            result = await client.call_tool("up__test_tool_with_progress", {}, progress_callback=person.progressed)
            assert not result.is_error
            assert person.progress == [(0, 100), (50, 100), (100, 100)]

    asyncio.run(talk())


@pytest.mark.parametrize("mode", OLDER)
def test_a_server_s_log_reaches_a_session_as_far_as_it_wants_it(
    live: Live, alice: Person, server: Server, era: str, mode: str
) -> None:
    """What a session has said once, a server of 2026-07-28 hears with each request: unasked it logs nothing."""
    person, told = Watcher(), ["Tool execution started", "Tool processing data", "Tool execution completed"]
    key = live.key(alice)

    async def talk() -> None:
        async with agent(live, key, mode, person) as client:
            await client.call_tool("up__test_tool_with_logging", {})
            assert [each.data for each in person.log] == (told if era == "legacy" else [])
            person.log.clear()
            await client.set_logging_level("info")
            await client.call_tool("up__test_tool_with_logging", {})
            assert [each.data for each in person.log] == told
            await client.set_logging_level("error")
            await client.call_tool("up__test_tool_with_logging", {})
            assert len(person.log) == len(told)

    asyncio.run(talk())


@pytest.mark.parametrize("mode", MODES)
def test_a_server_asks_the_person_before_the_client(
    live: Live, alice: Person, server: Server, era: str, mode: str
) -> None:
    """Of another era than the client's, too: a request becomes a result, and a result becomes a request."""
    person = Watcher()

    key = live.key(alice)

    async def talk() -> None:
        async with agent(live, key, mode, person) as client:
            if era == "legacy":
                result = await client.call_tool("up__test_elicitation", {"message": "Who are you?"})
                assert "action=accept" in result.content[0].text and '"username": "Ada"' in result.content[0].text
                said = await client.call_tool("up__test_sampling", {"prompt": "Capital?"})
                assert said.content[0].text == "LLM response: Paris"
            else:
                result = await client.call_tool("up__test_input_required_result_multi_round", {})
                assert result.content[0].text == "Ada likes Ada."
                names = [tool.name for tool in (await client.list_tools()).tools]
                several = next(
                    each for each in names if re.match("up__test_input_required_result_mul.*_[0-9a-f]{8}$", each)
                )
                result = await client.call_tool(several, {})
                assert "Paris" in result.content[0].text and "file:///srv/acme" in result.content[0].text

    asyncio.run(talk())
    assert person.asked


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_cannot_be_asked_is_not_asked(
    live: Live, alice: Person, server: Server, era: str, mode: str
) -> None:
    tool = "test_elicitation" if era == "legacy" else "test_input_required_result_elicitation"
    nobody = dict.fromkeys(("elicitation_callback", "sampling_callback", "list_roots_callback"))

    key = live.key(alice)

    async def talk() -> None:
        async with agent(live, key, mode, Watcher(), **nobody) as client:
            arguments = {"message": "?"} if era == "legacy" else {}
            result = await client.call_tool(f"up__{tool}", arguments)
            assert result.is_error

    asyncio.run(talk())
