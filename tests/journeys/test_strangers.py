"""Programs that nobody here wrote, on both sides: clients that an agent may be, and a server that stands behind."""

import asyncio
import datetime
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.fixtures import node_tools
from tests.fixtures.servers import PROJECT, everything_http, everything_stdio_command, free_port
from tests.journeys import strangers
from tests.journeys.agents import ERAS, call, call_over_stdio, connected
from tests.journeys.platform import Platform
from tests.journeys.rest import discovered, offered, signed_in, signed_in_as
from tests.journeys.strangers import Command, Seen, in_words_of_the_protocol

pytestmark = pytest.mark.slow_process

TIME_TOOL = "time__get_current_time"
IN_PARIS = {"timezone": "Europe/Paris"}
CLIENTS = [strangers.by_sdk, strangers.by_fastmcp, strangers.by_inspector]
STDIO_CLIENTS = [strangers.by_sdk_over_stdio, strangers.by_fastmcp_over_stdio, strangers.by_inspector_over_stdio]
CALLS: dict[str, dict[str, Any]] = {
    "echo": {"message": "héllo ✓ \u2028 \U0001f984"},
    "get-sum": {"a": 2.5, "b": -40},
    "get-tiny-image": {},
    "get-structured-content": {"location": "Chicago"},
}
WRONG_CALLS: dict[str, dict[str, Any]] = {
    "echo": {},
    "get-sum": {"a": "two", "b": 3},
    "get-structured-content": {"location": "Atlantis"},
}


@pytest.fixture(scope="module")
def upstream_port() -> Iterator[int]:
    """The reference server of npm, over streamable HTTP."""
    node_tools.install()
    port = free_port()
    with everything_http(port):
        yield port


@pytest.fixture(scope="module")
def platform(tmp_path_factory, upstream_port) -> Iterator[Platform]:
    """A platform with the demo, whose operator allows the reference server on the loopback and as a program."""
    allowed = {
        "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{upstream_port}",
        "GATEHOUSE_STDIO_ALLOW": shlex.join(everything_stdio_command()),
    }
    with Platform(tmp_path_factory.mktemp("strangers"), **allowed) as started:
        yield started


# Clients ---------------------------------------------------------------------------------------------------------


def assert_tells_the_time(seen: Seen, era: str) -> None:
    """The client spoke this revision, saw the demo's tools, and got the right answer."""
    told = seen.result["structuredContent"]
    assert seen.revision == era
    assert {TIME_TOOL, "time__convert_time", "platform_health"} <= seen.names
    assert seen.result["isError"] is False
    assert told["timezone"] == "Europe/Paris"
    now = datetime.datetime.now(datetime.UTC)
    assert abs(datetime.datetime.fromisoformat(told["datetime"]) - now) < datetime.timedelta(minutes=2)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_with_the_printed_key_lists_and_calls_the_demo(platform, client, era):
    seen = client(f"{platform.url}/mcp", platform.demo_key(), era, TIME_TOOL, IN_PARIS)

    assert_tells_the_time(seen, era)


def test_both_typescript_sdks_list_and_call_the_demo(platform):
    attempts = strangers.by_typescript(f"{platform.url}/mcp", platform.demo_key(), TIME_TOOL, IN_PARIS)

    assert [each for each in attempts if not each["ok"] or each["isError"]] == []
    assert [each["label"].partition(" ")[0] for each in attempts] == ["sdk-v1", *["client-v2"] * 3]
    assert [each["protocol"] for each in attempts] == ["2025-11-25", "2025-11-25", "2026-07-28", "2026-07-28"]
    assert all("Europe/Paris" in each["content"][0]["text"] for each in attempts)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("client", STDIO_CLIENTS)
def test_a_client_that_starts_the_program_lists_and_calls_the_demo(platform, client, era):
    line = [sys.executable, str(PROJECT / "manage.py"), "mcp", "stdio"]
    command = Command(line, {"GATEHOUSE_KEY": platform.demo_key(), "GATEHOUSE_DATA": str(platform.data)})

    assert_tells_the_time(client(command, era, TIME_TOOL, IN_PARIS), era)


# Servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def over_http(platform, upstream_port) -> dict[str, Any]:
    """Registered by a developer of Acme, discovered by a job, approved by an admin; a developer may not approve."""
    developer, admin = signed_in(platform, "developer"), signed_in(platform, "admin")
    body = {"name": "Everything", "slug": "everything", "url": f"http://127.0.0.1:{upstream_port}/mcp"}
    place = discovered(developer, body)
    assert developer.post(f"{place}/approve").status == 403
    approved = admin.post(f"{place}/approve")
    assert approved.status == 200, approved.text
    server: dict[str, Any] = approved.json()
    return server


@pytest.fixture(scope="module")
def over_stdio(platform) -> dict[str, Any]:
    """Registered by the platform admin, who names Acme; a developer may not."""
    body = {
        "name": "Everything here", "slug": "everything-io", "transport": "stdio", "command": everything_stdio_command(),
    }  # fmt: skip
    refused = signed_in(platform, "developer").post("/api/v1/mcp/servers", body)
    assert (refused.status, refused.json()["error"]["code"]) == (403, "NOT_PERMITTED")
    platform.provision()
    operator = signed_in_as(platform, platform.admin_account(), **{"X-Organization": "acme"})
    return offered(operator, signed_in(platform, "admin"), body)


SERVERS = ["over_http", "over_stdio"]


def directly(transport: str, port: int, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the reference server itself answers; it speaks the revisions of 2025 only."""
    if transport == "stdio":
        answer = call_over_stdio(everything_stdio_command(), {}, str(PROJECT), tool, arguments)
    else:
        answer = call(f"http://127.0.0.1:{port}/mcp", "none", tool, arguments)
    return in_words_of_the_protocol(answer)


@pytest.mark.parametrize("transport", SERVERS)
def test_a_strange_server_is_known_by_what_it_says_itself(platform, transport, request):
    server = request.getfixturevalue(transport)

    assert server["is_approved"]
    assert server["protocol_version"] == "2025-11-25"
    assert server["server_info"]["name"] == "mcp-servers/everything"


@pytest.mark.parametrize("tool", CALLS)
@pytest.mark.parametrize("transport", SERVERS)
def test_a_call_through_the_platform_answers_what_a_direct_call_does(
    platform, upstream_port, transport, tool, request
):  # fmt: skip
    server = request.getfixturevalue(transport)
    expected = directly(server["transport"], upstream_port, tool, CALLS[tool])
    key = platform.provision()["keys"]["developer"]

    answers = [call(f"{platform.url}/mcp", key, f"{server['slug']}__{tool}", CALLS[tool], era) for era in ERAS]

    assert expected["isError"] is False
    assert [in_words_of_the_protocol(answer) for answer in answers] == [expected, expected]


@pytest.mark.parametrize("tool", WRONG_CALLS)
@pytest.mark.parametrize("transport", SERVERS)
def test_a_tools_own_error_comes_through_as_it_is(platform, upstream_port, transport, tool, request):
    server = request.getfixturevalue(transport)
    expected = directly(server["transport"], upstream_port, tool, WRONG_CALLS[tool])
    key = platform.provision()["keys"]["developer"]

    answers = [call(f"{platform.url}/mcp", key, f"{server['slug']}__{tool}", WRONG_CALLS[tool], era) for era in ERAS]

    assert expected["isError"] is True
    assert [in_words_of_the_protocol(answer) for answer in answers] == [expected, expected]


@pytest.mark.parametrize("transport", SERVERS)
def test_a_tools_definition_comes_through_as_it_is(platform, upstream_port, transport, request):
    server = request.getfixturevalue(transport)
    key = platform.provision()["keys"]["developer"]
    direct = definitions(f"http://127.0.0.1:{upstream_port}/mcp", "none", "2025-11-25")

    for era in ERAS:
        shown = definitions(f"{platform.url}/mcp", key, era)
        for tool in CALLS:
            assert shown[f"{server['slug']}__{tool}"] == direct[tool]


def definitions(url: str, key: str, era: str) -> dict[str, dict[str, Any]]:
    """The definition of each tool, without its name."""

    async def ask() -> dict[str, dict[str, Any]]:
        async with connected(url, key, era) as client:
            tools = (await client.list_tools()).tools
            return {tool.name: tool.model_dump(mode="json", by_alias=True, exclude={"name"}) for tool in tools}

    return asyncio.run(ask())


@pytest.mark.parametrize("transport", SERVERS)
def test_another_organisation_neither_sees_nor_calls_it(platform, transport, request):
    server = request.getfixturevalue(transport)
    key = platform.provision("globex")["keys"]["owner"]

    async def ask(era: str) -> None:
        async with connected(f"{platform.url}/mcp", key, era) as client:
            assert not [tool for tool in (await client.list_tools()).tools if tool.name.startswith("everything")]
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool(f"{server['slug']}__echo", {"message": "let me in"})

    for era in ERAS:
        asyncio.run(ask(era))
