"""Programs that nobody here wrote, on both sides: clients that an agent may be, and a server that stands behind."""

import asyncio
import datetime
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from tests.fixtures import node_tools
from tests.fixtures.servers import (
    PROJECT,
    everything_http,
    everything_stdio_command,
    filesystem_command,
    free_port,
    git_command,
    memory_command,
)
from tests.journeys import strangers, tours
from tests.journeys.agents import ERAS, call, call_over_stdio, connected
from tests.journeys.platform import Platform
from tests.journeys.rest import discovered, offered, signed_in, signed_in_as
from tests.journeys.strangers import Command, Seen, in_words_of_the_protocol
from tests.live import Client

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
RESEARCH = "simulate-research-query"
"""What the reference server carries out as a task alone."""
LETTER = "Dear Alice, all is well. \N{CHECK MARK}"
WRONG_CALLS: dict[str, dict[str, Any]] = {
    "get-resource-reference": {"resourceType": "Text", "resourceId": -1},
    "trigger-elicitation-request": {},
}
"""What their schemas allow and the tools refuse: a resource that there is not, and a client that cannot be asked."""


@pytest.fixture(scope="module")
def upstream_port() -> Iterator[int]:
    """The reference server of npm, over streamable HTTP."""
    node_tools.install()
    port = free_port()
    with everything_http(port):
        yield port


@dataclass(frozen=True)
class Desk:
    """What the programs of others work on: a file, a repository with one commit, and a memory that is empty."""

    files: Path
    repository: Path
    memory: Path

    def programs(self) -> dict[str, list[str]]:
        """The command lines by the slugs of the servers."""
        return {
            "files": filesystem_command(self.files),
            "memory": memory_command(),
            "git": git_command(self.repository),
        }

    def calls(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """What somebody does with all of them; what they remember bears their name."""
        remembered = {"name": name, "entityType": "person", "observations": [f"{name} likes long walks."]}
        return [
            ("files__read_text_file", {"path": str(self.files / "letter.txt")}),
            ("memory__create_entities", {"entities": [remembered]}),
            ("memory__search_nodes", {"query": f"{name} likes"}),
            ("git__git_log", {"repo_path": str(self.repository)}),
        ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    """The desk before anybody has sat at it."""
    made = Desk(*(tmp_path_factory.mktemp(name).resolve() for name in ("files", "repository", "memory")))
    (made.files / "letter.txt").write_text(LETTER)
    (made.repository / "notes.txt").write_text("One.")
    who = ("-c", "user.name=Alice", "-c", "user.email=alice@acme.example")
    for line in (["init", "--quiet"], ["add", "notes.txt"], [*who, "commit", "--quiet", "-m", "Begin the notes"]):
        subprocess.run(["git", *line], cwd=made.repository, check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def platform(tmp_path_factory, upstream_port, desk) -> Iterator[Platform]:
    """A platform with the demo, whose operator allows the reference server on the loopback and some programs."""
    programs = [everything_stdio_command(), *desk.programs().values()]
    allowed = {
        "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{upstream_port}",
        "GATEHOUSE_STDIO_ALLOW": ";".join(shlex.join(line) for line in programs),
        "GATEHOUSE_MCP_SSE": "1",
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


def test_both_typescript_sdks_list_and_call_the_demo_over_http_sse(platform):
    attempts = strangers.by_typescript(f"{platform.url}/mcp/sse", platform.demo_key(), TIME_TOOL, IN_PARIS)

    assert [each for each in attempts if not each["ok"] or each["isError"]] == []
    assert [each["label"].partition(" ")[0] for each in attempts] == ["sdk-v1", *["client-v2"] * 2]
    assert {each["protocol"] for each in attempts} == {"2025-11-25"}
    assert all("Europe/Paris" in each["content"][0]["text"] for each in attempts)


@pytest.mark.parametrize("client", [strangers.by_sdk_over_sse, strangers.by_fastmcp_over_sse])
def test_a_client_of_python_lists_and_calls_the_demo_over_http_sse(platform, client):
    seen = client(f"{platform.url}/mcp/sse", platform.demo_key(), TIME_TOOL, IN_PARIS)

    assert_tells_the_time(seen, "2025-11-25")


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
    return offered(operator_of(platform), signed_in(platform, "admin"), body)


def operator_of(platform: Platform) -> Client:
    """The platform admin, who works for Acme."""
    platform.provision()
    return signed_in_as(platform, platform.admin_account(), **{"X-Organization": "acme"})


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
def test_a_tool_that_needs_a_task_is_called_by_every_client(platform, transport, request):
    server = request.getfixturevalue(transport)
    key = platform.provision()["keys"]["developer"]
    topic = "the tides" if transport == "over_stdio" else "the moon"
    arguments = {"topic": topic, "ambiguous": False}

    answers = [call(f"{platform.url}/mcp", key, f"{server['slug']}__{RESEARCH}", arguments, era) for era in ERAS]

    for answer in answers:
        assert in_words_of_the_protocol(answer)["content"][0]["text"].startswith(f"# Research Report: {topic}\n")


def test_both_typescript_sdks_are_asked_in_a_task_and_one_of_them_has_it_itself(platform, over_http):
    key = platform.provision()["keys"]["developer"]

    seen = strangers.researching(f"{platform.url}/mcp", key, f"everything__{RESEARCH}")

    assert [each["revision"] for each in seen] == ["2025-11-25", "2025-11-25", "2026-07-28", "2026-07-28"]
    assert all(each["text"].startswith("# Research Report: tasks (technical)\n") for each in seen)
    assert seen[0]["execution"] == {"taskSupport": "optional"}
    began, *looks, done = seen[0]["messages"]
    assert (began["type"], began["status"]) == ("taskCreated", "working")
    assert {each["type"] for each in looks} == {"taskStatus"}
    assert [looks[0]["status"], looks[-1]["status"]] == ["working", "input_required"]
    assert done["text"].startswith("# Research Report: tasks (technical)\n")
    assert done["related"] == began["task"]


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


# All that a server offers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint(platform, over_http, desk) -> tuple[str, str]:
    """The address and a key of Acme, whose platform admin has registered programs of npm and PyPI as well."""
    operator, admin = operator_of(platform), signed_in(platform, "admin")
    for slug, command in desk.programs().items():
        body = {"name": slug, "slug": slug, "transport": "stdio", "command": command}
        env = {"MEMORY_FILE_PATH": str(desk.memory / "memory.jsonl")} if slug == "memory" else {}
        offered(operator, admin, {**body, "env": env})
    return f"{platform.url}/mcp", platform.provision()["keys"]["developer"]


@pytest.fixture(scope="module")
def straight(over_http, upstream_port) -> tours.Tour:
    """What the reference server shows whoever asks it directly."""
    return as_shown(tours.by_sdk(f"http://127.0.0.1:{upstream_port}/mcp", "none", "2025-11-25", ""), "")


def as_shown(tour: tours.Tour, prefix: str = "everything__") -> tours.Tour:
    """What a tour shows of this one server, under its own names and without what differs each time."""
    return {
        **{name: each for name, each in tour.items() if name not in ("calls", "revision")},
        "prompts": sorted(name.removeprefix(prefix) for name in tour["prompts"] if name.startswith(prefix)),
        "resources": sorted(uri for uri in tour["resources"] if uri.startswith("demo:")),
        "templates": sorted(uri for uri in tour["templates"] if uri.startswith("demo:")),
        "item": tour["item"].partition(" created at ")[0],
    }


def assert_done(calls: list[str], name: str) -> None:
    """A file was read, something was remembered and is found, and the history of a repository was told."""
    letter, _, found, log = calls
    assert letter == LETTER
    assert f"{name} likes long walks." in found
    assert "Begin the notes" in log and "Alice" in log


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("client", [tours.by_sdk, tours.by_fastmcp])
def test_a_client_of_python_uses_all_that_servers_offer(endpoint, desk, straight, client, era):
    name = f"{client.__name__} of {era}"

    seen = client(*endpoint, era, "everything__", desk.calls(name))

    assert seen["revision"] == era
    assert as_shown(seen) == straight
    assert_done(seen["calls"], name)


def test_the_clients_of_typescript_use_all_that_servers_offer(endpoint, desk, straight):
    seen = tours.by_typescript(*endpoint, "everything__", desk.calls("TypeScript"))

    assert [tour["revision"] for tour in seen] == ["2025-11-25", "2025-11-25", "2026-07-28", "2026-07-28"]
    for tour in seen:
        assert as_shown(tour) == straight
        assert_done(tour["calls"], "TypeScript")


@pytest.mark.parametrize(
    ("era", "tool"),
    [("2025-11-25", "files__read_text_file"), ("auto", "git__git_log"), ("2026-07-28", "memory__create_entities")],
)
def test_the_inspector_works_with_programs_in_every_way_to_choose_a_revision(endpoint, desk, era, tool):
    calls = dict(desk.calls("Inspector"))

    seen = strangers.by_inspector(*endpoint, era, tool, calls[tool])

    assert seen.revision == ("2026-07-28" if era == "auto" else era)
    assert set(calls) <= seen.names
    assert not seen.result["isError"]
    told = {"files": LETTER, "git": "Begin the notes", "memory": "Inspector likes long walks."}
    assert told[tool.partition("__")[0]] in seen.result["content"][0]["text"]
