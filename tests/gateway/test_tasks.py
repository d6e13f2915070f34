"""Tasks of servers: whose they are, what of them passes, what is told of them unasked, and what is left behind.

That the extension works at all through the road is shown by the official suite (tests/conformance/test_through.py).
"""

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import fastmcp_tasks  # noqa: F401 - teaches the client of FastMCP what tasks are
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.gateway.services import driving, following, hearing
from apps.registry import services as registry
from apps.registry.models import Capability, Server
from tests.fixtures.faults import eventually
from tests.fixtures.servers import Forked, free_port
from tests.gateway.agent import LEGACY, META, MODERN, Agent, agent_of, change, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.gateway.speaker import Speaker
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

TASKS = META + "tasks"
TAKES = {"elicitation": {}, "extensions": {TASKS: {}}}
NEEDS_TASKS = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
TIMES = {"createdAt": "2026-11-20T10:00:00Z", "lastUpdatedAt": "2026-11-20T10:00:01Z", "ttlMs": 60_000}
WORKING = {"taskId": "theirs", "status": "working", **TIMES}
SECRET = "canary-upstream-secret"
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def worker() -> Iterator[str]:
    """A server whose calls go on after their answer."""
    url = f"http://127.0.0.1:{(port := free_port())}/mcp"
    with Forked([sys.executable, "-m", "tests.fixtures.conformance", "--port", str(port)], ready=url):
        yield url


@pytest.fixture
def slow(worker: str, alice: Person, settings: Any) -> Server:
    """That server, at Acme."""
    settings.EGRESS_ALLOW = frozenset({worker.removeprefix("http://").removesuffix("/mcp")})
    tools = ("slow_compute", "confirm_delete", "failing_job", "greet")
    return offer(alice, "up", worker, tools=tools, protocol_version=MODERN)


@pytest.fixture
def lying(evil: Evil, alice: Person) -> Server:
    """A server that says of its tasks whatever it is told; it has a credential of ours."""
    output = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    evil.put("tools", [{"name": "promise", "inputSchema": {"type": "object"}, "outputSchema": output}])
    server = offer(alice, "up", evil.url, tools=("promise",), protocol_version=MODERN)
    Capability.objects.filter(server=server).update(
        definition={"name": "promise", "inputSchema": {"type": "object"}, "outputSchema": output}
    )
    registry.add_credential(alice.actor, server_id=server.id, kind="bearer", secret=SECRET)
    refresh(alice)
    return server


def ask(agent: Agent, method: str, capabilities: dict[str, Any] = TAKES, **params: Any) -> dict[str, Any]:
    """The answer to a request of a client that takes tasks."""
    answer: dict[str, Any] = agent.ask(method, {**params, "_meta": {META + "clientCapabilities": capabilities}})
    return answer


def begin(agent: Agent, tool: str = "up__slow_compute", **arguments: Any) -> dict[str, Any]:
    """The task that a call is answered with."""
    result: dict[str, Any] = ask(agent, "tools/call", name=tool, arguments=arguments)["result"]
    assert result["resultType"] == "task", result
    return result


def state(agent: Agent, task: dict[str, Any], capabilities: dict[str, Any] = TAKES) -> dict[str, Any]:
    """How a task stands."""
    answer = ask(agent, "tasks/get", capabilities, taskId=task["taskId"])
    assert "result" in answer, answer
    found: dict[str, Any] = answer["result"]
    return found


def until(agent: Agent, task: dict[str, Any], status: str) -> dict[str, Any]:
    """How a task stands as soon as it has this status."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := state(agent, task))["status"] != status:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return now


# Whose a task is -----------------------------------------------------------------------------------------------------


def test_a_task_is_its_caller_s_alone(live: Live, alice: Person, dora: Person, bob: Person, slow: Server) -> None:
    mine = agent_of(live, alice, MODERN)
    theirs = [agent_of(live, person, MODERN) for person in (dora, bob)]
    task = begin(mine, seconds=60, label="mine")
    assert begin(theirs[0], seconds=0, label="their own")
    unknown = ask(theirs[0], "tasks/get", taskId="no such task")["error"]

    for stranger in theirs:
        for method, more in (("tasks/get", {}), ("tasks/update", {"inputResponses": {}}), ("tasks/cancel", {})):
            error = ask(stranger, method, taskId=task["taskId"], **more)["error"]
            assert (error["code"], error["message"]) == (-32602, unknown["message"])
            assert "slow_compute" not in json.dumps(error)

    assert state(mine, task)["status"] == "working"
    assert ask(mine, "tasks/cancel", taskId=task["taskId"])["result"].keys() == {"resultType", "_meta"}
    assert until(mine, task, "cancelled")


def test_the_successor_of_a_key_finds_what_the_key_began(live: Live, alice: Person, slow: Server) -> None:
    old = auth.create_key(alice.actor, name="old")
    task = begin(Agent(live.url, old.plain, MODERN), seconds=0.1, label="kept")

    new = auth.rotate_key(alice.actor, key_id=old.key.id, overlap_seconds=0)

    result = until(Agent(live.url, new.plain, MODERN), task, "completed")["result"]
    assert result["content"][0]["text"] == "kept: computed for 0.1 s"


def test_a_key_that_may_not_call_the_tool_learns_nothing_of_its_tasks(live: Live, alice: Person, slow: Server) -> None:
    task = begin(agent_of(live, alice, MODERN), seconds=60, label="x")
    narrow = agent_of(live, alice, MODERN, scopes=("tool.call:up__greet",))

    assert "error" not in ask(narrow, "tools/call", name="up__greet", arguments={"name": "x"})
    assert ask(narrow, "tasks/get", taskId=task["taskId"])["error"]["code"] == -32602


@pytest.mark.parametrize("tool", ["slow_compute", "greet"])
def test_a_task_is_of_its_tool_and_no_other(live: Live, alice: Person, slow: Server, tool: str) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, seconds=60, label="x")

    change(Capability.objects.get(server=slow, name=tool), is_enabled=False)

    answer = ask(agent, "tasks/get", taskId=task["taskId"])
    assert ("error" in answer) is (tool == "slow_compute")


def test_the_server_s_own_id_is_neither_shown_nor_taken(live: Live, alice: Person, lying: Server, evil: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    evil.put("task", WORKING)
    task = begin(agent, "up__promise", task=WORKING)
    before, after = task["taskId"][:50], task["taskId"][51:]
    changed = before + ("A" if task["taskId"][50] != "A" else "B") + after
    forged = ["theirs", "", "x" * 5000, task["taskId"][:-4], changed]

    assert "theirs" not in json.dumps([task, state(agent, task)])
    for task_id in forged:
        assert ask(agent, "tasks/get", taskId=task_id)["error"]["code"] == -32602
    assert evil.seen("calls")["tasks/get"] == 1


def test_a_state_of_a_call_is_no_task(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, seconds=60, label="x")

    answer = ask(agent, "tools/call", name="up__greet", arguments={"name": "x"}, requestState=task["taskId"])

    assert answer["error"]["code"] == -32602


# Who takes tasks -----------------------------------------------------------------------------------------------------


def test_who_takes_no_tasks_gets_results_and_no_task(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, seconds=60, label="x")

    called = ask(agent, "tools/call", {}, name="up__slow_compute", arguments={"seconds": 0, "label": "y"})
    needed = ask(agent, "tools/call", {}, name="up__failing_job", arguments={})
    asked = [
        ask(agent, method, {}, taskId=task_id, inputResponses={})["error"]
        for method in ("tasks/get", "tasks/update", "tasks/cancel")
        for task_id in (task["taskId"], "no such task")
    ]

    assert called["result"]["content"][0]["text"] == "y: computed for 0 s"
    assert (needed["error"]["code"], needed["error"]["data"]) == (-32021, NEEDS_TASKS)
    assert [(error["code"], error["data"]) for error in asked] == [(-32021, NEEDS_TASKS)] * 6


def test_an_older_client_is_not_given_a_task_whatever_it_declares(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, LEGACY)
    hello = {"protocolVersion": LEGACY, "capabilities": TAKES, "clientInfo": {"name": "t", "version": "1"}}
    agent.session = agent.send("initialize", hello).headers["mcp-session-id"]

    assert agent.text("up__slow_compute", seconds=0, label="y") == "y: computed for 0 s"
    assert agent.ask("tasks/get", {"taskId": "x"})["error"]["code"] == -32601


@pytest.mark.parametrize("revision", ["2024-11-05", "2025-06-18", LEGACY])
def test_an_older_client_waits_for_the_result_of_a_tool_that_needs_a_task(
    live: Live, alice: Person, slow: Server, revision: str
) -> None:
    answers = {"elicitation/create": {"action": "accept", "content": {"ok": True}}}
    client = Speaker((live.url,), live.key(alice), revision, {"elicitation": {}}, answers)
    client.begin()

    failed = client.use("up__failing_job").result
    asked = client.use("up__confirm_delete", {"filename": "a.txt"}) if revision != "2024-11-05" else None

    assert failed == {"content": [{"type": "text", "text": "This job always fails."}], "isError": True}
    assert asked is None or asked.result["content"][0]["text"] == "a.txt: accept"
    assert asked is None or [each["params"]["message"] for each in asked.questions] == ["Please confirm"]
    assert {each.method for each in events()} == {"tools/call"}


def test_an_older_client_is_asked_each_question_once(live: Live, alice: Person, lying: Server, evil: Evil) -> None:
    answers = {"elicitation/create": {"action": "accept", "content": {"colour": "red"}}}
    client = Speaker((live.url,), live.key(alice), LEGACY, {"elicitation": {}}, answers)
    client.begin()
    evil.put("task", question(colour={"type": "string"}))
    done = {**WORKING, "status": "completed", "result": {"content": [], "structuredContent": {"n": 1}}}
    later = threading.Timer(2.5, evil.put, ("task", done))
    later.start()

    heard = client.use("up__promise", {"task": WORKING, "is_needed": True})

    later.join()
    assert heard.result["structuredContent"] == {"n": 1}
    assert len(heard.questions) == evil.seen("calls")["tasks/update"] == 1
    assert evil.seen("calls")["tasks/get"] > 2


def test_an_older_client_that_leaves_has_its_task_cancelled(
    live: Live, alice: Person, lying: Server, evil: Evil
) -> None:
    agent = agent_of(live, alice, LEGACY).open()
    evil.put("task", WORKING)
    message = {"name": "up__promise", "arguments": {"task": WORKING, "is_needed": True}}

    agent.timeout = 3
    with pytest.raises(TimeoutError):
        agent.send("tools/call", message)

    deadline = time.monotonic() + PATIENCE_SECONDS
    while "tasks/cancel" not in evil.seen("calls"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [each["params"]["taskId"] for each in evil.seen("replies")] == ["theirs"]


@pytest.mark.parametrize(
    "case",
    [
        ({"status": "cancelled"}, "has cancelled the task"),
        ({"status": "failed", "error": {"code": -32603, "message": "It broke."}}, "It broke."),
        (
            {"status": "completed", "result": {"content": [], "structuredContent": {"n": "x"}}},
            "breaks the outputSchema",
        ),
        ({"taskId": "another's"}, "another task"),
        ({"status": "input_required", "inputRequests": {"q": {"method": "roots/list"}}}, "has not declared roots"),
    ],
)
def test_an_older_client_is_told_why_there_is_no_result(
    live: Live, alice: Person, lying: Server, evil: Evil, case: tuple[dict[str, Any], str]
) -> None:
    agent, (told, said) = agent_of(live, alice, LEGACY), case
    evil.put("task", {**WORKING, **told})

    result = agent.call("up__promise", task=WORKING, is_needed=True)

    assert result["isError"] is True
    assert said in result["content"][0]["text"]
    has_ended = told.get("status") in ("cancelled", "failed", "completed")
    assert has_ended or eventually(lambda: evil.seen("calls").get("tasks/cancel") == 1, PATIENCE_SECONDS)


def test_an_older_client_s_task_outlives_a_server_that_is_away_for_a_moment(
    live: Live, alice: Person, lying: Server, evil: Evil
) -> None:
    change(lying, timeout_seconds=1.0)
    agent = agent_of(live, alice, LEGACY).open()
    evil.put("task", WORKING)
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(agent.call, "up__promise", task=WORKING, is_needed=True)
        assert eventually(lambda: evil.seen("calls").get("tasks/get", 0) > 0, PATIENCE_SECONDS)
        evil.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        evil.process.send_signal(signal.SIGCONT)
        evil.put("task", {**WORKING, "status": "completed", "result": {"content": [], "structuredContent": {"n": 1}}})

        assert called.result()["structuredContent"] == {"n": 1}


def test_an_older_client_does_not_wait_for_a_tool_that_it_has_lost(
    live: Live, alice: Person, lying: Server, evil: Evil
) -> None:
    agent = agent_of(live, alice, LEGACY).open()
    evil.put("task", WORKING)
    with ThreadPoolExecutor(1) as pool:
        message = {"name": "up__promise", "arguments": {"task": WORKING, "is_needed": True}}
        called = pool.submit(agent.ask, "tools/call", message)
        assert eventually(lambda: evil.seen("calls").get("tasks/get", 0) > 0, PATIENCE_SECONDS)
        change(Capability.objects.get(server=lying), is_enabled=False)

        assert "Unknown tool: up__promise" in json.dumps(called.result())
    assert eventually(lambda: evil.seen("calls").get("tasks/cancel") == 1, PATIENCE_SECONDS)


def test_a_task_of_an_older_client_is_given_up_in_the_end(
    live: Live, alice: Person, lying: Server, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "LONGEST_SECONDS", 1.5)
    evil.put("task", WORKING)

    result = agent_of(live, alice, LEGACY).call("up__promise", task=WORKING, is_needed=True)

    assert "did not end the task of this call within 1.5 seconds" in result["content"][0]["text"]
    assert eventually(lambda: evil.seen("calls").get("tasks/cancel") == 1, PATIENCE_SECONDS)


def test_a_task_that_nobody_takes_is_refused(live: Live, alice: Person, lying: Server) -> None:
    agent = agent_of(live, alice, MODERN)

    answer = ask(agent, "tools/call", {}, name="up__promise", arguments={"task": WORKING})

    assert "has not declared that it takes one" in answer["result"]["content"][0]["text"]


@pytest.mark.parametrize("header", ["another", "=?base64?YW5vdGhlcg==?=", ""])
def test_a_header_that_names_another_task_is_refused(live: Live, alice: Person, slow: Server, header: str) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, seconds=60, label="x")
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": TAKES}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": task["taskId"], "_meta": meta}}

    answer = agent.post(json.dumps(body).encode(), "tasks/get", headers={"Mcp-Name": header})

    assert (answer.status, answer.json()["error"]["code"]) == (400, -32020)


# What passes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        {"taskId": None}, {"taskId": ""}, {"taskId": "x" * 1025}, {"status": "sleeping"}, {"status": ["working"]},
        {"createdAt": None}, {"lastUpdatedAt": 5}, {"ttlMs": "long"}, {"ttlMs": -1}, {"ttlMs": True},
        {"pollIntervalMs": 0.5},
    ],
)  # fmt: skip
def test_what_is_no_task_is_the_server_s_failure(live: Live, alice: Person, lying: Server, broken: Any) -> None:
    agent = agent_of(live, alice, MODERN)

    answer = ask(agent, "tools/call", name="up__promise", arguments={"task": {**WORKING, **broken}})

    assert answer["result"]["isError"] is True
    assert answer["result"]["content"][0]["text"].startswith("The server up answered wrongly: ")


@pytest.mark.parametrize(
    "told",
    [
        {**WORKING, "taskId": "another's"},
        {**WORKING, "status": "completed"},
        {**WORKING, "status": "completed", "result": {"resultType": "input_required", "inputRequests": {}}},
        {**WORKING, "status": "completed", "result": {"content": "text"}},
        {**WORKING, "status": "completed", "result": {"content": [], "structuredContent": {"n": "many"}}},
        {**WORKING, "status": "failed", "error": {"code": "x", "message": "y"}},
        {**WORKING, "status": "input_required", "inputRequests": [1]},
        {**WORKING, "resultType": "task"},
    ],
)
def test_what_a_server_tells_of_a_task_is_held_to_the_protocol(
    live: Live, alice: Person, lying: Server, evil: Evil, told: dict[str, Any]
) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, "up__promise", task=WORKING)
    evil.put("task", told)

    error = ask(agent, "tasks/get", taskId=task["taskId"])["error"]

    assert error["code"] == -32000
    assert "up" in error["message"] and "another's" not in json.dumps(error)


def test_only_what_belongs_to_a_task_passes(live: Live, alice: Person, lying: Server, evil: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    result = {"content": [], "structuredContent": {"n": 1}, "_meta": {META + "related-task": {}, "own": 1}}
    task = begin(agent, "up__promise", task={**WORKING, "requestState": "s", "result": {}, "pollIntervalMs": 5})
    evil.put("task", {**WORKING, "status": "completed", "result": result, "error": {}, "requestState": "s"})

    told = state(agent, task)

    assert task.keys() == {"resultType", "status", *TIMES, "taskId", "pollIntervalMs", "_meta"}
    assert told.keys() == {"resultType", "status", *TIMES, "taskId", "result", "_meta"}
    assert told["result"] == {"content": [], "structuredContent": {"n": 1}, "_meta": {"own": 1}}


@pytest.mark.parametrize(
    "told",
    [
        {"statusMessage": f"with {SECRET}"},
        {
            "status": "completed",
            "result": {"content": [{"type": "text", "text": SECRET}], "structuredContent": {"n": 1}},
        },
        {"status": "failed", "error": {"code": 1, "message": SECRET, "data": {"why": SECRET}}},
        {"_meta": {"theirs": SECRET}},
    ],
)
def test_our_credential_is_in_no_task(
    live: Live, alice: Person, lying: Server, evil: Evil, told: dict[str, Any]
) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, "up__promise", task={**WORKING, "statusMessage": SECRET})
    evil.put("task", {**WORKING, **told})

    said = json.dumps([task, state(agent, task), ask(agent, "tasks/cancel", taskId=task["taskId"])])

    assert SECRET not in said
    assert "[redacted]" in said


def question(**fields: Any) -> dict[str, Any]:
    """A form for the person, asked by a task."""
    form = {"type": "object", "properties": fields}
    asked = {"method": "elicitation/create", "params": {"message": "Please", "requestedSchema": form}}
    return {**WORKING, "status": "input_required", "inputRequests": {"q": asked}}


def test_a_task_asks_only_what_its_client_may_be_asked(live: Live, alice: Person, lying: Server, evil: Evil) -> None:
    hearing._journalled.clear()
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, "up__promise", task=WORKING)
    evil.put("task", question(colour={"type": "string"}))

    assert state(agent, task)["inputRequests"]["q"]["params"]["message"] == "Please"
    undeclared = ask(agent, "tasks/get", {"extensions": {TASKS: {}}}, taskId=task["taskId"])["error"]
    evil.put("task", question(password={"type": "string"}))
    secret = ask(agent, "tasks/get", taskId=task["taskId"])["error"]

    assert "has not declared elicitation" in undeclared["message"]
    assert "asks for a secret" in secret["message"]
    assert Entry.objects.filter(action="server.question_refused", subject="server:up").count() == 2


def test_answers_reach_the_task_and_nothing_else_does(live: Live, alice: Person, lying: Server, evil: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, "up__promise", task=WORKING)
    answers = {"q": {"action": "accept", "content": {"colour": "red"}}}

    done = ask(agent, "tasks/update", taskId=task["taskId"], inputResponses=answers)["result"]
    refused = [ask(agent, "tasks/update", taskId=task["taskId"], **more)["error"]["code"]
               for more in ({}, {"inputResponses": [1]})]  # fmt: skip

    sent = evil.seen("replies")[0]["params"]
    assert {name: sent[name] for name in ("taskId", "inputResponses")} == {
        "taskId": "theirs",
        "inputResponses": answers,
    }
    assert done.keys() == {"resultType", "_meta"} and done["resultType"] == "complete"
    assert refused == [-32602, -32602]
    assert len(evil.seen("replies")) == 1


def test_a_server_that_has_forgotten_a_task_says_so_itself(live: Live, alice: Person, settings: Any) -> None:
    agent, port = agent_of(live, alice, MODERN), free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    url, command = (
        f"http://127.0.0.1:{port}/mcp",
        [sys.executable, "-m", "tests.fixtures.conformance", "--port", str(port)],
    )
    offer(alice, "up", url, tools=("slow_compute",), protocol_version=MODERN)

    with Forked(command, ready=url):
        task = begin(agent, seconds=60, label="x")
    with Forked(command, ready=url):
        error = ask(agent, "tasks/get", taskId=task["taskId"])["error"]

    assert (error["code"], error["message"]) == (-32602, "Task not found")


# What is left behind -------------------------------------------------------------------------------------------------


def test_every_request_about_a_task_is_counted_under_its_tool(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, "up__failing_job")

    until(agent, task, "completed")
    ask(agent, "tasks/cancel", taskId=task["taskId"])
    ask(agent, "tasks/get", taskId="no such task")

    left = {(each.method, each.name, each.server, each.status, each.error_code) for each in events()}
    assert left - {("tasks/get", "up__failing_job", "up", "ok", "")} == {  # it may have failed before the first look
        ("tools/call", "up__failing_job", "up", "ok", ""),
        ("tasks/get", "up__failing_job", "up", "error", "TOOL_ERROR"),
        ("tasks/cancel", "up__failing_job", "up", "ok", ""),
        ("tasks/get", "", "", "error", "NOT_FOUND"),
    }


def test_a_task_is_nobody_else_s_result(live: Live, alice: Person, slow: Server) -> None:
    """A tool that only reads may be answered from memory; its tasks may not."""
    change(Capability.objects.get(server=slow, name="slow_compute"), cache_seconds=60, risk="low")
    agent = agent_of(live, alice, MODERN)

    ids = {begin(agent, seconds=0, label="same")["taskId"] for _ in range(2)}
    plain = ask(agent, "tools/call", {}, name="up__slow_compute", arguments={"seconds": 0, "label": "same"})

    assert len(ids) == 2
    assert plain["result"]["resultType"] == "complete"


# What is told unasked ------------------------------------------------------------------------------------------------


@contextmanager
def listening(
    live: Live, agent: Agent, *task_ids: str, capabilities: Any = TAKES, **more: Any
) -> Iterator[Iterator[dict[str, Any]]]:
    """What comes on a stream that is about these tasks; an error comes alone."""
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": capabilities}
    params = {"notifications": {"taskIds": list(task_ids), **more}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": "listening", "method": "subscriptions/listen", "params": params}
    connection = HTTPConnection("127.0.0.1", live.port, timeout=PATIENCE_SECONDS)
    connection.request("POST", "/mcp", json.dumps(body).encode(), agent._headers("subscriptions/listen", params))
    response = connection.getresponse()

    def messages() -> Iterator[dict[str, Any]]:
        if response.headers["content-type"] == "application/json":
            yield json.loads(response.read())
        for line in response:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])

    try:
        yield messages()
    finally:
        connection.sock.close() if connection.sock else None
        response.close()


def test_a_task_that_is_listened_to_is_told_until_its_end(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, "up__confirm_delete", filename="a.txt")
    until(agent, task, "input_required")

    with listening(live, agent, task["taskId"]) as said:
        acknowledged, first = next(said), next(said)
        answers = {"confirm": {"action": "accept", "content": {"ok": True}}}
        ask(agent, "tasks/update", taskId=task["taskId"], inputResponses=answers)
        later = next(each for each in said if each["params"]["status"] == "completed")

    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == {"taskIds": [task["taskId"]]}
    assert first["method"] == later["method"] == "notifications/tasks"
    assert first["params"]["inputRequests"].keys() == {"confirm"}
    assert {each["params"]["_meta"][META + "subscriptionId"] for each in (first, later)} == {"listening"}
    now = state(agent, task)
    for told in (later["params"], now):
        told.pop("_meta"), told.pop("resultType", None)
    assert later["params"] == now


def test_only_what_is_ones_own_is_listened_to(
    live: Live, alice: Person, dora: Person, slow: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "MOST_TASKS", 2)
    agent, stranger = agent_of(live, alice, MODERN), agent_of(live, dora, MODERN)
    ids = [begin(agent, seconds=60, label="x")["taskId"] for _ in range(3)]

    with listening(live, stranger, *ids, "no such task") as said:
        assert next(said)["params"]["notifications"] == {}
    with listening(live, agent, ids[0], ids[0], *ids[1:]) as said, listening(live, agent, *ids) as full:
        assert next(said)["params"]["notifications"] == {"taskIds": ids[:2]}
        assert next(full)["params"]["notifications"] == {}
    until_nothing_is_followed()


def test_who_takes_no_tasks_does_not_listen_to_any(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, seconds=60, label="x")

    with listening(live, agent, task["taskId"], capabilities={}) as said:
        error = next(said)["error"]

    assert (error["code"], error["data"]) == (-32021, NEEDS_TASKS)


def test_who_loses_the_tool_is_told_nothing_more(live: Live, alice: Person, slow: Server) -> None:
    agent = agent_of(live, alice, MODERN)
    task = begin(agent, seconds=60, label="x")

    with listening(live, agent, task["taskId"]) as said:
        assert [next(said)["method"] for _ in range(2)][1] == "notifications/tasks"
        assert following._followed.total() == 1
        change(Capability.objects.get(server=slow, name="slow_compute"), is_enabled=False)
        until_nothing_is_followed()


def until_nothing_is_followed() -> None:
    """Return as soon as no task is looked at for anybody."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while following._followed:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Strangers -----------------------------------------------------------------------------------------------------------


def test_a_client_and_a_server_that_others_wrote_have_tasks_between_them(
    live: Live, alice: Person, settings: Any
) -> None:
    """The client of FastMCP takes a task, asks for it and answers what it asks, without a word of its caller."""
    key, port = live.key(alice), free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    url = f"http://127.0.0.1:{port}/mcp"
    command = [sys.executable, "-m", "tests.fixtures.fastmcp_tasks_server", str(port)]

    async def person(*_: Any) -> Any:
        return {"name": "Alice"}

    async def talk() -> list[Any]:
        transport = StreamableHttpTransport(live.mcp_url, headers={"Authorization": f"Bearer {key}"})
        async with Client(transport, mode=MODERN, elicitation_handler=person) as client:
            crunched = await client.call_tool("up__crunch", {"words": "loud"})
            greeted = await client.call_tool("up__greet", {})
            return [crunched.data or crunched.content[0].text, greeted.data or greeted.content[0].text]

    with Forked(command, ready=url):
        server = registry.register_server(alice.actor, name="Up", slug="up", url=url)
        registry.discover_server(alice.actor, server_id=server.id)
        registry.approve_server(alice.actor, server_id=server.id)
        refresh(alice)
        said = asyncio.run(talk())

    assert said == ["LOUD", "Hello, Alice!"]
    assert {"tools/call", "tasks/get", "tasks/update"} <= {each.method for each in events()}
