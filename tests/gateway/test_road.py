"""What goes over the road: who sees and calls what, and what an upstream can do to it."""

import asyncio
import statistics
import time
from typing import Any

import httpx2
import pytest
from fastmcp import Client as FastClient
from fastmcp.client.transports import StreamableHttpTransport
from mcp.client.client import Client as SdkClient
from mcp.client.streamable_http import streamable_http_client

from apps.registry.models import Risk
from tests.fixtures.servers import evil_upstream
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, add_tool, agent_of, change, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.live import Live
from tests.people import Person
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
NATIVE = {"platform_health", "platform_metadata", "search", "fetch"}


# Lists and native tools ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_an_agent_sees_native_and_approved_tools_alike(live: Live, alice: Person, evil: Evil, revision: str) -> None:
    offer(alice, "up", evil.url, tools=("echo", "add"))

    listed = agent_of(live, alice, revision).list()

    assert {tool["name"] for tool in listed["tools"]} == NATIVE | {"up__echo", "up__add"}
    assert all(tool["inputSchema"]["type"] == "object" for tool in listed["tools"])


def test_results_have_the_shape_of_their_revision(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url)
    modern, legacy = agent_of(live, alice, MODERN), agent_of(live, alice, LEGACY)

    listed, called = modern.list(), modern.call("up__echo", text="hi")
    assert (listed["resultType"], listed["cacheScope"], type(listed["ttlMs"])) == ("complete", "private", int)
    assert listed["_meta"][META + "serverInfo"]["name"] == "gatehouse"
    assert called["resultType"] == "complete"
    assert called["_meta"][META + "serverInfo"]["name"] == "gatehouse"

    assert set(legacy.list()) == {"tools"}
    assert legacy.call("up__echo", text="hi") == {"content": [{"type": "text", "text": "hi"}]}


@pytest.mark.parametrize("mode", ["legacy", MODERN, "auto"])
def test_the_sdk_s_client_and_fastmcp_s_list_and_call(live: Live, alice: Person, evil: Evil, mode: str) -> None:
    offer(alice, "up", evil.url)
    headers = {"Authorization": f"Bearer {live.key(alice)}"}

    async def talk() -> None:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            SdkClient(streamable_http_client(live.mcp_url, http_client=http), mode=mode) as sdk,
        ):
            assert "up__echo" in {tool.name for tool in (await sdk.list_tools()).tools}
            answer: Any = await sdk.call_tool("up__echo", {"text": "hello"})
            assert answer.content[0].text == "hello"
            assert (await sdk.list_resources()).resources == []
            assert (await sdk.list_prompts()).prompts == []
        async with FastClient(StreamableHttpTransport(live.mcp_url, headers=headers), mode=mode) as fast:
            assert "up__echo" in {tool.name for tool in await fast.list_tools()}
            assert (await fast.call_tool("up__echo", {"text": "hello"})).content[0].text == "hello"
            assert (await fast.call_tool("platform_metadata", {})).data.organization == "acme"

    asyncio.run(talk())


@pytest.mark.parametrize("revision", BOTH)
def test_search_and_fetch_read_the_caller_s_own_catalogue(
    live: Live, alice: Person, bob: Person, evil: Evil, revision: str
) -> None:
    offer(alice, "up", evil.url, tools=("echo", "add", "slow"))
    offer(bob, "secret", evil.url, tools=("echo",))
    agent = agent_of(live, alice, revision)

    found = agent.call("search", query="UP tool echo")["structuredContent"]
    assert [each["id"] for each in found["results"]] == ["up__echo"]
    fetched = agent.call("fetch", id="up__echo")["structuredContent"]
    assert (fetched["id"], fetched["metadata"]["server"]) == ("up__echo", "up")
    assert "The tool echo." in fetched["text"]
    assert agent.failure("fetch", id="secret__echo")["code"] == "NOT_FOUND"
    assert agent.call("search", query="secret")["structuredContent"]["results"] == []


def test_search_has_pages_and_refuses_what_is_no_cursor(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=tuple(f"t{number}" for number in range(25)))
    agent, seen, cursor = agent_of(live, alice), [], None

    while True:
        page = agent.call("search", query="up", limit=10, **({"cursor": cursor} if cursor else {}))["structuredContent"]
        seen += [each["id"] for each in page["results"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert len(seen) == len(set(seen)) == 25
    assert agent.failure("search", query="", cursor="x")["code"] == "INVALID_INPUT"
    assert agent.failure("search", query="", limit=1000)["details"]["fields"].keys() == {"limit"}
    assert agent.failure("search", query="", surprise=1)["code"] == "INVALID_INPUT"


def test_servers_whose_last_check_failed_are_named_in_the_list(live: Live, alice: Person, evil: Evil) -> None:
    from django.utils import timezone

    server = offer(alice, "up", evil.url)
    for revision in BOTH:
        assert "gatehouse/unavailable" not in agent_of(live, alice, revision).list().get("_meta", {})

    since = timezone.now()
    change(server, health="unhealthy", failing_since=since, health_message="It does not answer.")

    for revision in BOTH:
        listed = agent_of(live, alice, revision).list()
        expected = [{"server": "up", "since": since.isoformat(), "reason": "It does not answer."}]
        assert listed["_meta"]["gatehouse/unavailable"] == expected
        assert "up__echo" in {tool["name"] for tool in listed["tools"]}


# Rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_a_tool_of_another_organization_looks_like_one_that_does_not_exist(
    live: Live, alice: Person, bob: Person, evil: Evil, revision: str
) -> None:
    offer(alice, "up", evil.url)
    agent = agent_of(live, bob, revision)
    assert agent.names() == NATIVE

    foreign, missing = (agent.ask("tools/call", {"name": name, "arguments": {}}) for name in ("up__echo", "no__echo"))

    assert foreign["error"]["code"] == -32602
    assert "Unknown tool: up__echo" in foreign["error"]["message"]
    assert foreign["error"]["data"]["code"] == "NOT_FOUND"
    for answer, name in ((foreign, "up__echo"), (missing, "no__echo")):
        answer["error"]["message"] = answer["error"]["message"].replace(name, "*")
        answer["error"]["data"] = {**answer["error"]["data"], "message": "", "timestamp": "", "request_id": ""}
    assert foreign["error"] == missing["error"]
    assert evil.seen("calls") == {}


def test_withdrawn_and_unapproved_tools_are_unknown(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url)
    changed = add_tool(server, "add", approved_digest="0" * 64)
    gone = add_tool(server, "slow", is_enabled=False)
    refresh(alice)
    agent = agent_of(live, alice)

    assert agent.names() == NATIVE | {"up__echo"}
    for tool in (changed.public_name, gone.public_name):
        assert agent.ask("tools/call", {"name": tool, "arguments": {}})["error"]["code"] == -32602


def test_a_disabled_server_is_gone_within_a_second(live: Live, alice: Person, evil: Evil) -> None:
    from apps.auth import services as auth
    from apps.registry.models import Server

    server, agent = offer(alice, "up", evil.url), agent_of(live, alice)
    agent.text("up__echo", text="hi")

    Server.objects.filter(pk=server.pk).update(is_enabled=False)
    auth.raise_revision(alice.organization.id)
    time.sleep(1)

    assert agent.ask("tools/call", {"name": "up__echo", "arguments": {}})["error"]["code"] == -32602


def test_a_viewer_calls_what_only_reads_and_nothing_else(live: Live, alice: Person, victor: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", risk=Risk.LOW)
    add_tool(server, "add", risk=Risk.HIGH)
    refresh(alice)
    agent = agent_of(live, victor)

    assert agent.names() == NATIVE | {"up__echo"}
    assert agent.text("up__echo", text="hi") == "hi"
    assert agent.failure("up__add", a=1, b=2)["code"] == "NOT_PERMITTED"
    assert evil.seen("calls") == {"echo": 1}
    assert [event.status for event in events()] == ["ok", "denied"]


def test_a_key_narrowed_to_one_server_sees_that_one(live: Live, alice: Person, evil: Evil) -> None:
    for slug in ("up", "other"):
        offer(alice, slug, evil.url)
    agent = agent_of(live, alice, scopes=("tool.call:up__*",))

    assert agent.names() == {"up__echo"}
    assert agent.text("up__echo", text="hi") == "hi"
    assert agent.failure("other__echo", text="hi")["code"] == "NOT_PERMITTED"
    assert agent.failure("search", query="")["code"] == "NOT_PERMITTED"


def test_staff_can_ask_for_more_rights(live: Live, alice: Person, dora: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", required_scopes=["server.approve"])
    refresh(alice)

    assert agent_of(live, alice).text("up__echo", text="hi") == "hi"
    assert agent_of(live, dora).failure("up__echo", text="hi")["code"] == "NOT_PERMITTED"


def test_a_tool_s_rate_limit_holds_for_all_its_callers(live: Live, alice: Person, dora: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", rate_limit_per_minute=3)
    refresh(alice)
    agents = agent_of(live, alice, MODERN), agent_of(live, dora, LEGACY)

    results = [agents[number % 2].call("up__echo", text="hi") for number in range(6)]

    assert [bool(result.get("isError")) for result in results] == [False] * 3 + [True] * 3
    error = results[-1]["_meta"]["gatehouse/error"]
    assert error["code"] == "RATE_LIMITED"
    assert 1 <= error["details"]["retry_after"] <= 20
    assert evil.seen("calls") == {"echo": 3}


def test_results_of_harmless_tools_are_kept_as_long_as_staff_say(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", risk=Risk.LOW, cache_seconds=60)
    add_tool(server, "add", risk=Risk.HIGH, cache_seconds=60)
    refresh(alice)
    agent = agent_of(live, alice)

    for text in ("a", "a", "b", "a"):
        assert agent.text("up__echo", text=text) == text
    for _ in range(2):
        assert agent.text("up__add", a=1, b=2) == "3"

    assert evil.seen("calls") == {"echo": 2, "add": 2}


# Names -----------------------------------------------------------------------------------------------------------


def test_the_same_tool_of_two_servers_has_two_names_that_reach_the_right_one(
    live: Live, alice: Person, evil: Evil, good: Evil
) -> None:
    offer(alice, "a", evil.url, tools=("echo",))
    offer(alice, "b", good.url, tools=("echo",))
    agent = agent_of(live, alice)

    assert agent.names() >= {"a__echo", "b__echo"}
    agent.text("b__echo", text="hi")

    assert (evil.seen("calls"), good.seen("calls")) == ({}, {"echo": 1})


def test_a_native_tool_cannot_be_shadowed(
    live: Live, alice: Person, evil: Evil, caplog: pytest.LogCaptureFixture
) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", public_name="search")
    refresh(alice)
    agent = agent_of(live, alice)

    assert [tool["title"] for tool in agent.list()["tools"] if tool["name"] == "search"] == ["Search"]
    assert "results" in agent.call("search", query="")["structuredContent"]
    assert evil.seen("calls") == {}
    assert "Two tools are called search" in caplog.text


@pytest.mark.parametrize("revision", BOTH)
@pytest.mark.parametrize(
    "name",
    ["up echo", "x" * 129, "x" * 100_000, "../../etc/passwd", "up__echo\n", "UP__ECHO", "up__\u0435cho", " up__echo"],
)
def test_names_that_are_no_tool_s_are_unknown(live: Live, alice: Person, evil: Evil, revision: str, name: str) -> None:
    offer(alice, "up", evil.url)
    agent = agent_of(live, alice, revision).open()
    if revision == MODERN:
        import base64

        agent.headers["Mcp-Name"] = f"=?base64?{base64.b64encode(name.encode()).decode()}?="
    if revision == MODERN and len(name) > 10_000:
        return  # a header of this length is refused before it reaches us

    answer = agent.send("tools/call", {"name": name, "arguments": {}}).json()

    assert answer["error"]["code"] == -32602
    assert len(answer["error"]["message"]) < 400
    assert evil.seen("calls") == {}


@pytest.mark.parametrize("params", [{}, {"name": 5}, {"name": ""}, {"name": "up__echo", "arguments": [1]}])
def test_calls_without_a_name_or_with_wrong_arguments_are_invalid(
    live: Live, alice: Person, params: dict[str, Any]
) -> None:
    error = agent_of(live, alice).ask("tools/call", params)["error"]

    assert (error["code"], error["data"]["code"]) == (-32602, "MALFORMED")


# What travels upstream -------------------------------------------------------------------------------------------

CALLER_HEADERS = {
    "Cookie": "sessionid=canary-cookie",
    "X-Api-Key": "canary-key",
    "X-Forwarded-For": "10.1.2.3",
    "X-Custom": "canary-custom",
    "User-Agent": "canary-agent",
    "Proxy-Authorization": "Basic canary",
    "Mcp-Param-Region": "canary-param",
}
MAY_TRAVEL = {
    "host", "accept", "content-type", "content-length", "accept-encoding", "user-agent", "mcp-protocol-version",
    "mcp-session-id", "mcp-method", "mcp-name", "traceparent", "x-request-id", "authorization",
}  # fmt: skip


@pytest.mark.parametrize("revision", BOTH)
@pytest.mark.parametrize("spoken", BOTH)
def test_nothing_of_the_caller_s_travels_upstream(
    live: Live, alice: Person, evil: Evil, revision: str, spoken: str
) -> None:
    offer(alice, "up", evil.url, tools=("leak",), protocol_version=spoken)
    agent = agent_of(live, alice, revision).open()
    agent.headers = CALLER_HEADERS

    agent.text("up__leak")

    seen = [{name: value for name, value in each.items() if name[0] != ":"} for each in evil.seen("headers")]
    assert seen
    for headers in seen:
        assert set(headers) <= MAY_TRAVEL - {"authorization"}
        everything = str(headers)
        assert "canary" not in everything
        assert agent.key not in everything
        assert agent.session not in everything or not agent.session


def test_the_server_s_own_credential_goes_up_and_never_comes_back(live: Live, alice: Person, evil: Evil) -> None:
    from apps.registry import services as registry

    server = offer(alice, "up", evil.url, tools=("leak",))
    registry.add_credential(alice.actor, server_id=server.id, kind="bearer", secret="canary-upstream-secret")
    refresh(alice)

    text = agent_of(live, alice).text("up__leak")

    assert evil.seen("headers")[-1]["authorization"] == "Bearer canary-upstream-secret"
    assert "canary-upstream-secret" not in text
    assert "[redacted]" in text


def test_an_upstream_session_ends_with_the_session_it_was_opened_for(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, protocol_version=LEGACY)
    agents = [agent_of(live, alice) for _ in range(2)]
    for agent in agents:
        agent.text("up__echo", text="hi")
    assert len(evil.seen("sessions")) == 2

    agents[0].close()

    wait_until(lambda: len(evil.seen("sessions")) == 1)


# What an upstream can do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_an_error_of_the_tool_s_own_is_passed_on_as_it_is(live: Live, alice: Person, evil: Evil, revision: str) -> None:
    offer(alice, "up", evil.url, tools=("is_error", "missing"))
    agent = agent_of(live, alice, revision)

    result = agent.call("up__is_error")
    assert result["isError"] is True
    assert result["content"] == [{"type": "text", "text": "The tool failed on purpose."}]

    error = agent.failure("up__missing")
    assert error["code"] == "BACKEND_FAILED"
    assert "up refused the call" in error["message"]


@pytest.mark.parametrize("tool", ["huge", "many_blocks"])
def test_a_result_that_is_too_large_is_cut_off(live: Live, alice: Person, evil: Evil, settings: Any, tool: str) -> None:
    settings.UPSTREAM_MAX_RESULT_BYTES = 1_000_000
    offer(alice, "up", evil.url, tools=(tool, "echo"))
    agent = agent_of(live, alice)

    for _ in range(settings.BREAKER_FAILURES + 1):
        error = agent.failure(f"up__{tool}")
        assert error["code"] == "BACKEND_FAILED"
        assert "up" in error["message"]

    assert agent.text("up__echo", text="still there") == "still there"


def test_a_result_of_very_many_values_is_refused_before_it_is_read(
    live: Live, alice: Person, evil: Evil, settings: Any
) -> None:
    offer(alice, "up", evil.url, tools=("many_blocks", "echo"))
    agent = agent_of(live, alice)

    for _ in range(settings.BREAKER_FAILURES + 1):
        error = agent.failure("up__many_blocks", count=200_000)
        assert error["code"] == "BACKEND_FAILED"
        assert "100000 values" in error["message"]

    assert agent.text("up__echo", text="still there") == "still there"
    assert len(agent.call("up__many_blocks", count=20_000)["content"]) == 20_000


@pytest.mark.measured
@pytest.mark.parametrize("tool", ["hang", "drip", "endless_sse"])
def test_a_server_that_does_not_come_to_an_end_fails_at_its_deadline(
    live: Live, alice: Person, evil: Evil, tool: str
) -> None:
    offer(alice, "up", evil.url, tools=(tool, "echo"), timeout_seconds=1.0)
    agent = agent_of(live, alice)
    agent.text("up__echo", text="warm")

    began = time.monotonic()
    error = agent.failure(f"up__{tool}")
    took = time.monotonic() - began

    assert error["code"] == "BACKEND_TIMEOUT"
    assert "up did not answer within 1 seconds" in error["message"]
    assert 0.9 <= took <= 1.1


@pytest.mark.measured
def test_a_frozen_server_fails_at_its_deadline_and_slows_nobody_else(
    live: Live, alice: Person, evil: Evil, good: Evil
) -> None:
    import signal
    from concurrent.futures import ThreadPoolExecutor

    offer(alice, "frozen", evil.url, timeout_seconds=1.0)
    offer(alice, "good", good.url)
    healthy = agent_of(live, alice)
    before = _p95(healthy)

    evil.process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as threads:
            stuck = [agent_of(live, alice) for _ in range(4)]
            failures = [threads.submit(_timed_failure, agent) for agent in stuck]
            during = _p95(healthy)
            for failure in failures:
                code, took = failure.result()
                assert code == "BACKEND_TIMEOUT"
                # The callers share this process with the platform and with each other.
                assert 0.9 <= took <= 2.0
    finally:
        evil.process.send_signal(signal.SIGCONT)

    assert during <= max(1.5 * before, before + 0.02)


def _timed_failure(agent: Any) -> tuple[str, float]:
    agent.open()
    began = time.monotonic()
    code = agent.failure("frozen__echo", text="x")["code"]
    return code, time.monotonic() - began


def _p95(agent: Any, times: int = 60) -> float:
    agent.text("good__echo", text="warm")
    took = []
    for _ in range(times):
        began = time.monotonic()
        agent.text("good__echo", text="hi")
        took.append(time.monotonic() - began)
    return statistics.quantiles(took, n=20)[-1]


@pytest.mark.parametrize("revision", BOTH)
def test_a_server_that_dies_in_the_middle_gives_a_clean_error_and_one_event(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    offer(alice, "up", evil.url, tools=("crash",))

    error = agent_of(live, alice, revision).failure("up__crash")

    assert error["code"] in ("BACKEND_FAILED", "BACKEND_DOWN")
    assert "up" in error["message"]
    [event] = events()
    assert (event.name, event.server, event.status, event.error_code) == ("up__crash", "up", "error", error["code"])


@pytest.mark.parametrize("tool", ["wrong_id", "not_json", "redirect"])
def test_an_answer_that_breaks_the_protocol_is_not_passed_on(live: Live, alice: Person, evil: Evil, tool: str) -> None:
    offer(alice, "up", evil.url, tools=(tool,), timeout_seconds=1.0)

    error = agent_of(live, alice).failure(f"up__{tool}")

    assert error["code"] in ("BACKEND_FAILED", "BACKEND_TIMEOUT")
    assert "not yours" not in error["message"]


@pytest.mark.measured
def test_a_dead_server_fails_fast_slows_nobody_and_comes_back(
    live: Live, alice: Person, evil: Evil, good: Evil, settings: Any
) -> None:
    settings.BREAKER_OPEN_SECONDS = 2.0
    offer(alice, "dead", evil.url, timeout_seconds=2.0)
    offer(alice, "good", good.url)
    agent = agent_of(live, alice)
    agent.text("dead__echo", text="hi")
    before = _p95(agent)

    evil.process.stop()
    for _ in range(settings.BREAKER_FAILURES):
        began = time.monotonic()
        agent.failure("dead__echo", text="hi")
        assert time.monotonic() - began < 2.2

    for _ in range(20):
        began = time.monotonic()
        error = agent.failure("dead__echo", text="hi")
        assert time.monotonic() - began < 0.05
        assert error["code"] == "BACKEND_DOWN"
        assert "The server dead has failed" in error["message"]
        assert "Try again in" in error["message"]
    assert _p95(agent) <= max(1.5 * before, before + 0.02)

    with evil_upstream(evil.port):
        wait_until(lambda: not agent.call("dead__echo", text="back").get("isError"), seconds=15)


# Usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_every_call_leaves_one_event(live: Live, alice: Person, evil: Evil, revision: str) -> None:
    offer(alice, "up", evil.url, tools=("echo", "is_error"))
    agent = agent_of(live, alice, revision)

    agent.text("up__echo", text="hi")
    agent.call("up__is_error")
    agent.ask("tools/call", {"name": "nothing", "arguments": {}})
    agent.call("search", query="x")
    agent.list()

    seen = [(each.name, each.server, each.status, each.error_code) for each in events()]
    assert seen == [
        ("up__echo", "up", "ok", ""),
        ("up__is_error", "up", "error", "TOOL_ERROR"),
        ("nothing", "", "error", "NOT_FOUND"),
        ("search", "", "ok", ""),
    ]
    first = events()[0]
    assert (first.method, first.endpoint, first.surface) == ("tools/call", "/mcp", "mcp")
    assert first.organization_id == alice.organization.id
    assert first.bytes_in == len(b'{"text":"hi"}')
    assert first.bytes_out > 0
    assert first.latency_ms > 0
    assert first.request_id
