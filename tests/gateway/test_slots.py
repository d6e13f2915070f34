"""A server takes so many calls at the same time; one that waits for a person is not one of them."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from apps.gateway.services import pool, slots
from apps.registry.models import Server
from tests.fixtures.faults import eventually
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, Agent, agent_of, change, offer
from tests.gateway.conftest import Evil, events
from tests.gateway.speaker import Heard, Message, Speaker
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
TOOLS = ("pry", "echo", "hang", "slow")
CAN = {"elicitation": {"form": {}}}
FORM = {
    "method": "elicitation/create",
    "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}
ANSWER = {"action": "accept", "content": {"name": "Ada"}}


@dataclass
class Slow(Speaker):
    """A person who looks whether others are served before they answer."""

    other: Agent = field(kw_only=True)
    served: list[str] = field(default_factory=list)

    def _answer(self, heard: Heard, question: Message) -> Message:
        self.served.append(self.other.text("up__echo", text="served"))
        return super()._answer(heard, question)


@pytest.fixture
def prying(alice: Person, evil: Evil) -> Iterator[Evil]:
    """A server of the older era that takes one call at a time, with a tool that asks."""
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
    evil.put("tools", tools)
    offer(
        alice, "up", evil.url, tools=TOOLS, protocol_version=LEGACY, timeout_seconds=20.0,
        max_concurrency=1,
    )  # fmt: skip
    yield evil
    [way] = [way for each in pool._upstreams.values() for way in each._ways.values()]
    assert eventually(lambda: way.slots.free == 1, 30), "each slot is given back, once"
    assert not way._absent._counts


@pytest.mark.parametrize("revision", BOTH)
def test_others_are_served_while_a_person_thinks(live: Live, alice: Person, prying: Evil, revision: str) -> None:
    other = agent_of(live, alice, LEGACY)
    person = Slow((live.url,), live.key(alice), revision, CAN, {"elicitation/create": ANSWER}, other=other)
    person.begin()

    heard = person.use("up__pry", FORM)

    assert person.served == ["served"]
    assert "Ada" in heard.result["content"][0]["text"]
    assert other.text("up__echo", text="after") == "after"


def test_what_a_person_answers_goes_on_when_there_is_a_slot(
    live: Live, alice: Person, prying: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "RETURN_SECONDS", 60.0)
    agent, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    state = asked(agent)

    with ThreadPoolExecutor() as pool_of_callers:
        slow = pool_of_callers.submit(other.text, "up__slow", ms=3000, text="slow")
        assert eventually(lambda: prying.seen("calls").get("slow"), 30)
        again(agent, state)
        assert slow.result() == "slow"

    assert [each.name for each in events() if each.status == "ok"][-2:] == ["up__slow", "up__pry"]


def test_what_a_person_answers_does_not_wait_long_for_a_slot(
    live: Live, alice: Person, prying: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers do nothing else until they have that answer."""
    monkeypatch.setattr(slots, "RETURN_SECONDS", 0.2)
    change(Server.objects.get(slug="up"), timeout_seconds=8.0)
    agent, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    state = asked(agent)

    with ThreadPoolExecutor() as pool_of_callers:
        hanging = pool_of_callers.submit(other.failure, "up__hang")
        assert eventually(lambda: prying.seen("calls").get("hang"), 30)
        assert "Ada" in again(agent, state)["content"][0]["text"]
        assert not hanging.done()
        hanging.result()


def test_many_parked_calls_hold_no_slot_and_all_go_on(live: Live, alice: Person, prying: Evil) -> None:
    agent, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    parked = [asked(agent) for _ in range(4)]

    assert other.text("up__echo", text="served") == "served"
    for state in parked:
        answers = dict.fromkeys(state["inputRequests"], ANSWER)
        result = asked(agent, requestState=state["requestState"], inputResponses=answers)
        assert "Ada" in result["content"][0]["text"]


def test_who_lets_too_many_calls_wait_keeps_their_slots(
    live: Live, alice: Person, prying: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them holds a connection, of which there are not many."""
    monkeypatch.setattr(slots, "MOST_ABSENT_OF_ONE", 1)
    change(Server.objects.get(slug="up"), timeout_seconds=1.0)
    agent, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    first, second = asked(agent), asked(agent)
    assert "is busy" in other.failure("up__echo", text="x")["message"]

    for state in (second, first):
        asked(agent, requestState=state["requestState"], inputResponses=dict.fromkeys(state["inputRequests"], ANSWER))

    assert other.text("up__echo", text="served") == "served"


def test_the_limit_holds_after_questions(live: Live, alice: Person, prying: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    for _ in range(3):
        state = asked(agent)
        asked(agent, requestState=state["requestState"], inputResponses=dict.fromkeys(state["inputRequests"], ANSWER))
    [way] = [way for each in pool._upstreams.values() for way in each._ways.values()]

    assert way.slots.free == 1


@pytest.mark.parametrize(("most", "is_served"), [(1, False), (2, True)])
def test_calls_under_way_count_when_the_limit_is_changed(
    live: Live, alice: Person, prying: Evil, most: int, is_served: bool
) -> None:
    agent, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    change(Server.objects.get(slug="up"), max_concurrency=2)
    with ThreadPoolExecutor() as pool_of_callers:
        slow = pool_of_callers.submit(agent.text, "up__slow", ms=6000, text="slow")
        assert eventually(lambda: prying.seen("calls").get("slow"), 30)

        change(Server.objects.get(slug="up"), max_concurrency=most, timeout_seconds=1.0)
        said = other.call("up__echo", text="served")["content"][0]["text"]

        assert said == "served" if is_served else "is busy" in said
        assert slow.result() == "slow"
    change(Server.objects.get(slug="up"), max_concurrency=1, timeout_seconds=20.0)
    assert other.text("up__echo", text="after") == "after"


def test_a_server_that_is_pointed_elsewhere_does_not_wait_for_the_calls_of_the_old_one(
    live: Live, alice: Person, prying: Evil
) -> None:
    agent, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    with ThreadPoolExecutor() as pool_of_callers:
        slow = pool_of_callers.submit(agent.text, "up__slow", ms=6000, text="slow")
        assert eventually(lambda: prying.seen("calls").get("slow"), 30)

        change(Server.objects.get(slug="up"), url=f"{prying.url}?elsewhere", timeout_seconds=1.0)

        assert other.text("up__echo", text="served") == "served"
        assert slow.result() == "slow"


def test_a_server_that_dies_while_a_person_thinks_leaves_every_slot(live: Live, alice: Person, prying: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    state = asked(agent)
    assert "inputRequests" in state

    prying.process.send_signal(signal.SIGKILL)

    answers = dict.fromkeys(state["inputRequests"], ANSWER)
    ended = agent.ask("tools/call", {**call(), "requestState": state["requestState"], "inputResponses": answers})
    assert "error" in ended or ended["result"]["isError"]


def call() -> dict[str, Any]:
    """A call of the tool that asks."""
    return {"name": "up__pry", "arguments": FORM, "_meta": {META + "clientCapabilities": CAN}}


def again(agent: Agent, state: dict[str, Any]) -> dict[str, Any]:
    """The result of the next round, with the answer."""
    return asked(
        agent, requestState=state["requestState"], inputResponses=dict.fromkeys(state["inputRequests"], ANSWER)
    )


def asked(agent: Agent, **more: Any) -> dict[str, Any]:
    """The result of one round of it."""
    result: dict[str, Any] = agent.ask("tools/call", {**call(), **more})["result"]
    return result
