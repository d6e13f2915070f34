"""`manage.py mcp stdio`: the same tools over standard input and output, and nothing left behind."""

import asyncio
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from mcp.client.client import Client as SdkClient
from mcp.client.stdio import StdioServerParameters, stdio_client

from apps.auth import services as auth
from apps.registry import services as registry
from tests.fixtures import warm
from tests.fixtures.faults import eventually
from tests.fixtures.servers import Process, evil_stdio_command, free_port
from tests.gateway.agent import LEGACY, META, MODERN, offer
from tests.gateway.conftest import Evil, events
from tests.gateway.test_conversations import Watcher
from tests.people import Person
from tests.processes import PROJECT, environment

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]
COMMAND = [sys.executable, "manage.py", "mcp", "stdio"]
PATIENCE_SECONDS = 90
HELLO = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


def env_of(person: Person, **more: str) -> dict[str, str]:
    """The environment of the command with a fresh key of this person."""
    key = auth.create_key(person.actor, name="stdio").plain
    return environment(GATEHOUSE_KEY=key, GATEHOUSE_STDIO_ALLOW=shlex.join(evil_stdio_command()), **more)


def allow(evil: Evil) -> str:
    """The egress list that has this upstream."""
    return f"127.0.0.1:{evil.port}"


class Pipe:
    """The command with its standard streams in our hands."""

    def __init__(self, env: dict[str, str]) -> None:
        self._folder = TemporaryDirectory(prefix="pipe-")
        self._output, self._errors = (Path(self._folder.name, name) for name in ("output", "errors"))
        theirs, ours = os.pipe()
        self._input = os.fdopen(ours, "w")
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            streams = (theirs, output.fileno(), errors.fileno())
            self.process = warm.Popen(COMMAND, cwd=PROJECT, env=env, streams=streams)
        os.close(theirs)
        self._read = 0

    def ask(self, number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and read its answer."""
        self.write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        answer = self.read()
        assert answer["id"] == number
        return answer

    def read(self) -> dict[str, Any]:
        """The next answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "\n" not in (rest := self._output.read_text()[self._read :]):
            assert time.monotonic() < deadline and self.process.poll() is None, self._errors.read_text()
            time.sleep(0.01)
        line = rest.partition("\n")[0]
        self._read += len(line) + 1
        answer: dict[str, Any] = json.loads(line)
        return answer

    def write(self, message: dict[str, Any]) -> None:
        """Send one line."""
        self._input.write(json.dumps(message) + "\n")
        self._input.flush()

    def open(self) -> "Pipe":
        """Shake hands."""
        self.ask(0, "initialize", HELLO)
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def close(self) -> tuple[str, str]:
        """Close the input and return what else came out."""
        self._input.close()
        self.process.wait(PATIENCE_SECONDS)
        said = self._output.read_text()[self._read :], self._errors.read_text()
        self._folder.cleanup()
        return said


@pytest.mark.parametrize("mode", ["legacy", MODERN])
def test_the_sdk_s_client_lists_and_calls_over_stdio(alice: Person, evil: Evil, mode: str) -> None:
    offer(alice, "up", evil.url)
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], cwd=str(PROJECT), env=env_of(alice, GATEHOUSE_EGRESS_ALLOW=allow(evil))
    )

    async def talk() -> None:
        async with SdkClient(stdio_client(parameters), mode=mode) as client:
            assert "up__echo" in {tool.name for tool in (await client.list_tools()).tools}
            answer: Any = await client.call_tool("up__echo", {"text": "hello"})
            assert answer.content[0].text == "hello"
            found: Any = await client.call_tool("search", {"query": "echo"})
            assert found.structured_content["results"][0]["id"] == "up__echo"

    asyncio.run(talk())

    assert [(event.name, event.endpoint, event.status) for event in events()] == [
        ("up__echo", "stdio", "ok"),
        ("search", "stdio", "ok"),
    ]


@pytest.mark.parametrize("mode", ["legacy", MODERN])
def test_the_whole_protocol_goes_over_stdio_too(alice: Person, settings: Any, mode: str) -> None:
    port = free_port()
    url, allowed = f"http://127.0.0.1:{port}/mcp", f"127.0.0.1:{port}"
    settings.EGRESS_ALLOW = frozenset({allowed})
    person = Watcher()
    upstream = [sys.executable, "-m", "tests.fixtures.conformance", "--port", str(port), "--legacy"]
    with Process(upstream, ready=url):
        server = registry.register_server(alice.actor, name="Up", slug="up", url=url)
        registry.discover_server(alice.actor, server_id=server.id)
        registry.approve_server(alice.actor, server_id=server.id)
        parameters = StdioServerParameters(
            command=COMMAND[0], args=COMMAND[1:], cwd=str(PROJECT), env=env_of(alice, GATEHOUSE_EGRESS_ALLOW=allowed)
        )

        async def talk() -> None:
            async with SdkClient(stdio_client(parameters), mode=mode, elicitation_callback=person.elicit) as client:
                assert (await client.read_resource("test://static-text")).contents[0].text
                prompt = await client.get_prompt("up__test_simple_prompt")
                assert prompt.messages[0].content.text == "This is a simple prompt for testing."
                await client.call_tool("up__test_tool_with_progress", {}, progress_callback=person.progressed)
                assert person.progress == [(0, 100), (50, 100), (100, 100)]
                result: Any = await client.call_tool("up__test_elicitation", {"message": "Who are you?"})
                assert "action=accept" in result.content[0].text

        asyncio.run(talk())


def test_only_the_protocol_is_on_standard_output_and_closing_the_input_ends_it(alice: Person) -> None:
    pipe = Pipe(env_of(alice, GATEHOUSE_LOG_LEVEL="debug")).open()
    names = {tool["name"] for tool in pipe.ask(1, "tools/list", {})["result"]["tools"]}
    assert "platform_health" in names

    output, errors = pipe.close()

    assert pipe.process.returncode == 0
    assert output == ""
    assert "Traceback" not in errors


def test_who_closes_the_input_after_a_question_still_gets_its_answer(alice: Person) -> None:
    pipe = Pipe(env_of(alice))
    pipe.write({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO})

    output, _ = pipe.close()

    assert json.loads(output.splitlines()[0])["result"]["protocolVersion"] == LEGACY


def test_hostile_arguments_are_refused_here_too(alice: Person) -> None:
    pipe = Pipe(env_of(alice)).open()
    hostile = ({"query": float("nan")}, {"query": "a\0b"}, {"query": "\ud800"}, {"query": 2**70})
    for number, arguments in enumerate(hostile):
        params = {"name": "search", "arguments": arguments}
        pipe.write({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    pipe.write({"jsonrpc": "2.0", "id": "last", "method": "ping"})
    answers: dict[Any, dict[str, Any]] = {}
    while not {1, "last"} <= set(answers):
        answer = pipe.read()
        answers[answer["id"]] = answer

    output, _ = pipe.close()

    answers |= {answer["id"]: answer for answer in map(json.loads, output.splitlines())}
    # What the SDK cannot even parse gets no answer on this wire.
    assert all(answers[number]["error"]["code"] == -32602 for number in range(4) if number in answers)


def test_a_revoked_key_is_refused_within_a_second(alice: Person) -> None:
    made = auth.create_key(alice.actor, name="stdio")
    pipe = Pipe(environment(GATEHOUSE_KEY=made.plain)).open()
    try:
        assert "result" in pipe.ask(1, "tools/list", {})
        auth.revoke_key(alice.actor, key_id=made.key.id)
        time.sleep(1)
        assert pipe.ask(2, "tools/list", {})["error"]["data"]["code"] == "NOT_AUTHENTICATED"
        assert "error" in pipe.ask(3, "tools/call", {"name": "search", "arguments": {"query": ""}})
    finally:
        pipe.close()


def test_a_call_under_way_ends_when_its_key_is_revoked(alice: Person, evil: Evil) -> None:
    made = auth.create_key(alice.actor, name="stdio")
    offer(alice, "up", evil.url, tools=("hang",), timeout_seconds=300.0)
    pipe = Pipe(environment(GATEHOUSE_KEY=made.plain, GATEHOUSE_EGRESS_ALLOW=allow(evil))).open()
    try:
        params = {"name": "up__hang", "arguments": {}}
        pipe.write({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        assert eventually(lambda: evil.seen("calls").get("hang") == 1, PATIENCE_SECONDS)

        auth.revoke_key(alice.actor, key_id=made.key.id)

        assert pipe.read()["error"]["data"]["code"] == "NOT_AUTHENTICATED"
        assert eventually(lambda: evil.seen("cancelled").get("hang") == 1, PATIENCE_SECONDS)
    finally:
        pipe.close()


@pytest.mark.parametrize("how", ["closed input", signal.SIGTERM, signal.SIGINT])
def test_no_child_is_left_behind(alice: Person, how: Any) -> None:
    offer(alice, "kid", transport="stdio", command=evil_stdio_command(), tools=("echo", "ignore_sigterm"))
    pipe = Pipe(env_of(alice)).open()
    pipe.ask(9, "tools/call", {"name": "kid__ignore_sigterm", "arguments": {}})
    answer = pipe.ask(1, "tools/call", {"name": "kid__echo", "arguments": {"text": "hi"}})
    assert answer["result"]["content"][0]["text"] == "hi"
    children = psutil.Process(pipe.process.pid).children(recursive=True)
    assert children

    if how == "closed input":
        pipe.close()
    else:
        os.kill(pipe.process.pid, how)
        pipe.process.wait(PATIENCE_SECONDS)

    assert pipe.process.returncode == 0
    assert not [child for child in psutil.wait_procs(children, timeout=30)[1] if child.status() != "zombie"]


@pytest.mark.parametrize("key", ["", "gate_wrong"])
def test_without_a_working_key_it_says_what_to_do(db: None, key: str) -> None:
    ended = warm.run(COMMAND, cwd=PROJECT, env=environment(GATEHOUSE_KEY=key), timeout=PATIENCE_SECONDS)

    assert ended.returncode != 0
    assert ended.stdout == ""
    assert "GATEHOUSE_KEY" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_modern_revision_stamps_its_results(alice: Person) -> None:
    pipe = Pipe(env_of(alice))
    try:
        stamp = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        result = pipe.ask(1, "tools/list", {"_meta": stamp})["result"]
        assert result["resultType"] == "complete"
        assert result["cacheScope"] == "private"
    finally:
        pipe.close()


def test_who_has_much_under_way_is_still_heard(alice: Person) -> None:
    pipe = Pipe(env_of(alice)).open()
    stamp = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    try:
        listening = {"_meta": stamp, "notifications": {"toolsListChanged": True}}
        for number in range(100, 180):
            pipe.write({"jsonrpc": "2.0", "id": number, "method": "subscriptions/listen", "params": listening})
            assert pipe.read()["method"] == "notifications/subscriptions/acknowledged"

        assert "result" in pipe.ask(1, "tools/list", {})
    finally:
        pipe.close()


def test_an_id_that_is_under_way_is_not_used_twice_and_what_is_no_id_cancels_nothing(alice: Person) -> None:
    pipe = Pipe(env_of(alice)).open()
    stamp = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    listening = {"_meta": stamp, "notifications": {}}
    pipe.write({"jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen", "params": listening})
    pipe.read()
    try:
        for wrong in ([7], {"7": 7}, None):
            pipe.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": wrong}})

        assert "under way" in pipe.ask(7, "tools/list", {})["error"]["message"]
        assert "result" in pipe.ask(8, "tools/list", {})
    finally:
        pipe.close()
