"""Tasks that clients listen to where servers are slow, lie or say too much, and where clients leave at a bad moment."""

import json
import socket
import threading
import time
from typing import Any

import pytest

from apps.core import budget
from apps.gateway import services as gateway
from apps.gateway.services import following
from apps.registry.models import Server
from config import mcp_held, mcp_listening
from tests.gateway.agent import LEGACY, META, MODERN, Agent, agent_of, offer
from tests.gateway.conftest import Evil
from tests.gateway.test_tasks import (
    TAKES,
    WORKING,
    ask,
    begin,
    listening,
    question,
    until_nothing_is_followed,
)
from tests.live import Live
from tests.people import Person
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]


@pytest.fixture
def lying(evil: Evil, alice: Person) -> Server:
    """A server that says of its tasks whatever it is told."""
    evil.put("tools", [{"name": "promise", "inputSchema": {"type": "object"}}])
    return offer(alice, "up", evil.url, tools=("promise",), protocol_version=MODERN)


def promised(agent: Agent, own_id: str = "theirs") -> str:
    """The id of a new task, which its server knows under this one."""
    return str(begin(agent, "up__promise", task={**WORKING, "taskId": own_id})["taskId"])


@pytest.mark.parametrize("own_id", ["x" * 1024, "é" * 512, "\r\n"])
def test_a_task_is_found_again_whatever_its_server_calls_it(
    live: Live, alice: Person, lying: Server, evil: Evil, own_id: str
) -> None:
    agent = agent_of(live, alice, MODERN)
    evil.put("task", {**WORKING, "taskId": own_id})

    answer = ask(agent, "tasks/get", taskId=promised(agent, own_id))

    assert answer["result"]["status"] == "working"


@pytest.mark.parametrize("own_id", ["😀" * 1024, "\x01" * 1024])
def test_no_task_is_given_that_could_not_be_found_again(live: Live, alice: Person, lying: Server, own_id: str) -> None:
    agent = agent_of(live, alice, MODERN)

    answer = ask(agent, "tools/call", name="up__promise", arguments={"task": {**WORKING, "taskId": own_id}})

    assert "its task has no id, or one that is too long" in answer["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "elicitation/create", "params": [1]},
        {"method": "sampling/createMessage", "params": "words"},
        {"method": "elicitation/create", "params": {"mode": ["form"], "requestedSchema": {"properties": {}}}},
        {"method": "elicitation/create", "params": {"mode": {}, "requestedSchema": {"properties": {}}}},
    ],
)
def test_a_question_of_the_wrong_form_is_the_server_s_failure(
    live: Live, alice: Person, lying: Server, evil: Evil, asked: dict[str, Any]
) -> None:
    agent = agent_of(live, alice, MODERN)
    task_id = promised(agent)
    evil.put("task", {**question(), "inputRequests": {"q": asked}})

    error = ask(agent, "tasks/get", {**TAKES, "sampling": {}}, taskId=task_id)["error"]
    with listening(live, agent, task_id) as said:
        acknowledged = next(said)

    assert error["code"] == -32000
    assert error["message"].startswith("The server up answered wrongly: ")
    assert acknowledged["params"]["notifications"] == {}


@pytest.mark.parametrize("revision", [LEGACY, MODERN])
def test_an_error_with_details_that_json_cannot_carry_is_told_without_them(
    live: Live, alice: Person, lying: Server, evil: Evil, revision: str
) -> None:
    agent, details = agent_of(live, alice, revision), {}
    for _ in range(300):
        details = {"in": details}
    failed = {**WORKING, "status": "failed", "error": {"code": -32021, "message": "It broke.", "data": details}}
    evil.put("task", failed if revision == LEGACY else {"error": failed["error"]})

    if revision == LEGACY:
        answer = agent.ask("tools/call", {"name": "up__promise", "arguments": {"task": WORKING, "is_needed": True}})
    else:
        answer = ask(agent, "tasks/get", taskId=promised(agent))

    assert answer["error"] == {"code": -32021, "message": "It broke."}


def test_slow_tasks_are_not_waited_for_one_after_the_other(
    live: Live, alice: Person, lying: Server, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FIRST_LOOK_SECONDS", 2.0, raising=False)
    agent = agent_of(live, alice, MODERN)
    quick, slow = promised(agent, "quick"), [promised(agent, "slow") for _ in range(3)]
    evil.put(
        "task",
        {"quick": {**WORKING, "taskId": "quick"}, "slow": {**WORKING, "taskId": "slow", "afterMs": 10_000}},
    )

    with listening(live, agent, *slow, quick) as said:
        began = time.monotonic()
        acknowledged = next(said)

    assert acknowledged["params"]["notifications"] == {"taskIds": [quick]}
    assert time.monotonic() - began < 8
    until_nothing_is_followed()


def test_who_leaves_before_the_acknowledgement_is_looked_after_no_more(
    live: Live, alice: Person, lying: Server, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FIRST_LOOK_SECONDS", 60.0, raising=False)
    agent = agent_of(live, alice, MODERN)
    ids = [promised(agent) for _ in range(3)]
    evil.put("task", {**WORKING, "afterMs": 20_000})
    params = {
        "notifications": {"taskIds": ids},
        "_meta": {META + "protocolVersion": MODERN, META + "clientCapabilities": TAKES},
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).encode()
    headers = {**agent._headers("subscriptions/listen", params), "Host": "127.0.0.1", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        wait_until(lambda: following._followed.total() > 0)
    left = time.monotonic()

    wait_until(lambda: not following._followed and not mcp_listening._streams)
    assert time.monotonic() - left < 10


def test_nothing_is_told_before_the_acknowledgement(
    live: Live, alice: Person, lying: Server, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(self: gateway.Subscriptions, _: Any, uri: str, __: Any) -> None:
        self._tell(uri)

    monkeypatch.setattr(gateway.Subscriptions, "add", add)
    agent = agent_of(live, alice, MODERN)
    evil.put("task", WORKING)

    with listening(live, agent, promised(agent), resourceSubscriptions=["up://1"]) as said:
        told = [next(said) for _ in range(3)]

    assert [each["method"] for each in told] == [
        "notifications/subscriptions/acknowledged", "notifications/resources/updated", "notifications/tasks",
    ]  # fmt: skip


def test_who_does_not_read_is_left_and_nothing_is_looked_at_for_them(
    live: Live, alice: Person, lying: Server, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_held, "LONGEST_PIECE_SECONDS", 1.0)
    agent = agent_of(live, alice, MODERN)
    task_id = promised(agent)
    evil.put("task", WORKING)

    with listening(live, agent, task_id) as said:
        assert next(said) and next(said)
        evil.put("task", {**WORKING, "statusMessage": "x" * 8_000_000})

        until_nothing_is_followed()
        wait_until(lambda: not mcp_listening._streams and _held() == 0)


def test_what_is_told_of_a_task_counts_until_the_client_has_read_it(
    live: Live, alice: Person, lying: Server, evil: Evil, settings: Any
) -> None:
    agent = agent_of(live, alice, MODERN)
    task_id = promised(agent)
    evil.put("task", WORKING)

    with listening(live, agent, task_id) as said:
        assert next(said) and next(said)
        evil.put("task", {**WORKING, "statusMessage": "x" * 8_000_000})
        wait_until(lambda: _held() > 7_000_000)
        time.sleep(2)
        assert _held() > 7_000_000
        assert len(next(said)["params"]["statusMessage"]) == 8_000_000
        wait_until(lambda: _held() == 0)
    until_nothing_is_followed()


def test_what_was_said_of_a_task_before_is_not_held_while_an_older_client_waits_for_it(
    live: Live, alice: Person, lying: Server, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, held = agent_of(live, alice, LEGACY).open(), []
    account = budget.Budget._account

    def noted(self: budget.Budget, share: budget.Share, size: int) -> None:
        account(self, share, size)
        held.append(self.taken)

    monkeypatch.setattr(budget.Budget, "_account", noted)
    evil.put("task", {**WORKING, "statusMessage": "x" * 3_000_000})
    done = {**WORKING, "status": "completed", "result": {"content": []}}
    later = threading.Timer(7, evil.put, ("task", done))
    later.start()

    result = agent.call("up__promise", task=WORKING, is_needed=True)

    assert result == {"content": []}
    assert evil.seen("calls")["tasks/get"] >= 4
    assert 2_000_000 < max(held) < 4_000_000


def test_an_older_client_s_task_has_an_id_that_a_header_can_carry(
    live: Live, alice: Person, lying: Server, evil: Evil
) -> None:
    agent = agent_of(live, alice, LEGACY)

    result = agent.call("up__promise", task={**WORKING, "taskId": "x" * 50_000}, is_needed=True)

    assert "its task has no id, or one that is too long" in result["content"][0]["text"]
    assert "tasks/get" not in evil.seen("calls")


def _held() -> int:
    return sum(each.taken for each in list(budget._budgets.values()))
