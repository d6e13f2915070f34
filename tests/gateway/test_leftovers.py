"""What is left of a request when it has ended: no bytes that count, no work, no entry, and nothing of a session."""

import gc
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from apps.core import budget
from apps.gateway.services.rounds import Parked
from tests.gateway.agent import LEGACY, META, MODERN, Agent, agent_of, offer
from tests.gateway.conftest import Evil
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
CAN_BE_ASKED = {"elicitation": {"form": {}}}
PATIENCE_SECONDS = 60
FORM = {
    "method": "elicitation/create",
    "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def wait_until(is_so: Callable[[], Any]) -> None:
    """Wait for a condition; a deadline that passes fails the test."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def prying(alice: Person, evil: Evil) -> Evil:
    """A server of the older era with a tool that asks."""
    evil.put("tools", [{"name": "pry", "inputSchema": {"type": "object"}}])
    offer(alice, "up", evil.url, tools=("pry",), protocol_version=LEGACY, timeout_seconds=30.0)
    return evil


def asked(agent: Agent, **more: Any) -> dict[str, Any]:
    """The result of one round of a call that asks, of an agent of 2026-07-28."""
    meta = {META + "clientCapabilities": CAN_BE_ASKED}
    answer = agent.ask("tools/call", {"name": "up__pry", "arguments": FORM, "_meta": meta, **more})
    result: dict[str, Any] = answer["result"]
    return result


def test_a_large_answer_after_a_question_counts_only_until_it_is_out(live: Live, alice: Person, prying: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    question = asked(agent)

    answers = {name: {"action": "accept", "content": {"name": "x" * 600_000}} for name in question["inputRequests"]}
    result = asked(agent, requestState=question["requestState"], inputResponses=answers)

    assert len(result["content"][0]["text"]) > 600_000
    wait_until(lambda: all(each.taken == 0 for each in budget._budgets.values()))
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Parked)]


@pytest.mark.parametrize("wrong", [[1], {"a": 1}, None], ids=str)
def test_to_cancel_what_has_no_number_cancels_nothing(live: Live, alice: Person, wrong: Any) -> None:
    agent = agent_of(live, alice).open()
    notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": wrong}}

    answer = agent.post(json.dumps(notice).encode())

    assert answer.status == 202, answer.text
