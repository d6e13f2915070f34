"""Tools of servers are held to their schemas: arguments before they are sent, structured results before they pass."""

import json
from typing import Any

import pytest

from apps.registry.models import Risk
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, add_tool, agent_of, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

SEARCH = {
    "type": "object", "required": ["query"], "additionalProperties": False,
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
}  # fmt: skip
NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
BOMB = {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a", "type": "object"}


def defined(name: str, **schemas: Any) -> dict[str, Any]:
    """A tool's definition, as a row keeps it."""
    definition = {"name": name, "inputSchema": {"type": "object"}, **schemas}
    return {"definition": definition, "approved_definition": definition}


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "query"), ({"query": 5}, "query"), ({"query": None}, "query"), ({"query": "x", "surprise": 1}, "surprise"),
    ({"query": "x", "limit": "1"}, "limit"), ({"query": "x", "limit": True}, "limit"),
    ({"query": "x", "limit": 0}, "limit"),
)  # fmt: skip


@pytest.mark.parametrize("revision", BOTH)
def test_arguments_that_a_tool_does_not_take_are_refused_and_not_sent(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    add_tool(offer(alice, "up", evil.url, tools=()), "echo", **defined("echo", inputSchema=SEARCH))
    refresh(alice)
    agent = agent_of(live, alice, revision)

    for arguments, field in WRONG:
        error = agent.failure("up__echo", **arguments)
        assert (error["code"], list(error["details"]["fields"])) == ("INVALID_INPUT", [field]), arguments

    assert evil.seen("calls") == {}
    told = {(each.name, each.status, each.error_code) for each in events()}
    assert told == {("up__echo", "error", "INVALID_INPUT")}


UNREADABLE = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"[NaN]", b'"\\u0000"', b'"a\x00b"', b'"\\ud800"',
    b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b'{"\\u0000":1}', b'{"\\ud800":1}', b'{"a":1,"a":2}',
    b"9" * 5000, b"0x1", b"01", b"'x'", b"[1,]",
)  # fmt: skip


@pytest.mark.parametrize("revision", BOTH)
def test_values_that_json_or_a_database_does_not_have_are_refused_and_not_sent(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    offer(alice, "up", evil.url)
    agent = agent_of(live, alice, revision).open()
    params = {"name": "up__echo", "_meta": {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params if revision == MODERN else {**params}}
    if revision != MODERN:
        del call["params"]["_meta"]  # type: ignore[attr-defined]

    for value in UNREADABLE:
        for place in ('{"text": @}', '{"deep": {"er": [1, @]}}'):
            arguments = place.encode().replace(b"@", value)
            body = json.dumps(call).encode().replace(b'"up__echo"', b'"up__echo","arguments":' + arguments, 1)
            for path in ("/mcp", "/mcp/tools/call"):
                answer = agent.post(body, "tools/call", params, path=path)
                assert (answer.status, answer.json()["error"]["code"]) == (400, "MALFORMED"), value
                assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]

    assert evil.seen("calls") == {}
    assert agent.text("up__echo", text="hi") == "hi"


def test_arguments_that_a_tool_takes_are_sent_as_they_came(live: Live, alice: Person, evil: Evil) -> None:
    add_tool(offer(alice, "up", evil.url, tools=()), "whatever", **defined("whatever", inputSchema=SEARCH))
    evil.put("tools", [{"name": "whatever", "inputSchema": SEARCH}])
    refresh(alice)

    assert agent_of(live, alice).text("up__whatever", query="x", limit=3) == '{"query": "x", "limit": 3}'


@pytest.mark.parametrize("revision", BOTH)
def test_a_structured_result_that_breaks_the_promise_of_its_tool_is_not_passed_on(
    live: Live, alice: Person, evil: Evil, settings: Any, revision: str
) -> None:
    server = offer(alice, "up", evil.url, tools=("echo",))
    add_tool(
        server, "structured_bad", risk=Risk.LOW, cache_seconds=60, **defined("structured_bad", outputSchema=NUMBER)
    )
    refresh(alice)
    agent = agent_of(live, alice, revision)

    for _ in range(settings.BREAKER_FAILURES + 1):
        result = agent.call("up__structured_bad")
        error = result["_meta"]["gatehouse/error"]
        assert result["isError"] is True
        assert "structuredContent" not in result
        assert "many" not in str(result)
        assert error["code"] == "BACKEND_FAILED"
        assert "The server up answered wrongly: its structuredContent breaks the outputSchema" in error["message"]
        assert "at number: it must be integer" in error["message"]

    assert agent.text("up__echo", text="still there") == "still there"
    assert evil.seen("calls")["structured_bad"] == settings.BREAKER_FAILURES + 1


def test_a_structured_result_that_keeps_the_promise_is_passed_on(live: Live, alice: Person, evil: Evil) -> None:
    keeps = {"type": "object", "properties": {"number": {"type": "string"}}, "additionalProperties": False}
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "structured_bad", **defined("structured_bad", outputSchema=keeps))
    refresh(alice)

    assert agent_of(live, alice).call("up__structured_bad")["structuredContent"] == {"number": "many"}


def test_a_result_without_the_structured_content_that_was_promised_passes_as_it_does_directly(
    live: Live, alice: Person, evil: Evil
) -> None:
    server = offer(alice, "up", evil.url, tools=())
    promised = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
    add_tool(server, "echo", **defined("echo", outputSchema=promised))
    refresh(alice)
    agent = agent_of(live, alice)

    assert {tool["name"]: tool.get("outputSchema") for tool in agent.list()["tools"]}["up__echo"] == promised
    assert agent.text("up__echo", text="as it is") == "as it is"


@pytest.mark.parametrize("value", [[1, 2], "text", 5, False, None])
def test_structured_content_that_is_no_object_passes_where_the_revision_has_it(
    live: Live, alice: Person, evil: Evil, value: Any
) -> None:
    offer(alice, "new", evil.url, tools=("structured",), protocol_version=MODERN)
    offer(alice, "old", evil.url, tools=("structured",), protocol_version=LEGACY)
    modern, legacy = (agent_of(live, alice, revision) for revision in (MODERN, LEGACY))

    assert modern.call("new__structured", value=value)["structuredContent"] == value
    translated = legacy.call("new__structured", value=value)
    assert "structuredContent" not in translated
    assert translated["content"] == [{"type": "text", "text": json.dumps(value, separators=(",", ":"))}]
    refused = modern.call("old__structured", value=value)
    assert value is None or "its structuredContent is not an object" in refused["content"][0]["text"]


def test_structured_content_that_is_no_object_is_held_to_its_schema(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=(), protocol_version=MODERN)
    numbers = {"type": "array", "items": {"type": "integer"}}
    add_tool(server, "structured", **defined("structured", outputSchema=numbers))
    refresh(alice)
    agent = agent_of(live, alice, MODERN)

    assert agent.call("up__structured", value=[1, 2])["structuredContent"] == [1, 2]
    assert "at 1: it must be integer" in agent.failure("up__structured", value=[1, "2"])["message"]


def test_a_schema_of_which_no_checker_can_be_made_holds_nobody_up(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=())
    add_tool(server, "structured_bad", **defined("structured_bad", inputSchema=BOMB, outputSchema=BOMB))
    refresh(alice)

    assert agent_of(live, alice).call("up__structured_bad", x=1)["structuredContent"] == {"number": "many"}


def test_a_definition_that_was_approved_anew_is_the_one_that_counts(live: Live, alice: Person, evil: Evil) -> None:
    from tests.gateway.agent import change

    row = add_tool(offer(alice, "up", evil.url, tools=()), "echo", **defined("echo", inputSchema=SEARCH))
    refresh(alice)
    agent = agent_of(live, alice)
    assert agent.failure("up__echo", text="x")["code"] == "INVALID_INPUT"

    change(row, **defined("echo"))

    assert agent.text("up__echo", text="x") == "x"


def test_an_argument_that_takes_long_to_check_is_checked_all_the_same(live: Live, alice: Person, evil: Evil) -> None:
    schema = {"type": "object", "properties": {"all": {"type": "array", "items": {"type": "integer"}}}}
    add_tool(offer(alice, "up", evil.url, tools=()), "echo", **defined("echo", inputSchema=schema))
    refresh(alice)
    agent = agent_of(live, alice)

    assert agent.text("up__echo", all=[1] * 40_000, text="x") == "x"
    assert list(agent.failure("up__echo", all=[*[1] * 40_000, "x"])["details"]["fields"]) == ["all.40000"]
