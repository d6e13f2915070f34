"""What stands on the wire: headers that repeat the body, messages that are none, sessions, streams that break off."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.gateway.agent import BOTH, LEGACY, META, MODERN, Agent, add_tool, agent_of, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.live import Answer, Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

HEADER_MISMATCH, INVALID_REQUEST, UNSUPPORTED = -32020, -32600, -32022
REGION = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
ECHO = {"name": "up__echo", "arguments": {"text": "hi"}}


def encoded(text: str) -> str:
    """A header's value that cannot stand there as it is."""
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def mismatch(answer: Answer) -> str:
    """The message of a refusal because of headers that say something else than the body."""
    assert answer.status == 400, answer.text
    assert answer.json()["error"]["code"] == HEADER_MISMATCH
    message: str = answer.json()["error"]["message"]
    return message


NOTICED_SECONDS = 1.5
"""By then the platform has noticed that a client is gone, and would have given up what nobody may come back for."""


# C04, C05: headers that repeat the body ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Method": "tools/list"}, {"Mcp-Method": ""}, {"Mcp-Name": "up__add"}, {"Mcp-Name": ""},
        {"Mcp-Name": encoded("up__add")}, {"Mcp-Name": encoded("up__echo\r\nMcp-Name: up__add")},
        {"Mcp-Name": "=?base64?%%%?="}, {"Mcp-Name": "UP__ECHO"}, {"Mcp-Method": "TOOLS/CALL"},
    ],
)  # fmt: skip
def test_headers_that_say_something_else_than_the_body_are_refused(
    live: Live, alice: Person, evil: Evil, headers: dict[str, str]
) -> None:
    offer(alice, "up", evil.url, tools=("echo", "add"))
    agent = agent_of(live, alice, MODERN)
    assert agent.send("tools/call", ECHO).status == 200

    mismatch(agent.send("tools/call", ECHO, headers=headers))

    assert evil.seen("calls") == {"echo": 1}


@pytest.mark.parametrize("name", ["Mcp-Method", "Mcp-Name"])
def test_a_header_that_is_missing_or_comes_twice_is_refused(live: Live, alice: Person, evil: Evil, name: str) -> None:
    offer(alice, "up", evil.url)
    agent = agent_of(live, alice, MODERN)
    for lines in ([], ["tools/call" if name == "Mcp-Method" else "up__echo", "other"]):
        status, body = posted(live, agent, ECHO, {name: lines})
        assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)

    assert evil.seen("calls") == {}


def posted(live: Live, agent: Agent, params: dict[str, Any], changes: dict[str, list[str]]) -> tuple[int, Any]:
    """A call with these headers as often as they are given, written by hand."""
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "_meta": meta}}
    body = json.dumps(message).encode()
    given = agent._headers("tools/call", params)
    lines = [(name, value) for name, value in given.items() if name not in changes]
    lines += [(name, value) for name, values in changes.items() for value in values]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as wire:
        wire.sendall(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{head}\r\n"
            .encode() + body
        )  # fmt: skip
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    return int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "eu"}, {}), ({"region": "eu"}, {"Mcp-Param-Region": "us"}), ({}, {"Mcp-Param-Region": "eu"}),
        ({"region": "eu"}, {"Mcp-Param-Region": encoded("eu\r\nX-Evil: 1")}),
    ],
)  # fmt: skip
def test_a_header_that_repeats_an_argument_otherwise_is_refused(
    live: Live, alice: Person, evil: Evil, arguments: dict[str, str], headers: dict[str, str]
) -> None:
    definition = {"name": "leak", "inputSchema": REGION}
    server = offer(alice, "up", evil.url, tools=(), protocol_version=MODERN)
    add_tool(server, "leak", definition=definition, approved_definition=definition)
    refresh(alice)
    agent = agent_of(live, alice, MODERN)
    given = {"name": "up__leak", "arguments": {"region": "eu\r\nX"}}
    fitting = agent.send("tools/call", given, headers={"Mcp-Param-Region": encoded("eu\r\nX")})
    assert fitting.status == 200, fitting.text
    [sent] = [each for each in evil.seen("headers") if each.get(":tool") == "leak"]
    assert sent["mcp-param-region"] == encoded("eu\r\nX")

    mismatch(agent.send("tools/call", {"name": "up__leak", "arguments": arguments}, headers=headers))

    assert evil.seen("calls") == {"leak": 1}


def test_what_is_decided_is_decided_about_the_body(live: Live, alice: Person, victor: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", risk="low")
    add_tool(server, "add", risk="high")
    refresh(alice)

    for revision in BOTH:
        agent = agent_of(live, victor, revision).open()
        agent.headers = {"Mcp-Name": "up__echo", "Mcp-Method": "tools/list"}
        answer = agent.send("tools/call", {"name": "up__add", "arguments": {"a": 1, "b": 2}})
        if revision == MODERN:
            mismatch(answer)
        else:
            assert answer.json()["result"]["_meta"]["gatehouse/error"]["code"] == "NOT_PERMITTED"

    assert evil.seen("calls") == {}


def test_a_revision_in_the_header_is_that_of_the_body(live: Live, alice: Person) -> None:
    modern, legacy = agent_of(live, alice, MODERN), agent_of(live, alice).open()

    mismatch(modern.send("tools/list", {"_meta": {META + "protocolVersion": LEGACY}}))
    mismatch(legacy.send("tools/list", {"_meta": {META + "protocolVersion": MODERN}}))
    unknown = modern.send("tools/list", headers={"MCP-Protocol-Version": "2031-01-01"})
    assert unknown.status == 400
    both = {"_meta": {META + "protocolVersion": "2031-01-01"}}
    unknown = modern.send("tools/list", both, headers={"MCP-Protocol-Version": "2031-01-01"})
    assert (unknown.status, unknown.json()["error"]["code"]) == (400, UNSUPPORTED)
    unknown = legacy.send("tools/list", headers={"MCP-Protocol-Version": "2031-01-01"})
    assert (unknown.status, unknown.json()["error"]["code"]) == (400, UNSUPPORTED)
    assert set(unknown.json()["error"]["data"]["supported"]) >= {LEGACY, MODERN}


# C06: messages that are none --------------------------------------------------------------------------------------


def message(**parts: Any) -> bytes:
    """A message."""
    return json.dumps({"jsonrpc": "2.0", **parts}).encode()


BATCHES = [
    [{"jsonrpc": "2.0", "id": 1, "method": "ping"}], [],
    [{"jsonrpc": "2.0", "id": n, "method": "tools/list"} for n in (1, 2)],
]  # fmt: skip
NONE = [
    message(id=None, method="ping"), message(id={}, method="ping"), message(id=[1], method="ping"),
    message(id=True, method="ping"), message(id=1.5, method="ping"), message(id="", method="ping"),
    message(id="x" * 1000, method="ping"), message(id=1), message(id=1, method=5), message(id=1, method=""),
    message(id=1, method="ping", params=[1]), message(id=1, result={}, error={"code": 1, "message": "x"}),
    message(method="ping", result={}, id=None), b'{"id":1,"method":"ping"}', b'"ping"', b"5", b"null",
    *(json.dumps(batch).encode() for batch in BATCHES),
]  # fmt: skip


@pytest.mark.parametrize("revision", BOTH)
def test_what_is_no_message_is_refused(live: Live, alice: Person, revision: str) -> None:
    agent = agent_of(live, alice, revision).open()

    for body in NONE:
        answer = agent.post(body, "ping")
        assert (answer.status, answer.json()["error"]["code"]) == (400, INVALID_REQUEST), body
        assert answer.json()["id"] is None

    assert "platform_health" in agent.names()


def test_notifications_and_answers_are_taken_as_the_revision_says(live: Live, alice: Person) -> None:
    modern, legacy = agent_of(live, alice, MODERN), agent_of(live, alice).open()
    note, strange = message(method="notifications/initialized"), message(method="notifications/whatever")
    stray = message(id=99, result={"stray": True})

    for body in (note, strange, stray, message(id="x", error={"code": 1, "message": "no"})):
        answer = legacy.post(body)
        assert (answer.status, answer.body) == (202, b""), body
    assert [modern.post(body, "notifications/x").status for body in (note, strange)] == [202, 202]
    refused = modern.post(stray)
    assert (refused.status, refused.json()["error"]["code"]) == (400, INVALID_REQUEST)


def test_an_id_that_is_under_way_is_not_used_again_meanwhile(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("slow", "echo"), timeout_seconds=30.0)
    agent = agent_of(live, alice).open()
    body = message(id="same", method="tools/call", params={"name": "up__slow", "arguments": {"ms": 60_000}})
    with under_way(live, agent, body):
        eventually(lambda: evil.seen("calls") == {"slow": 1})

        answer = agent.post(message(id="same", method="tools/call", params=ECHO))

        assert (answer.status, answer.json()["error"]["code"]) == (400, INVALID_REQUEST)
        assert evil.seen("calls") == {"slow": 1}


@contextmanager
def under_way(live: Live, agent: Agent, body: bytes, method: str = "tools/call") -> Iterator[socket.socket]:
    """A POST whose answer nobody reads."""
    params = json.loads(body).get("params", {})
    head = "".join(f"{name}: {value}\r\n" for name, value in agent._headers(method, params).items())
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as wire:
        wire.sendall(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body
        )
        yield wire


def eventually(holds: Any, seconds: float = 30) -> float:
    """After how long it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


# C07: sessions and streams ----------------------------------------------------------------------------------------


def test_a_session_s_headers_mean_nothing_in_the_stateless_revision(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url)
    agent = agent_of(live, alice, MODERN)

    for headers in (
        {"Mcp-Session-Id": "x"},
        {"Last-Event-ID": "0-1"},
        {"Mcp-Session-Id": agent_of(live, alice).open().session},
    ):
        answer = agent.send("tools/call", ECHO, headers=headers)
        assert answer.status == 200
        assert "mcp-session-id" not in answer.headers
        assert answer.json()["result"]["content"][0]["text"] == "hi"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_without_a_session_there_is_no_stream_and_nothing_to_end(live: Live, alice: Person, method: str) -> None:
    client = live.with_key(live.key(alice))
    accept = {"Accept": "text/event-stream"}

    assert client.request(method, "/mcp", headers=accept).status == 400
    assert client.request(method, "/mcp", headers={**accept, "Mcp-Session-Id": "f" * 32}).status == 404


class Reader:
    """Reads the events of one answer as they come."""

    def __init__(self, wire: socket.socket) -> None:
        self.file = wire.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        while self.file.readline().strip():
            pass

    def next(self) -> tuple[str, dict[str, Any]]:
        """The next event that says something: its id and its message."""
        number = ""
        while True:
            line = self.file.readline()
            assert line, "the stream has ended"
            if line.startswith(b"id: "):
                number = line[4:].strip().decode()
            elif line.startswith(b"data: {"):
                return number, json.loads(line[6:])

    def rest(self) -> bytes:
        """All until the end."""
        return self.file.read()


@contextmanager
def listening(live: Live, agent: Agent, last_event_id: str = "") -> Iterator[Reader]:
    """A GET."""
    sent = agent._headers("", {}) | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as wire:
        wire.sendall(f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{head}\r\n".encode())
        yield Reader(wire)


def asking(evil: Evil, person: Person) -> None:
    """A server with a tool that asks whoever calls it."""
    offer(person, "up", evil.url, tools=("ask", "echo"), protocol_version=LEGACY, timeout_seconds=30.0)
    evil.put("tools", [{"name": name, "inputSchema": {"type": "object"}} for name in ("ask", "echo")])


def able(agent: Agent) -> Agent:
    """The agent with a session whose client can be asked."""
    hello = {
        "protocolVersion": LEGACY,
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "t", "version": "1"},
    }
    agent.session = agent.send("initialize", hello).headers["mcp-session-id"]
    return agent


@pytest.mark.parametrize("has_read", [True, False])
def test_a_stream_that_broke_off_is_read_on_and_every_event_comes_once(
    live: Live, alice: Person, evil: Evil, has_read: bool
) -> None:
    asking(evil, alice)
    agent = able(agent_of(live, alice))
    call = message(id="mine", method="tools/call", params={"name": "up__ask", "arguments": {"ids": ["q"]}})
    with under_way(live, agent, call) as wire:
        number, question = Reader(wire).next()
        assert question["method"] == "elicitation/create"
    time.sleep(NOTICED_SECONDS)
    assert evil.seen("cancelled") == {}

    after = number if has_read else f"{number.partition('-')[0]}-0"
    with listening(live, agent, after) as reader:
        if not has_read:
            assert reader.next() == (number, question)
        said = message(id=question["id"], result={"action": "accept", "content": {}})
        assert agent.post(said).status == 202
        last, answer = reader.next()
        assert (answer["id"], int(last.partition("-")[2])) == ("mine", int(number.partition("-")[2]) + 1)
        assert '"action": "accept"' in answer["result"]["content"][0]["text"]
        assert b"data: {" not in reader.rest()

    assert evil.seen("calls") == {"ask": 1}
    assert [(event.name, event.status) for event in events()] == [("up__ask", "ok")]


def test_a_stream_is_its_own_session_s_alone(live: Live, alice: Person, bob: Person, evil: Evil) -> None:
    asking(evil, alice)
    key = live.key(alice)
    agent, twin = able(Agent(live.url, key)), able(Agent(live.url, key))
    stranger = Agent(live.url, live.key(bob), session=agent.session)
    call = message(id="mine", method="tools/call", params={"name": "up__ask", "arguments": {"ids": ["q"]}})
    with under_way(live, agent, call) as wire:
        number, question = Reader(wire).next()
        begin = f"{number.partition('-')[0]}-0"

        with listening(live, stranger, begin) as reader:
            assert reader.status == 404
        with listening(live, twin, begin) as reader:
            assert reader.status == 200  # a stream of its own, on which nothing comes
            said = message(id=question["id"], result={"action": "decline"})
            assert [twin.post(said).status, stranger.post(said).status] == [202, 404]
            assert agent.post(message(id=question["id"], result={"action": "accept", "content": {}})).status == 202
            twin.close()
            assert b"data: {" not in reader.rest()

    assert [reply["result"]["action"] for reply in evil.seen("replies")] == ["accept"]


@pytest.mark.parametrize("last", ["zz-5", "0", "x" * 500, "0-99999999", "../0-1", "0-1, 0-2"])
def test_an_event_that_never_was_begins_a_stream_of_notices_or_nothing(live: Live, alice: Person, last: str) -> None:
    agent = able(agent_of(live, alice))
    with listening(live, agent, last) as reader:
        assert reader.status == 200
        agent.close()
        assert b"data: {" not in reader.rest()


# B10: nothing is kept for somebody else ---------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_no_answer_may_be_kept_for_somebody_else(
    live: Live, alice: Person, bob: Person, evil: Evil, revision: str
) -> None:
    offer(alice, "hers", evil.url)
    offer(bob, "his", evil.url)
    first, second = agent_of(live, alice, revision).open(), agent_of(live, bob, revision).open()

    answers = []
    for agent in (first, second, first):
        sent = {"If-None-Match": "*", "If-Modified-Since": "Fri, 20 Nov 2099 12:00:00 GMT"}
        answer = agent.send("tools/list", headers=sent)
        assert answer.status == 200
        assert not {"etag", "last-modified", "expires"} & set(answer.headers)
        assert "public" not in answer.headers.get("cache-control", "")
        answers.append({tool["name"] for tool in answer.json()["result"]["tools"] if "__" in tool["name"]})
        if revision == MODERN:
            assert answer.json()["result"]["cacheScope"] == "private"

    assert answers == [{"hers__echo"}, {"his__echo"}, {"hers__echo"}]


def test_kept_results_are_kept_for_their_organisation(live: Live, alice: Person, bob: Person, evil: Evil) -> None:
    for person in (alice, bob):
        add_tool(offer(person, person.organization.slug, evil.url, tools=()), "echo", risk="low", cache_seconds=60)
        refresh(person)

    for person in (alice, bob, alice, bob):
        assert agent_of(live, person).text(f"{person.organization.slug}__echo", text="same") == "same"

    assert evil.seen("calls") == {"echo": 2}
