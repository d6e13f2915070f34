"""A question that nobody answers: told to the agent for what it is, and counted against nobody."""

import shlex
import sys
from typing import Any

import pytest

from apps.gateway import services as gateway
from apps.gateway.services import rounds
from apps.registry.backends import hearing
from tests.fixtures.servers import FIXTURES
from tests.gateway.agent import LEGACY, MODERN, offer
from tests.gateway.conftest import Evil, events
from tests.gateway.speaker import Heard, Message, Speaker
from tests.live import Live
from tests.people import Person
from tests.registry.test_listeners import impatient

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]
CAN = {"elicitation": {"form": {}}}
FORM = {
    "method": "elicitation/create",
    "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}
WAYS = ("url", "sse", "stdio", "questions in results")


class Absent(Speaker):
    """A client whose person has gone for a walk."""

    def _answer(self, heard: Heard, question: Message) -> Message:
        heard.questions.append(question)
        return {}

    def _tell(self, message: Message) -> None:
        if "result" not in message:
            super()._tell(message)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing.Exchange, "__init__", impatient(hearing.Exchange.__init__))
    monkeypatch.setattr(rounds, "ANSWER_SECONDS", 1.0)


@pytest.mark.parametrize("way", WAYS)
def test_a_question_that_nobody_answers_is_nobody_s_fault(
    live: Live, alice: Person, evil: Evil, settings: Any, way: str
) -> None:
    settings.BREAKER_FAILURES = 2
    evil.put("tools", [{"name": "pry", "inputSchema": {"type": "object"}}])
    server = offer(alice, "up", tools=("pry",), timeout_seconds=3.0, **whereabouts(way, evil, settings))
    agent = Absent((live.url,), live.key(alice), LEGACY, CAN)
    agent.begin()

    for _ in range(3):
        heard = agent.use("up__pry", FORM)

        assert [each["method"] for each in heard.questions] == ["elicitation/create"]
        assert heard.result["isError"]
        assert "nobody answered it in time" in heard.result["content"][0]["text"]

    assert gateway.breaker_state(server.id).failures == 0
    assert gateway.breaker_state(server.id).state == "closed"
    assert gateway.count_open(None).upstreams == 1
    assert {each.error_code for each in events() if each.method == "tools/call"} == {"BACKEND_TIMEOUT"}
    if way == "url":
        assert [each[":rpc"] for each in evil.seen("headers")].count("initialize") == 1, "the session goes on"


def whereabouts(way: str, evil: Evil, settings: Any) -> dict[str, Any]:
    """Where the server is that asks."""
    if way == "stdio":
        command = [sys.executable, str(FIXTURES / "stdio_prying.py")]
        settings.STDIO_ALLOW = (shlex.join(command),)
        return {"transport": "stdio", "command": command, "isolate_sessions": True}
    if way == "sse":
        return {"transport": "sse", "url": f"http://127.0.0.1:{evil.port}/sse"}
    return {"url": evil.url, "protocol_version": LEGACY if way == "url" else MODERN}
