"""A bundle's endpoint as agents meet it, in both eras."""

from dataclasses import replace
from typing import Any

import pytest

from apps.gateway import services as gateway
from apps.gateway.schemas import BundleItemIn
from apps.registry.models import Capability
from tests.gateway.agent import BOTH, LEGACY, Agent, agent_of, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.house.world import wait_until
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]


@pytest.fixture
def desk(alice: Person, evil: Evil) -> Any:
    """A bundle of one renamed tool and the search."""
    server = offer(alice, "up", evil.url, tools=("echo", "add"))
    echo = Capability.objects.get(server=server, name="echo")
    items = [BundleItemIn(capability_id=echo.pk, alias="repeat"), BundleItemIn(native="search")]
    made = gateway.create_bundle(alice.actor, name="Desk", slug="desk", instructions="Be kind.", items=items)
    refresh(alice)
    return made


def at(agent: Agent, slug: str) -> Agent:
    """The same agent at a bundle's endpoint."""
    return replace(agent, path=f"/mcp/{slug}", session="")


@pytest.mark.parametrize("revision", BOTH)
def test_an_agent_sees_and_calls_what_is_in_the_bundle(
    live: Live, alice: Person, evil: Evil, desk: Any, revision: str
) -> None:
    agent = at(agent_of(live, alice, revision), "desk")

    assert agent.names() == {"repeat", "search"}
    assert "isError" not in agent.call("repeat", text="hello")
    assert evil.seen("calls") == {"echo": 1}
    for name in ("up__echo", "up__add", "platform_health"):
        assert agent.ask("tools/call", {"name": name, "arguments": {}})["error"]["code"] == -32602
    found = agent.call("search", query="")["structuredContent"]["results"]
    assert {each["id"] for each in found} == {"repeat", "search"}
    first = events()[0]
    assert (first.endpoint, first.name, first.server) == ("/mcp/desk", "repeat", "up")


def test_the_instructions_of_the_bundle_are_told_at_the_start(live: Live, alice: Person, desk: Any) -> None:
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

    said = at(agent_of(live, alice), "desk").send("initialize", hello).json()["result"]

    assert (said["instructions"], said["serverInfo"]["title"]) == ("Be kind.", "Desk")


@pytest.mark.parametrize("revision", BOTH)
def test_another_organisations_bundle_is_as_missing_as_one_that_never_was(
    live: Live, alice: Person, bob: Person, desk: Any, revision: str
) -> None:
    hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    method, params = ("initialize", hello) if revision == LEGACY else ("tools/list", {})
    stranger = agent_of(live, bob, revision)

    theirs, never = (at(stranger, slug).send(method, params) for slug in ("desk", "never"))

    assert (theirs.status, never.status) == (404, 404)
    assert {**theirs.json()["error"], "timestamp": "", "request_id": ""} == {
        **never.json()["error"], "timestamp": "", "request_id": "",
    }  # fmt: skip
    assert at(agent_of(live, alice, revision), "desk").send(method, params).status == 200


def test_a_bundle_that_is_closed_is_gone_within_a_moment(live: Live, alice: Person, desk: Any) -> None:
    agent = at(agent_of(live, alice, BOTH[1]), "desk")
    assert agent.send("tools/list").status == 200

    gateway.update_bundle(alice.actor, bundle_id=desk.pk, is_enabled=False)

    wait_until(lambda: agent.send("tools/list").status == 404)
