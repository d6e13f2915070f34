"""Servers of the older transport, HTTP+SSE, on the whole way: registered, discovered, looked at, called."""

from typing import Any

import pytest

from apps.registry import services as registry
from apps.registry.models import Server
from tests.gateway.agent import LEGACY, MODERN, agent_of, refresh
from tests.gateway.conftest import Evil, events
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]


def register(live: Live, person: Person, evil: Evil, **more: Any) -> Server:
    """The evil upstream at its older address, registered by REST, discovered and approved."""
    body = {"name": "Old", "slug": "old", "transport": "sse", "url": f"http://127.0.0.1:{evil.port}/sse", **more}
    answer = live.rest(person).post("/api/v1/mcp/servers", body)
    assert answer.status == 201, answer.text
    server_id = answer.json()["id"]
    found = registry.discover_server(person.actor, server_id=server_id)
    assert "echo" in [each["name"] for each in found["added"]]
    return registry.approve_server(person.actor, server_id=server_id)


def test_a_server_of_the_older_transport_is_used_like_any_other(live: Live, alice: Person, evil: Evil) -> None:
    server = register(live, alice, evil, timeout_seconds=2, max_concurrency=4)
    refresh(alice)

    tested = live.rest(alice).post(f"/api/v1/mcp/servers/{server.id}/test-connection", {}).json()
    assert tested["ok"], tested
    assert tested["protocol_version"] == LEGACY
    assert registry.check_server(alice.actor, server_id=server.id).health == "healthy"
    assert evil.seen("streams") == []  # discovery, test and check have closed theirs

    one, two, stateless = agent_of(live, alice), agent_of(live, alice), agent_of(live, alice, MODERN)
    assert [agent.text("old__echo", text="hi") for agent in (one, two, stateless, one, two)] == ["hi"] * 5
    assert len(evil.seen("streams")) == 3  # a session of its own for each of theirs

    one.close()
    assert one.session
    two.failure("old__hang")
    assert events()[-1].error_code == "BACKEND_TIMEOUT"
    assert two.text("old__echo", text="still there") == "still there"
    assert len(evil.seen("streams")) == 2

    seen = [each for each in evil.seen("headers") if each[":method"] == "POST"]
    assert not any("authorization" in each for each in seen)  # the agents' keys stay here


def test_a_dying_server_of_the_older_transport_opens_the_breaker_and_comes_back(
    live: Live, alice: Person, evil: Evil, settings: Any
) -> None:
    settings.BREAKER_OPEN_SECONDS = 0.5
    server = register(live, alice, evil)
    refresh(alice)
    agent = agent_of(live, alice)
    health = f"/api/v1/mcp/servers/{server.id}/health"
    assert live.rest(alice).get(health).json()["breaker"]["state"] == "closed"

    first = agent.failure("old__crash")
    assert first["code"] in ("BACKEND_DOWN", "BACKEND_FAILED")
    failures = [agent.failure("old__echo", text="x") for _ in range(5)]
    assert "failed 5 times in a row" in failures[-1]["message"]
    told = live.rest(alice).get(health).json()["breaker"]
    assert told["state"] in ("open", "half_open")
    assert told["failures"] >= 5

    evil.process.start()
    while (result := agent.call("old__echo", text="back")).get("isError"):
        pass
    assert result["content"][0]["text"] == "back"
    assert live.rest(alice).get(health).json()["breaker"] == {
        "state": "closed", "failures": 0, "retry_after_seconds": None, "crashes": 0, "restart_after_seconds": None,
    }  # fmt: skip
