"""However many sessions want a process each, no more run than may, and one organisation leaves some to others."""

import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.servers import evil_stdio_command
from tests.gateway.agent import LEGACY, MODERN, Agent, offer
from tests.gateway.test_children import children
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
SESSIONS, MOST, OF_ONE = 500, 6, 3
LONG_MS = 60_000


def test_five_hundred_sessions_start_no_more_processes_than_may_run(
    live: Live, alice: Person, bob: Person, settings: Any
) -> None:
    settings.STDIO_ALLOW, settings.STDIO_MAX_PROCESSES = (shlex.join(evil_stdio_command()),), MOST
    people = (alice, bob)
    for person in people:
        offer(person, "kid", transport="stdio", command=evil_stdio_command(), tools=("echo", "sleep"),
              isolate_sessions=True, timeout_seconds=120.0, max_concurrency=600)  # fmt: skip
    hers, his = (live.key(person) for person in people)
    busy = [Agent(live.url, key).open() for key in (hers, his) for _ in range(OF_ONE)]
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            most[0] = max(most[0], len(children()))
            time.sleep(0.2)

    watching = threading.Thread(target=watch)
    with ThreadPoolExecutor(len(busy)) as threads, ThreadPoolExecutor(16) as crowd:
        sleeping = [threads.submit(agent.call, "kid__sleep", ms=LONG_MS) for agent in busy]
        deadline = time.monotonic() + 60
        while len(children()) < MOST:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        watching.start()
        # One stays below what one caller may hold; every tenth is of the stateless revision.
        wanted = [Agent(live.url, hers if n % 2 else his, LEGACY if n % 10 else MODERN) for n in range(SESSIONS)]
        errors = list(crowd.map(lambda agent: agent.failure("kid__echo", text="x"), wanted))
        over.set()
        watching.join()
        assert not any(each.done() for each in sleeping)
        for child in children():
            child.kill()

    assert most[0] == MOST
    assert {error["code"] for error in errors} == {"RATE_LIMITED"}
    assert all("GATEHOUSE_STDIO_MAX_PROCESSES" in error["message"] for error in errors)
    assert all(error["details"]["retry_after"] >= 1 for error in errors)
    assert live.rest(alice).get("/api/v1/mcp/servers").status == 200
    deadline = time.monotonic() + 60  # those that were killed are started again after a pause
    while wanted[1].call("kid__echo", text="there is room").get("isError"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(children()) <= MOST


def test_an_organisation_that_uses_all_its_processes_leaves_the_others_to_others(
    live: Live, alice: Person, bob: Person, settings: Any
) -> None:
    settings.STDIO_ALLOW, settings.STDIO_MAX_PROCESSES = (shlex.join(evil_stdio_command()),), MOST
    for person in (alice, bob):
        offer(person, "kid", transport="stdio", command=evil_stdio_command(), tools=("echo", "sleep"),
              isolate_sessions=True, timeout_seconds=120.0, max_concurrency=64)  # fmt: skip
    hers, his = live.key(alice), live.key(bob)
    busy = [Agent(live.url, hers).open() for _ in range(OF_ONE)]
    with ThreadPoolExecutor(OF_ONE) as threads:
        for agent in busy:
            threads.submit(agent.call, "kid__sleep", ms=LONG_MS)
        deadline = time.monotonic() + 60
        while len(children()) < OF_ONE:
            assert time.monotonic() < deadline
            time.sleep(0.1)

        refused = Agent(live.url, hers).failure("kid__echo", text="x")
        served = [Agent(live.url, his).text("kid__echo", text="hi") for _ in range(OF_ONE)]
        for child in children():
            child.kill()

    assert refused["code"] == "RATE_LIMITED"
    assert served == ["hi"] * OF_ONE
