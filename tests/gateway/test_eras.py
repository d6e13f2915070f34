"""What is only in some revisions, and what no header may say: for each revision, at each address."""

import json
from typing import Any

import pytest

from apps.gateway import services as gateway
from apps.gateway.schemas import BundleItemIn
from config.mcp_messages import LEGACY as OLDER
from tests.gateway.agent import META, MODERN, Agent, add_tool, agent_of, offer, refresh
from tests.gateway.conftest import Evil
from tests.gateway.test_wire import (
    ECHO,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    REGION,
    encoded,
    listening,
    message,
    mismatch,
    posted,
)
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
VERSION = "MCP-Protocol-Version"


# C04: headers that repeat the body ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mcp", "/mcp/desk"])
@pytest.mark.parametrize(
    "named",
    [
        ("tools/call", {"name": "up__echo", "arguments": {"text": "hi"}}, "up__add"),
        ("prompts/get", {"name": "up__greet"}, "up__other"),
        ("resources/read", {"uri": "test://note"}, "test://other"),
    ],
)
def test_whatever_has_a_name_is_held_to_its_header_at_every_endpoint(
    live: Live, alice: Person, evil: Evil, path: str, named: tuple[str, dict[str, Any], str]
) -> None:
    method, params, other = named
    server = offer(alice, "up", evil.url, tools=("echo", "add"), protocol_version=MODERN)
    gateway.create_bundle(alice.actor, name="Desk", slug="desk", items=[BundleItemIn(server_id=server.id)])
    refresh(alice)
    agent = agent_of(live, alice, MODERN)
    agent.path = path
    right = params.get("name") or params["uri"]
    wrong = [{"Mcp-Name": said} for said in (other, encoded(other), encoded(f"{right}\r\nX: y"), f"{right}x", "")]

    for headers in (*wrong, {"Mcp-Name": right, "Mcp-Method": "ping"}, {"Mcp-Name": right, "Mcp-Method": "tools/list"}):
        answer = agent.send(method, params, headers=headers)
        mismatch(answer)
        assert answer.headers["x-request-id"] and "Traceback" not in answer.text
    if method != "tools/call":
        mismatch(agent.send(method, params))  # without that header

    assert [each for each in evil.seen("headers") if each[":rpc"] == method] == []


@pytest.mark.parametrize("values", [["us", "eu"], ["eu", "us"], ["eu", "eu"]])
def test_a_header_that_repeats_an_argument_twice_is_refused(
    live: Live, alice: Person, evil: Evil, values: list[str]
) -> None:
    definition = {"name": "leak", "inputSchema": REGION}
    server = offer(alice, "up", evil.url, tools=(), protocol_version=MODERN)
    add_tool(server, "leak", definition=definition, approved_definition=definition)
    refresh(alice)
    agent = agent_of(live, alice, MODERN)
    call = {"name": "up__leak", "arguments": {"region": "eu"}}
    assert posted(live, agent, call, {"Mcp-Param-Region": ["eu"]})[0] == 200

    status, body = posted(live, agent, call, {"Mcp-Param-Region": values})

    assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH)
    assert evil.seen("calls") == {"leak": 1}


def test_what_is_decided_at_the_address_of_one_method_is_decided_about_the_body(
    live: Live, alice: Person, victor: Person, evil: Evil
) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "echo", risk="low")
    add_tool(server, "add", risk="high")
    refresh(alice)
    body = message(id=1, method="tools/call", params={"name": "up__add", "arguments": {"a": 1, "b": 2}})
    headers = {"Mcp-Name": "up__echo", "Mcp-Method": "tools/list"}

    answer = agent_of(live, victor).post(body, path="/mcp/tools/call", headers=headers)

    assert answer.json()["result"]["_meta"]["gatehouse/error"]["code"] == "NOT_PERMITTED"
    assert evil.seen("calls") == {}


# C05: the revision --------------------------------------------------------------------------------------------------


def test_a_revision_that_only_one_of_header_and_body_names_is_refused(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url)
    agent = agent_of(live, alice, MODERN)
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}

    for lines in ([], [OLDER[-1]], [MODERN, OLDER[-1]], [OLDER[-1], MODERN], [MODERN, MODERN], [f" {MODERN}x"], [""]):
        status, body = posted(live, agent, ECHO, {VERSION: lines})
        assert (status, body["error"]["code"]) == (400, HEADER_MISMATCH), lines
    for said in (None, OLDER[-1], 20260728, [MODERN], ""):
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        call["params"] = {**ECHO, "_meta": {**meta, META + "protocolVersion": said}}
        mismatch(agent.post(json.dumps(call).encode(), "tools/call", ECHO))
    for lacking in ({}, {"_meta": {}}, {"_meta": {META + "clientCapabilities": {}}}, {"_meta": None}):
        body = message(id=1, method="tools/call", params={**ECHO, **lacking})
        answer = agent.post(body, "tools/call", ECHO)
        assert (answer.status, answer.json()["error"]["code"]) == (400, -32602), lacking

    assert evil.seen("calls") == {}


# C06: messages that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", OLDER)
def test_batches_are_refused_and_answers_and_notices_taken_in_every_older_revision(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    offer(alice, "up", evil.url)
    agent = Agent(live.url, live.key(alice), revision).open()
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ECHO}
    hello = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}

    for batch in ([call], [call, {**call, "id": 2}], [note, note], [note, call], [], [[call]]):
        for path in ("/mcp", "/mcp/tools/call"):
            refused = agent.post(json.dumps(batch).encode(), path=path)
            assert (refused.status, refused.json()["error"]["code"]) == (400, INVALID_REQUEST), batch
            assert "batch" in refused.json()["error"]["message"]
    opening = Agent(live.url, agent.key, revision)
    batch = json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}])
    assert opening.post(batch.encode()).status == 400
    for taken in (note, {"jsonrpc": "2.0", "id": 7, "result": {}}, {"jsonrpc": "2.0", "id": 7, "error": {"code": 1}}):
        answer = agent.post(json.dumps(taken).encode())
        assert (answer.status, answer.body) == (202, b"")

    assert evil.seen("calls") == {}
    assert agent.text("up__echo", text="hi") == "hi"


# C07: sessions and streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", OLDER)
def test_a_session_of_every_older_revision_has_a_stream_until_it_is_ended(
    live: Live, alice: Person, revision: str
) -> None:
    agent = Agent(live.url, live.key(alice), revision).open()

    with listening(live, agent) as reader:
        assert reader.status == 200
        assert agent.close().status == 200
        assert [agent.send("tools/list").status, agent.close().status] == [404, 404]
        assert b"data: {" not in reader.rest()

    with listening(live, agent) as reader:
        assert reader.status == 404


@pytest.mark.parametrize("path", ["/mcp", "/mcp/desk"])
def test_the_stateless_revision_has_neither_streams_nor_sessions_whatever_is_claimed(
    live: Live, alice: Person, evil: Evil, path: str
) -> None:
    server = offer(alice, "up", evil.url)
    gateway.create_bundle(alice.actor, name="Desk", slug="desk", items=[BundleItemIn(server_id=server.id)])
    refresh(alice)
    key = live.key(alice)
    older = Agent(live.url, key, path=path).open()
    claims: list[dict[str, str]] = [{}, {"Mcp-Session-Id": older.session}, {"Last-Event-ID": "0-1"}]

    for claim in claims:
        for method in ("GET", "DELETE"):
            headers = {VERSION: MODERN, "Accept": "text/event-stream", **claim}
            answer = live.with_key(key).request(method, path, headers=headers)
            assert (answer.status, answer.headers["allow"]) == (405, "POST"), claim

    assert older.ask("ping")["result"] == {}


@pytest.mark.parametrize("revision", [OLDER[-1], MODERN])
def test_a_completion_that_does_not_say_of_what_is_told_so(live: Live, alice: Person, revision: str) -> None:
    agent, prompt = agent_of(live, alice, revision), {"type": "ref/prompt", "name": "up__greet"}
    value, no_name, wrong = {"name": "who", "value": "A"}, {"type": "ref/prompt"}, {"type": "ref/resource", "uri": 5}

    for ref, argument in ((no_name, value), (wrong, value), (prompt, {"name": "who"}), (prompt, {"value": "A"})):
        error = agent.ask("completion/complete", {"ref": ref, "argument": argument})["error"]
        assert (error["code"], error["data"]["code"]) == (-32602, "MALFORMED"), error
