"""A server that was lost and is back is tried with one call, however many wait for it."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gateway.agent import BOTH, Agent, offer
from tests.gateway.conftest import Evil, events
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
CALLERS, FAILURES, OPEN_SECONDS = 50, 3, 2.0


def test_of_fifty_callers_at_once_one_probes_a_server_that_is_back_and_all_are_served_after_it(
    live: Live, alice: Person, evil: Evil, settings: Any
) -> None:
    settings.BREAKER_FAILURES, settings.BREAKER_OPEN_SECONDS = FAILURES, OPEN_SECONDS
    server = offer(alice, "up", evil.url, tools=("echo", "slow"), max_concurrency=64, timeout_seconds=30.0)
    key, rest = live.key(alice), live.rest(alice)
    agents = [Agent(live.url, key, BOTH[number % 2]).open() for number in range(CALLERS)]
    breaker = lambda: rest.get(f"/api/v1/mcp/servers/{server.id}/health").json()["breaker"]  # noqa: E731
    assert [agent.text("up__echo", text="before") for agent in agents[:2]] == ["before"] * 2
    assert breaker()["state"] == "closed"

    evil.process.stop()
    lost = [agents[0].failure("up__echo", text="x") for _ in range(FAILURES)]
    left_alone = [agent.failure("up__echo", text="x") for agent in agents[:10]]
    assert (breaker()["state"], breaker()["failures"]) == ("open", FAILURES)
    evil.process.start()
    refused_yet = agents[0].failure("up__echo", text="x")
    time.sleep(OPEN_SECONDS)
    assert breaker()["state"] == "half_open"
    with ThreadPoolExecutor(CALLERS) as threads:
        ended = list(threads.map(lambda agent: agent.call("up__slow", ms=3000, text="probe"), agents))

    assert "left alone" not in lost[0]["message"] and lost[0]["code"] == "BACKEND_DOWN"
    for error in (*left_alone, refused_yet):
        assert (error["code"], error["details"]["server"]) == ("BACKEND_DOWN", "up")
        assert "is left alone for now" in error["message"] and 0 < error["details"]["retry_after"] <= OPEN_SECONDS
    assert evil.seen("calls") == {"slow": 1}
    assert [result["content"][0]["text"] for result in ended if not result.get("isError")] == ["probe"]
    assert breaker() == {
        "state": "closed", "failures": 0, "retry_after_seconds": None, "crashes": 0, "restart_after_seconds": None,
    }  # fmt: skip
    assert [agent.text("up__echo", text="after") for agent in agents[:4]] == ["after"] * 4
    assert len([event for event in events() if event.name == "up__slow" and event.status == "ok"]) == 1
