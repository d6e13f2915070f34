"""Stdio servers behind the road: one process shared, stopped when idle, started anew when it died, none left."""

import json
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.fixtures.servers import evil_stdio_command, revisions_stdio_command
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, agent_of, offer
from tests.gateway.conftest import events
from tests.live import Live
from tests.people import Person
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
TOOLS = ("echo", "environ", "exit_now", "sleep", "ignore_sigterm", "fork_grandchild")


@pytest.fixture(autouse=True)
def _may_run(settings: Any) -> None:
    settings.STDIO_ALLOW = (shlex.join(evil_stdio_command()),)


def children() -> list[psutil.Process]:
    """The stdio servers that run below this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "stdio_evil.py" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def pid_of(agent: Any, slug: str = "kid") -> int:
    """The process that answers this agent, as it knows itself."""
    told: dict[str, Any] = json.loads(agent.text(f"{slug}__environ"))
    return int(told["pid"])


@pytest.fixture
def kid(alice: Person) -> Iterator[Any]:
    """A stdio server of Acme."""
    yield offer(alice, "kid", transport="stdio", command=evil_stdio_command(), tools=TOOLS)


@pytest.mark.parametrize("revision", BOTH)
def test_all_callers_of_an_organization_share_one_process(
    live: Live, alice: Person, dora: Person, kid: Any, revision: str
) -> None:
    agents = [agent_of(live, person, revision) for person in (alice, dora, alice)]

    assert len({pid_of(agent) for agent in agents}) == 1
    assert agents[0].text("kid__echo", text="hi") == "hi"


def test_another_organization_has_its_own_process(live: Live, alice: Person, bob: Person, kid: Any) -> None:
    offer(bob, "kid", transport="stdio", command=evil_stdio_command(), tools=TOOLS)

    assert pid_of(agent_of(live, alice)) != pid_of(agent_of(live, bob))


def test_a_server_may_have_a_process_for_each_session(live: Live, alice: Person) -> None:
    offer(alice, "kid", transport="stdio", command=evil_stdio_command(), tools=TOOLS, isolate_sessions=True)
    first, second = agent_of(live, alice), agent_of(live, alice)

    pids = {pid_of(first), pid_of(second), pid_of(first)}
    assert len(pids) == 2

    first.close()
    wait_until(lambda: len(children()) == 1)


def test_a_process_that_ends_is_a_clean_error_and_the_next_call_has_a_new_one(
    live: Live, alice: Person, kid: Any
) -> None:
    agent = agent_of(live, alice)
    before = pid_of(agent)

    error = agent.failure("kid__exit_now")
    assert error["code"] == "BACKEND_DOWN"
    assert "kid" in error["message"]

    assert pid_of(agent) != before
    assert [event.status for event in events()] == ["ok", "error", "ok"]


def test_a_process_that_ends_again_and_again_is_no_fork_storm(
    live: Live, alice: Person, kid: Any, settings: Any
) -> None:
    settings.BREAKER_FAILURES = 1000
    agent = agent_of(live, alice)

    began = time.monotonic()
    messages = [agent.failure("kid__exit_now")["message"] for _ in range(40)]

    assert time.monotonic() - began < 60
    assert sum("cannot be reached" in message for message in messages) <= 6
    assert "ended by itself" in messages[-1]


@pytest.mark.parametrize("is_session", [True, False])
def test_a_client_that_describes_itself_wrongly_harms_no_other(
    live: Live, alice: Person, is_session: bool, settings: Any
) -> None:
    command = revisions_stdio_command(LEGACY)
    settings.STDIO_ALLOW = (shlex.join(command),)
    settings.BREAKER_OPEN_SECONDS = 60.0  # how long a process is not started that ends again and again
    own = {"isolate_sessions": True, "protocol_version": LEGACY}
    offer(alice, "kid", transport="stdio", command=command, tools=("echo",), **own)
    wrong: dict[str, Any] = {"sampling": 5, "roots": {"listChanged": "often"}, "elicitation": [], "experimental": {}}
    strange = agent_of(live, alice, LEGACY if is_session else MODERN)

    for _ in range(4):
        if is_session:
            hello = {"protocolVersion": LEGACY, "capabilities": wrong, "clientInfo": {"name": 5}}
            strange.session = strange.send("initialize", hello).headers["mcp-session-id"]
        meta = {} if is_session else {META + "clientCapabilities": wrong, META + "clientInfo": {"name": 5}}
        strange.ask("tools/call", {"name": "kid__echo", "arguments": {"text": "me"}, "_meta": meta})

    assert agent_of(live, alice).text("kid__echo", text="hi") == "hi"


def test_an_idle_process_is_stopped_and_started_again_when_needed(
    live: Live, alice: Person, kid: Any, settings: Any
) -> None:
    settings.STDIO_IDLE_SECONDS = 0.5
    agent = agent_of(live, alice)
    first = pid_of(agent)
    assert len(children()) == 1

    wait_until(lambda: not children())

    assert pid_of(agent) != first


def test_no_more_processes_run_than_may(live: Live, alice: Person, settings: Any) -> None:
    settings.STDIO_MAX_PROCESSES = 4
    for number in range(3):
        offer(alice, f"kid{number}", transport="stdio", command=evil_stdio_command(), tools=TOOLS)
    agents = [agent_of(live, alice).open() for _ in range(3)]
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda each=number: results.append(agents[each].call(f"kid{each}__sleep", ms=1500)))
        for number in range(3)
    ]

    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(children()))
        time.sleep(0.05)

    refused = [result for result in results if result.get("isError")]
    assert len(refused) == 1
    assert refused[0]["_meta"]["gatehouse/error"]["code"] == "RATE_LIMITED"
    assert most <= 2


@pytest.mark.parametrize("stubborn", [False, True])
def test_the_end_of_the_platform_leaves_no_process(
    transactional_db: None, alice: Person, kid: Any, stubborn: bool, tmp_path: Any
) -> None:
    with Live() as live:
        agent = agent_of(live, alice)
        if stubborn:
            agent.text("kid__ignore_sigterm")
            agent.text("kid__fork_grandchild", path=str(tmp_path / "pid"))
        pid_of(agent)
        before = children()
        assert before

    _, alive = psutil.wait_procs(before, timeout=30)
    assert not alive
    assert not children()


def test_a_sleeping_call_holds_up_no_other(live: Live, alice: Person, kid: Any) -> None:
    slow, quick = agent_of(live, alice).open(), agent_of(live, alice).open()
    quick.text("kid__echo", text="warm")
    sleeping = threading.Thread(target=slow.call, args=("kid__sleep",), kwargs={"ms": 5000})
    sleeping.start()
    time.sleep(0.2)

    quick.text("kid__echo", text="hi")

    assert sleeping.is_alive()
    sleeping.join()
