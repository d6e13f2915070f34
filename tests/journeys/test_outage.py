"""A server that dies or freezes: its callers are told soon and clearly, nobody else notices, and it is taken back."""

import asyncio
import contextlib
import os
import shlex
import signal
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from mcp.client.client import Client as Agent

from tests.fixtures import node_tools
from tests.fixtures.servers import Process, everything_http, everything_stdio_command, free_port
from tests.journeys.agents import ERAS, connected
from tests.journeys.platform import Platform
from tests.journeys.rest import offered, signed_in, signed_in_as
from tests.live import Client

pytestmark = pytest.mark.slow_process

TIMEOUT_SECONDS = int(os.environ.get("TEST_OUTAGE_SECONDS", "2"))
"""Two, for the suite to end soon; with 30, the default of installations, each frozen server takes minutes."""
CHILD_TIMEOUT_SECONDS = 10
FAILURES = 5
LATEST_SECONDS = max(TIMEOUT_SECONDS * 1.1, TIMEOUT_SECONDS + 0.3)
REFUSED_SECONDS = 0.05
RETURN_SECONDS = 15
ECHO = "everything__echo"
CHILD_ECHO = "everything-io__echo"
TIME = ("time__get_current_time", {"timezone": "UTC"})
OTHERS = [TIME, ("platform_metadata", {})]


@dataclass
class Outcome:
    """How one call ended, and how long it took."""

    seconds: float
    is_error: bool
    text: str
    error: dict[str, Any]


@dataclass
class Stage:
    """A platform with the reference server behind it, both ways, a key of its developer, and its admin."""

    platform: Platform
    upstream: Process
    key: str
    admin: Client
    place: str

    @contextlib.asynccontextmanager
    async def agents(self) -> AsyncIterator[dict[str, Agent]]:
        """One connected agent for each era."""
        async with contextlib.AsyncExitStack() as stack:
            yield {
                era: await stack.enter_async_context(connected(f"{self.platform.url}/mcp", self.key, era))
                for era in ERAS
            }


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    """Acme's developer registered npm's server over HTTP, the operator the same over stdio and one that tells time."""
    node_tools.install()
    port = free_port()
    settings = {
        "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{port}",
        "GATEHOUSE_STDIO_ALLOW": ";".join([shlex.join(everything_stdio_command()), "mcp-server-time"]),
        "UPSTREAM_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        "BREAKER_FAILURES": str(FAILURES),
    }
    upstream = everything_http(port)
    with Platform(tmp_path_factory.mktemp("outage"), **settings) as platform, upstream:
        made = platform.provision()
        admin, developer = signed_in(platform, "admin"), signed_in(platform, "developer")
        operator = signed_in_as(platform, platform.admin_account(), **{"X-Organization": "acme"})
        child = {"transport": "stdio", "timeout_seconds": CHILD_TIMEOUT_SECONDS}
        server = offered(developer, admin, {"name": "E", "slug": "everything", "url": f"http://127.0.0.1:{port}/mcp"})
        offered(operator, admin, {"name": "E", "slug": "everything-io", "command": everything_stdio_command(), **child})
        offered(operator, admin, {"name": "Time", "slug": "time", "command": ["mcp-server-time"], **child})
        yield Stage(platform, upstream, made["keys"]["developer"], admin, f"/api/v1/mcp/servers/{server['id']}")


async def attempt(agent: Agent, tool: str = ECHO, arguments: dict[str, Any] | None = None) -> Outcome:
    """Call a tool once."""
    began = time.monotonic()
    answer = await agent.call_tool(tool, {"message": "hello"} if arguments is None else arguments)
    seconds = time.monotonic() - began
    text = "".join(getattr(block, "text", "") for block in answer.content)
    return Outcome(seconds, bool(answer.is_error), text, (answer.meta or {}).get("gatehouse/error", {}))


async def until_it_answers(agents: dict[str, Agent], tool: str = ECHO) -> float:
    """After how many seconds a call of every agent has succeeded."""
    began = time.monotonic()
    for agent in agents.values():
        while (await attempt(agent, tool)).is_error:
            assert time.monotonic() - began < 2 * RETURN_SECONDS
            await asyncio.sleep(0.2)
    return time.monotonic() - began


def bring_back(upstream: Process, number: int) -> None:
    """Undo the signal: let the server go on, or start it again where it was."""
    if number == signal.SIGSTOP:
        upstream.send_signal(signal.SIGCONT)
        return
    upstream.stop()
    upstream.start()


def assert_says_what_to_do(outcome: Outcome, server: str) -> None:
    """The error names the server, for people and for programs, and the next step."""
    assert outcome.is_error
    assert f"The server {server} " in outcome.text
    assert "Try again in " in outcome.text
    assert "admin" in outcome.text
    assert outcome.error["details"]["server"] == server


@pytest.mark.measured
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_calls_of_a_lost_server_fail_in_time_then_at_once_until_it_is_back(stage, number):
    async def story() -> None:
        async with stage.agents() as agents:
            legacy, modern = agents.values()
            assert not (await attempt(legacy)).is_error
            assert not (await attempt(modern)).is_error

            stage.upstream.send_signal(number)
            failed = [await attempt([legacy, modern][turn % 2]) for turn in range(FAILURES)]
            refused = [await attempt([legacy, modern][turn % 2]) for turn in range(20)]
            bring_back(stage.upstream, number)
            seconds = await until_it_answers(agents)

        for outcome in [*failed, *refused]:
            assert_says_what_to_do(outcome, "everything")
        assert max(outcome.seconds for outcome in failed) <= LATEST_SECONDS
        assert {outcome.error["code"] for outcome in refused} == {"BACKEND_DOWN"}
        assert all(outcome.error["details"]["retry_after"] <= 10 for outcome in refused)
        assert statistics.median(outcome.seconds for outcome in refused) < REFUSED_SECONDS
        assert seconds <= RETURN_SECONDS

    asyncio.run(story())


def test_a_server_that_was_away_unnoticed_is_called_as_if_nothing_were(stage):
    async def story() -> list[Outcome]:
        async with stage.agents() as agents:
            assert not [outcome for agent in agents.values() if (outcome := await attempt(agent)).is_error]
            stage.upstream.send_signal(signal.SIGKILL)
            bring_back(stage.upstream, signal.SIGKILL)
            return [await attempt(agent) for agent in agents.values() for _ in range(2)]

    outcomes = asyncio.run(story())

    assert [outcome.text for outcome in outcomes] == ["Echo: hello"] * 4


def test_the_list_names_a_lost_server_and_keeps_its_tools(stage):
    async def listed(agent: Agent) -> tuple[list[dict[str, Any]], set[str]]:
        await asyncio.sleep(1)  # a change holds within one second
        tools = await agent.list_tools(cache_mode="refresh")
        return (tools.meta or {}).get("gatehouse/unavailable", []), {tool.name for tool in tools.tools}

    async def story() -> None:
        async with stage.agents() as agents:
            for agent in agents.values():
                await until_it_answers(agents)
                stage.upstream.send_signal(signal.SIGKILL)
                check = await asyncio.to_thread(stage.admin.post, f"{stage.place}/check")
                assert check.json()["health"] == "unhealthy"
                lost, names = await listed(agent)
                bring_back(stage.upstream, signal.SIGKILL)
                check = await asyncio.to_thread(stage.admin.post, f"{stage.place}/check")
                assert check.json()["health"] == "healthy"

                assert [each["server"] for each in lost] == ["everything"]
                assert lost[0]["since"]
                assert lost[0]["reason"]
                assert {ECHO, CHILD_ECHO, TIME[0]} <= names
                assert await listed(agent) == ([], names)

    asyncio.run(story())


# A server that is a child ----------------------------------------------------------------------------------------


def child_of(platform: Platform) -> psutil.Process:
    """The process of the reference server that the platform has started."""
    children = psutil.Process(platform.pid).children(recursive=True)
    return next(child for child in children if "server-everything" in " ".join(child.cmdline()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_child_is_replaced(stage, number):
    async def story() -> None:
        async with stage.agents() as agents:
            legacy = agents["2025-11-25"]
            await until_it_answers(agents, CHILD_ECHO)
            child = child_of(stage.platform)

            os.killpg(child.pid, number)
            failed = await asyncio.gather(*(attempt(legacy, CHILD_ECHO) for _ in range(FAILURES)))
            refused = [await attempt(legacy, CHILD_ECHO) for _ in range(10)] if number == signal.SIGSTOP else []
            seconds = await until_it_answers(agents, CHILD_ECHO)

            assert child_of(stage.platform).pid != child.pid
        for outcome in [*failed, *refused]:
            assert outcome.seconds <= CHILD_TIMEOUT_SECONDS * 1.1
            if outcome.is_error:
                assert_says_what_to_do(outcome, "everything-io")
        assert all(outcome.is_error and outcome.seconds < 1 for outcome in refused)
        assert seconds <= RETURN_SECONDS
        assert await_end(child)

    asyncio.run(story())


def await_end(process: psutil.Process) -> bool:
    """Whether the process is gone within some seconds."""
    return process not in psutil.wait_procs([process], timeout=15)[1]


# The others ------------------------------------------------------------------------------------------------------


@pytest.mark.measured
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_nobody_else_notices(stage, number):
    """The p95 of other tools while one agent calls the lost server all the time, against when it still answered."""

    async def story() -> tuple[list[float], list[float], list[Outcome]]:
        async with stage.agents() as agents:
            stubborn, busy = agents["2025-11-25"], agents["2026-07-28"]
            await until_it_answers(agents)
            await p95_of_others(busy)
            alone = [await p95_of_others(busy) for _ in range(3)]
            knocking = asyncio.create_task(knock(stubborn))
            before = [await p95_of_others(busy) for _ in range(3)]
            stage.upstream.send_signal(number)
            during = [await p95_of_others(busy) for _ in range(3)]
            knocking.cancel()
            while (await attempt(busy, ECHO)).error["code"] == "BACKEND_TIMEOUT":
                pass
            refused = [await attempt(stubborn) for _ in range(50)]
            bring_back(stage.upstream, number)
            await until_it_answers(agents)
        print(f"p95 alone {alone}, beside a caller {before}, beside a caller of the lost server {during}")
        return before, during, refused

    before, during, refused = asyncio.run(story())

    assert all(outcome.is_error for outcome in refused)
    assert p95([outcome.seconds for outcome in refused]) < REFUSED_SECONDS
    assert statistics.median(during) <= 1.5 * statistics.median(before), (before, during)


async def knock(agent: Agent) -> None:
    """Call the lost server again and again, as an agent does that does not read errors."""
    while True:
        await attempt(agent)
        await asyncio.sleep(0.02)


async def p95_of_others(agent: Agent, calls: int = 200) -> float:
    """The p95 of calls to a child, to a native tool, in turn, in seconds."""
    outcomes = [await attempt(agent, *OTHERS[turn % len(OTHERS)]) for turn in range(calls)]
    assert [outcome.text for outcome in outcomes if outcome.is_error] == []
    return p95([outcome.seconds for outcome in outcomes])


def p95(seconds: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(seconds, n=20)[-1]
