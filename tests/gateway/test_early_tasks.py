"""Tasks of 2025-11-25: tools that are called as tasks alone, and clients that ask for a task.

Our own server of that revision (tests/fixtures/early_tasks.py) is spoken to over real sockets; the reference server of
npm is called in tests/journeys/test_strangers.py.
"""

import json
import shlex
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from apps.gateway.services import early_driving, early_tasks
from apps.registry import services as registry
from apps.registry.models import Capability, Server
from tests.fixtures.early_tasks import MEANWHILE, RELATED
from tests.fixtures.faults import eventually
from tests.fixtures.servers import PROJECT, Forked, free_port
from tests.gateway.agent import LEGACY, MODERN, agent_of, change, offer, refresh
from tests.gateway.conftest import events
from tests.gateway.speaker import Speaker
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.once]

PATIENCE_SECONDS = 30
ALICE = {"elicitation/create": {"action": "accept", "content": {"name": "Alice"}}}
CAN_BE_ASKED = {"elicitation": {}}
SECRET = "canary-upstream-secret"
EVERY_REVISION = ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY, MODERN]


class Worker:
    """The server, what it has seen, and the switch that lets its tasks end."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}/mcp"

    def seen(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the requests of this method so far."""
        with urllib.request.urlopen(f"http://{self.address}/_seen", timeout=60) as answer:
            return [each["params"] for each in json.loads(answer.read()) if each["method"] == method]

    def is_cancelled(self) -> bool:
        """Whether its one task is cancelled soon: by the session that began it, for no other one knows it."""

        def look() -> bool:
            with urllib.request.urlopen(f"http://{self.address}/_tasks", timeout=60) as answer:
                return bool(json.loads(answer.read()) == ["cancelled"])

        return eventually(look, PATIENCE_SECONDS)

    def put(self, what: str, value: Any = None) -> None:
        """Change how it behaves."""
        body = json.dumps(value).encode()
        asked = urllib.request.Request(f"http://{self.address}/_{what}", data=body, method="PUT")
        urllib.request.urlopen(asked, timeout=60).close()

    def has_seen(self, method: str) -> bool:
        """Whether it is asked this soon."""
        return eventually(lambda: bool(self.seen(method)), PATIENCE_SECONDS)


@pytest.fixture
def worker(settings: Any) -> Iterator[Worker]:
    """The server, which this platform may call."""
    made = Worker(port := free_port())
    settings.EGRESS_ALLOW = frozenset({made.address})
    with Forked([sys.executable, "-m", "tests.fixtures.early_tasks", "--port", str(port)], ready=port):
        yield made


@pytest.fixture
def server(worker: Worker, alice: Person) -> Server:
    """It, discovered and approved at Acme, with a credential of ours."""
    made = registry.register_server(alice.actor, name="Up", slug="up", url=worker.url)
    registry.add_credential(alice.actor, server_id=made.id, kind="bearer", secret=SECRET)
    registry.discover_server(alice.actor, server_id=made.id)
    registry.approve_server(alice.actor, server_id=made.id)
    refresh(alice)
    return made


def speaker(live: Live, person: Person, revision: str = LEGACY, **answers: Any) -> Speaker:
    """A client that can be asked, and says so."""
    client = Speaker((live.url,), live.key(person), revision, CAN_BE_ASKED, answers or ALICE)
    client.begin()
    return client


# Who asks for no task ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_a_tool_that_needs_a_task_is_called_like_any_other(
    live: Live, alice: Person, server: Server, worker: Worker, revision: str
) -> None:
    worker.put("release")
    client = speaker(live, alice, revision)

    held = client.use("up__hold").result
    asked = client.use("up__ask", {"message": "Who are you?"})
    failed = client.use("up__fail").result

    assert held["content"] == [{"type": "text", "text": "released"}]
    assert asked.result["content"][0]["text"] == "accept: Alice, about the task"
    assert (failed["content"][0]["text"], failed["isError"]) == ("This tool fails on purpose.", True)
    assert [each["params"]["message"] for each in asked.questions] == ["Who are you?"]
    assert not any("task" in json.dumps([each.get("_meta"), each["params"]]) for each in asked.questions)
    left = [(each.method, each.name, each.status, each.error_code) for each in events()]
    assert [each for each in left if each[0] == "tools/call" and each[2] == "ok"][-1][1] == "up__ask"
    assert {each[0] for each in left} == {"tools/call"}
    assert left[-1] == ("tools/call", "up__fail", "error", "TOOL_ERROR")


@pytest.mark.parametrize("revision", ["2025-06-18", LEGACY])
def test_progress_of_the_task_reaches_who_waits_for_it(
    live: Live, alice: Person, server: Server, worker: Worker, revision: str
) -> None:
    worker.put("release")

    heard = speaker(live, alice, revision).use("up__count", {"to": 3}, progress="mine")

    assert heard.result["content"][0]["text"] == "3"
    assert [each["params"] for each in heard.notices] == [
        {"progressToken": "mine", "progress": number, "total": 3} for number in (1, 2, 3)
    ]


def test_a_server_that_refuses_a_call_for_not_being_a_task_is_asked_for_one(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    worker.put("release")

    assert agent_of(live, alice).text("up__hidden") == "released"
    assert ["task" in each for each in worker.seen("tools/call")] == [False, True]


def test_a_tool_that_may_be_a_task_is_called_without_one(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    assert agent_of(live, alice).text("up__maybe", text="hello") == "hello"
    assert worker.seen("tools/call") == [{"name": "maybe", "arguments": {"text": "hello"}}]


@pytest.mark.parametrize("way", ["by leaving", "by ending its session"])
def test_who_leaves_has_the_task_cancelled(live: Live, alice: Person, server: Server, worker: Worker, way: str) -> None:
    agent = agent_of(live, alice).open()
    with ThreadPoolExecutor(1) as pool:
        agent.timeout = 3 if way == "by leaving" else 60
        called = pool.submit(agent.send, "tools/call", {"name": "up__hold", "arguments": {}})
        assert worker.has_seen("tasks/get")
        if way == "by ending its session":
            agent.close()
        else:
            with pytest.raises(TimeoutError):
                called.result()

        assert worker.is_cancelled()
    assert eventually(lambda: events()[-1].error_code == "CANCELLED", PATIENCE_SECONDS)


def test_a_task_is_given_up_in_the_end(
    live: Live, alice: Person, server: Server, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_driving, "LONGEST_SECONDS", 1.5)

    result = agent_of(live, alice).call("up__hold")

    assert "did not end the task of this call within 1.5 seconds" in result["content"][0]["text"]
    assert worker.is_cancelled()


def test_nobody_waits_for_a_tool_that_is_lost(live: Live, alice: Person, server: Server, worker: Worker) -> None:
    agent = agent_of(live, alice).open()
    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(agent.ask, "tools/call", {"name": "up__hold", "arguments": {}})
        assert worker.has_seen("tasks/get")
        change(Capability.objects.get(server=server, name="hold"), is_enabled=False)

        assert "Unknown tool: up__hold" in json.dumps(called.result())
    assert worker.is_cancelled()


def test_what_a_task_gives_is_held_to_the_schema_and_masked(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    agent = agent_of(live, alice)

    good = agent.call("up__give", structuredContent={"n": 1}, content=[{"type": "text", "text": f"with {SECRET}"}])
    bad = agent.call("up__give", structuredContent={"n": "many"})

    assert (good["structuredContent"], good["_meta"]) == ({"n": 1}, {"own": 1})
    assert good["content"][0]["text"] == "with [redacted]"
    assert "breaks the outputSchema" in bad["content"][0]["text"]


@pytest.mark.parametrize(
    "case",
    [
        ({"status": "sleeping"}, "in no state that is known"),
        ({"taskId": ""}, "has no id"),
        ({"ttl": "long"}, "the ttl of its task"),
        ({"pollInterval": 0.5}, "the pollInterval of its task"),
        ({"createdAt": None}, "does not say createdAt"),
        ({"status": "cancelled"}, "has cancelled the task"),
    ],
)
def test_what_is_no_task_is_the_server_s_failure(
    live: Live, alice: Person, server: Server, worker: Worker, case: tuple[dict[str, Any], str]
) -> None:
    told, said = case
    worker.put("told", told)

    result = agent_of(live, alice).call("up__hold")

    assert result["isError"] is True
    assert said in result["content"][0]["text"]


def test_a_broken_task_says_what_broke(live: Live, alice: Person, server: Server) -> None:
    assert "broke off" in agent_of(live, alice).call("up__break")["content"][0]["text"]


@pytest.mark.parametrize("isolated", [False, True])
def test_a_task_of_a_process_is_waited_for(live: Live, alice: Person, settings: Any, isolated: bool) -> None:
    """A process of one session asks its client; one that all share is told that its client can do nothing."""
    start = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from tests.fixtures import early_tasks as t; t.main()"
    command = [sys.executable, "-c", start, "--stdio"]
    settings.STDIO_ALLOW = (shlex.join(command),)
    made = offer(
        alice, "up", transport="stdio", command=command, isolate_sessions=isolated,
        protocol_version=LEGACY, declared_capabilities={"tasks": {"requests": {"tools": {"call": {}}}}},
        tools=("ask", "maybe"),
    )  # fmt: skip
    for name, support in (("ask", "required"), ("maybe", "optional")):
        row = Capability.objects.get(server=made, name=name)
        change(row, definition={**row.definition, "execution": {"taskSupport": support}})
    client = speaker(live, alice)

    asked = client.use("up__ask", {"message": "Who?"})
    task = begin(client, "up__maybe", {"text": "hello"})

    assert len(asked.questions) == isolated
    said = "accept: Alice, about the task" if isolated else "This client cannot be asked."
    assert asked.result["content"][0]["text"] == said
    assert client.ask("tasks/result", {"taskId": task["taskId"]}).result["content"][0]["text"] == "hello"


# What is listed ------------------------------------------------------------------------------------------------------


def test_lists_say_what_is_true_for_who_reads_them(live: Live, alice: Person, server: Server) -> None:
    def executions(revision: str) -> dict[str, Any]:
        tools = agent_of(live, alice, revision).list()["tools"]
        return {tool["name"]: tool.get("execution") for tool in tools if tool["name"].startswith("up__")}

    may = {"taskSupport": "optional"}
    early, modern = executions(LEGACY), executions(MODERN)
    change(server, declared_capabilities={"tools": {}})
    without = executions(LEGACY)

    assert early["up__hold"] == early["up__maybe"] == may
    assert early["up__echo"] == {"taskSupport": "forbidden"}
    assert (modern["up__hold"], modern["up__maybe"], without["up__hold"], without["up__maybe"]) == (None,) * 4


def declared(live: Live, person: Person, revision: str) -> Any:
    """What is declared of tasks to a client."""
    said = Speaker((live.url,), live.key(person), revision).begin()
    return said["capabilities"].get("tasks")


def test_tasks_are_declared_where_some_server_carries_them_out(
    live: Live, alice: Person, bob: Person, server: Server
) -> None:
    assert declared(live, alice, LEGACY) == {"cancel": {}, "requests": {"tools": {"call": {}}}}
    assert declared(live, alice, "2025-06-18") is None
    assert declared(live, alice, MODERN) is None
    assert declared(live, bob, LEGACY) is None


def test_servers_are_not_told_that_a_client_answers_with_tasks(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    tasks = {"requests": {"elicitation": {"create": {}}}}
    client = Speaker((live.url,), live.key(alice), LEGACY, {"elicitation": {}, "tasks": tasks}, ALICE)
    client.begin()

    heard = client.use("up__ask", {"message": "Who?"})

    assert worker.seen("initialize")[-1]["capabilities"] == {"elicitation": {}}
    assert "task" not in heard.questions[0]["params"]


# Who asks for a task -------------------------------------------------------------------------------------------------


def begin(client: Speaker, name: str, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """The task that a call is answered with."""
    params = {"name": name, "arguments": arguments or {}, "task": {"ttl": 60_000}, **more}
    result = client.ask("tools/call", params).result
    assert result.keys() == {"task", "_meta"}, result
    task: dict[str, Any] = result["task"]
    return task


def test_a_client_has_its_own_task(live: Live, alice: Person, server: Server, worker: Worker) -> None:
    client = speaker(live, alice)
    made = client.ask("tools/call", {"name": "up__hold", "arguments": {}, "task": {"ttl": 60_000}}).result
    task = made["task"]
    about = {"taskId": task["taskId"]}

    working = client.ask("tasks/get", about).result
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.ask, "tasks/result", about)
        assert worker.has_seen("tasks/result")
        worker.put("release")
        result = waiting.result().result
    completed = client.ask("tasks/get", about).result

    assert made["_meta"] == {MEANWHILE: "It is under way.", "own": 1}
    assert task.keys() == working.keys() == {
        "taskId", "status", "statusMessage", "createdAt", "lastUpdatedAt", "ttl", "pollInterval",
    }  # fmt: skip
    assert (task["status"], working["status"], completed["status"]) == ("working", "working", "completed")
    assert (task["ttl"], task["pollInterval"]) == (60_000, 100)
    assert result["content"][0]["text"] == "released"
    assert result["_meta"] == {"own": 1, RELATED: about}
    assert "task of the server" not in json.dumps([made, working, result, completed])
    assert [each["task"] for each in worker.seen("tools/call")] == [{"ttl": 60_000}]


def test_a_task_asks_its_client_and_tells_it_of_progress(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    worker.put("release")
    client = speaker(live, alice)
    asking = begin(client, "up__ask", {"message": "Who?"})
    counting = begin(client, "up__count", {"to": 2}, _meta={"progressToken": "of the call"})

    asked = client.ask("tasks/result", {"taskId": asking["taskId"]})
    counted = client.ask("tasks/result", {"taskId": counting["taskId"]})

    assert asked.result["content"][0]["text"] == "accept: Alice, about the task"
    assert [each["params"]["_meta"] for each in asked.questions] == [{RELATED: {"taskId": asking["taskId"]}}]
    assert [(each["params"]["progress"], each["params"]["progressToken"]) for each in counted.notices] == [
        (1, "of the call"), (2, "of the call"),
    ]  # fmt: skip
    assert {str(each["params"]["_meta"]) for each in counted.notices} == {
        str({RELATED: {"taskId": counting["taskId"]}})
    }


def test_a_task_is_cancelled_once(live: Live, alice: Person, server: Server) -> None:
    client = speaker(live, alice)
    about = {"taskId": begin(client, "up__hold")["taskId"]}

    cancelled = client.ask("tasks/cancel", about).result
    again = client.ask("tasks/cancel", about).error

    assert (cancelled["status"], cancelled["taskId"]) == ("cancelled", about["taskId"])
    assert (again["code"], again["message"]) == (-32602, f"The {about['taskId']} has ended.")


def test_a_failed_task_is_answered_as_the_call_would_be(live: Live, alice: Person, server: Server) -> None:
    client = speaker(live, alice)
    failed, broken = begin(client, "up__fail"), begin(client, "up__break")

    result = client.ask("tasks/result", {"taskId": failed["taskId"]}).result
    error = client.ask("tasks/result", {"taskId": broken["taskId"]}).error

    assert (result["isError"], result["content"][0]["text"]) == (True, "This tool fails on purpose.")
    assert (error["code"], error["message"]) == (-32603, f"The {broken['taskId']} broke off.")
    assert error["data"] == {"task": broken["taskId"]}


@pytest.mark.parametrize("tool", ["up__echo", "up__hidden", "platform_health"])
def test_a_tool_that_is_no_task_is_not_called_as_one(
    live: Live, alice: Person, server: Server, worker: Worker, tool: str
) -> None:
    error = speaker(live, alice).ask("tools/call", {"name": tool, "arguments": {"text": "x"}, "task": {}}).error

    assert (error["code"], error["message"]) == (-32601, f"{tool} cannot be called as a task. Call it without.")
    assert worker.seen("tools/call") == []


@pytest.mark.parametrize("task", [[], "soon", {"ttl": "long"}, {"ttl": -1}, {"ttl": True}])
def test_what_is_said_of_a_task_has_a_form(live: Live, alice: Person, server: Server, task: Any) -> None:
    error = speaker(live, alice).ask("tools/call", {"name": "up__hold", "arguments": {}, "task": task}).error

    assert error["code"] == -32602


def test_a_refused_call_for_a_task_is_an_error_and_no_result(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    client = speaker(live, alice)
    worker.put("told", {"status": "sleeping"})
    wrong = client.ask("tools/call", {"name": "up__hold", "arguments": {}, "task": {}}).error
    unfit = client.ask("tools/call", {"name": "up__count", "arguments": {"to": "x"}, "task": {}}).error

    assert (wrong["code"], unfit["code"]) == (-32000, -32602)
    assert "in no state that is known" in wrong["message"]


@pytest.mark.parametrize("revision", ["2025-06-18", MODERN])
def test_other_revisions_know_nothing_of_such_tasks(
    live: Live, alice: Person, server: Server, worker: Worker, revision: str
) -> None:
    worker.put("release")
    task = begin(speaker(live, alice), "up__hold")
    client = speaker(live, alice, revision)

    called = client.ask("tools/call", {"name": "up__hold", "arguments": {}, "task": {"ttl": 1}}).result
    error = client.ask("tasks/result", {"taskId": task["taskId"]}).error

    assert called["content"][0]["text"] == "released"
    assert error["code"] == -32601


def test_tasks_are_not_listed(live: Live, alice: Person, server: Server) -> None:
    assert speaker(live, alice).ask("tasks/list").error["code"] == -32601


# Whose a task is -----------------------------------------------------------------------------------------------------


def test_a_task_is_its_caller_s_alone(live: Live, alice: Person, dora: Person, server: Server, worker: Worker) -> None:
    mine = speaker(live, alice)
    task_id = begin(mine, "up__hold")["taskId"]
    changed = task_id[:50] + ("A" if task_id[50] != "A" else "B") + task_id[51:]
    theirs = speaker(live, dora)
    begin(theirs, "up__hold")
    narrow = Speaker((live.url,), live.key(alice, ("tool.call:up__maybe",)), LEGACY)
    narrow.begin()
    before = len(worker.seen("tasks/get"))

    attempts = [
        (theirs, task_id),
        (narrow, task_id),
        (mine, "no such task"),
        (mine, changed),
        (mine, task_id[:-4]),
        (mine, "x" * 5000),
    ]
    asked = [
        client.ask(method, {"taskId": each}).error
        for method in ("tasks/get", "tasks/result", "tasks/cancel")
        for client, each in attempts
    ]

    assert {(each["code"], each["message"]) for each in asked} == {(-32602, asked[2]["message"])}
    assert "hold" not in json.dumps(asked)
    assert len(worker.seen("tasks/get")) == before and not worker.seen("tasks/cancel")
    assert mine.ask("tasks/get", {"taskId": task_id}).result["status"] == "working"


def test_another_organisation_learns_nothing_of_a_task(live: Live, alice: Person, bob: Person, server: Server) -> None:
    task_id = begin(speaker(live, alice), "up__hold")["taskId"]
    stranger = speaker(live, bob)

    errors = [stranger.ask("tasks/get", {"taskId": each}).error for each in (task_id, "no such task")]

    assert {(each["code"], each["message"]) for each in errors} == {(-32601, "No tool here is called as a task.")}


def test_a_task_is_of_its_tool_and_no_other(live: Live, alice: Person, server: Server) -> None:
    client = speaker(live, alice)
    about = {"taskId": begin(client, "up__hold")["taskId"]}
    assert client.ask("tasks/get", about).result

    change(Capability.objects.get(server=server, name="hold"), is_enabled=False)

    assert client.ask("tasks/get", about).error["code"] == -32602


def test_a_task_is_known_to_its_server_in_the_session_that_began_it(live: Live, alice: Person, server: Server) -> None:
    """The id holds for the user; it is the server that binds its tasks to sessions, and says so itself."""
    task_id = begin(speaker(live, alice), "up__hold")["taskId"]

    error = speaker(live, alice).ask("tasks/get", {"taskId": task_id}).error

    assert (error["code"], error["message"]) == (-32602, f"Task not found: {task_id}")


# What passes, and what is left behind --------------------------------------------------------------------------------


def test_results_of_tasks_are_held_to_the_schema_and_masked(live: Live, alice: Person, server: Server) -> None:
    client = speaker(live, alice)
    content = [{"type": "text", "text": f"with {SECRET}"}]
    good = begin(client, "up__give", {"structuredContent": {"n": 1}, "content": content})
    bad = begin(client, "up__give", {"structuredContent": {"n": "many"}})

    result = client.ask("tasks/result", {"taskId": good["taskId"]}).result
    error = client.ask("tasks/result", {"taskId": bad["taskId"]}).error

    assert (result["structuredContent"], result["content"][0]["text"]) == ({"n": 1}, "with [redacted]")
    assert error["code"] == -32000 and "breaks the outputSchema" in error["message"]


def test_a_server_tells_of_the_task_that_it_is_asked_for(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    client = speaker(live, alice)
    task = begin(client, "up__hold")
    worker.put("told", {"taskId": "another's", "statusMessage": SECRET})

    error = client.ask("tasks/get", {"taskId": task["taskId"]}).error

    assert error["code"] == -32000 and "another task" in error["message"]
    worker.put("told", {"statusMessage": SECRET})
    assert client.ask("tasks/get", {"taskId": task["taskId"]}).result["statusMessage"] == "[redacted]"


def test_every_request_about_a_task_is_counted_under_its_tool(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    client = speaker(live, alice)
    task = begin(client, "up__fail")
    client.ask("tasks/get", {"taskId": task["taskId"]})
    client.ask("tasks/result", {"taskId": task["taskId"]})
    client.ask("tasks/cancel", {"taskId": task["taskId"]})
    client.ask("tasks/get", {"taskId": "no such task"})

    left = [(each.method, each.name, each.server, each.status, each.error_code) for each in events()]
    assert left == [
        ("tools/call", "up__fail", "up", "ok", ""),
        ("tasks/get", "up__fail", "up", "ok", ""),
        ("tasks/result", "up__fail", "up", "error", "TOOL_ERROR"),
        ("tasks/cancel", "up__fail", "up", "error", "BACKEND_FAILED"),
        ("tasks/get", "", "", "error", "NOT_FOUND"),
    ]


def test_a_task_is_nobody_else_s_result(live: Live, alice: Person, server: Server) -> None:
    """A tool that only reads may be answered from memory; its tasks may not."""
    change(Capability.objects.get(server=server, name="maybe"), cache_seconds=60, risk="low")
    client = speaker(live, alice)

    ids = {begin(client, "up__maybe", {"text": "same"})["taskId"] for _ in range(2)}

    assert len(ids) == 2
    assert client.use("up__maybe", {"text": "same"}).result["content"][0]["text"] == "same"


def test_who_waits_for_a_result_keeps_nobody_from_the_server(
    live: Live, alice: Person, server: Server, worker: Worker
) -> None:
    change(server, max_concurrency=1, timeout_seconds=5.0)
    client, other = speaker(live, alice), agent_of(live, alice)
    task = begin(client, "up__hold")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.ask, "tasks/result", {"taskId": task["taskId"]})
        assert worker.has_seen("tasks/result")

        assert other.text("up__maybe", text="hello") == "hello"

        worker.put("release")
        assert waiting.result().result["content"][0]["text"] == "released"


def test_a_result_is_not_waited_for_for_ever_and_the_task_goes_on(
    live: Live, alice: Person, server: Server, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = speaker(live, alice)
    task = begin(client, "up__hold")
    monkeypatch.setattr(early_tasks, "LONGEST_SECONDS", 1.0)

    error = client.ask("tasks/result", {"taskId": task["taskId"]}).error

    assert error["code"] == -32000 and "Ask for its result again" in error["message"]
    worker.put("release")
    monkeypatch.undo()
    assert client.ask("tasks/result", {"taskId": task["taskId"]}).result["content"][0]["text"] == "released"
