"""Definitions that are written to do harm: headers nobody can send, references elsewhere, what never ends."""

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from django.db import connection

from apps.core.errors import BackendError
from apps.registry import services as registry
from apps.registry.models import Capability
from apps.registry.services import discovery, reading
from apps.registry.services.definitions import warnings_of
from tests.core.test_json_schema import chain, doubling
from tests.fixtures.servers import free_port, sink
from tests.gateway.agent import BOTH, agent_of, refresh
from tests.gateway.conftest import Evil
from tests.live import Live
from tests.people import Person
from tests.registry.conftest import make_route, run
from tests.registry.test_http_client import Scripted, http

pytestmark = pytest.mark.django_db(transaction=True)
BUDGET_SECONDS = 1.0
"""Of the processor, for all that one definition is put through; whatever the machine does beside."""


def tool(name: str, **more: Any) -> dict[str, Any]:
    """A definition."""
    return {"name": name, "description": "Does it.", "inputSchema": {"type": "object"}, **more}


def taking(name: str, **properties: Any) -> dict[str, Any]:
    """A tool with these arguments."""
    return tool(name, inputSchema={"type": "object", "properties": properties})


def offered(person: Person, evil: Evil, *tools: Any) -> dict[str, str]:
    """Let the server offer this, discover and approve it; why each tool is not taken that is not."""
    evil.put("tools", list(tools))
    server = registry.register_server(person.actor, name="Up", slug="up", url=evil.url)
    found = registry.discover_server(person.actor, server_id=server.id)
    registry.approve_server(person.actor, server_id=server.id)
    refresh(person)
    return {each["name"].strip("'"): each["reason"] for each in found["rejected"]}


def told_to_staff(live: Live, person: Person) -> str:
    """What the record of the last discovery says over REST."""
    rest = live.rest(person)
    [server] = rest.get("/api/v1/mcp/servers").json()["items"]
    return rest.get(f"/api/v1/mcp/servers/{server['id']}/discoveries").text


# C14: headers that arguments are to be repeated in ------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_a_tool_with_a_header_that_cannot_be_sent_is_left_out_and_the_others_stay(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    text = {"type": "string"}
    wrong = {
        "line-end": taking("line-end", a={**text, "x-mcp-header": "A\r\nX-Evil: 1"}),
        "twice": taking("twice", a={**text, "x-mcp-header": "Region"}, b={**text, "x-mcp-header": "region"}),
        "number": taking("number", a={"type": "number", "x-mcp-header": "A"}),
        "object": taking("object", a={"type": "object", "x-mcp-header": "A"}),
        "items": taking("items", a={"type": "array", "items": {**text, "x-mcp-header": "A"}}),
        "either": taking("either", a={"anyOf": [{**text, "x-mcp-header": "A"}]}),
        "defined": tool("defined", inputSchema={"type": "object", "$defs": {"a": {**text, "x-mcp-header": "A"}}}),
        "colon": taking("colon", a={**text, "x-mcp-header": "A: b"}),
        "letters": taking("letters", a={**text, "x-mcp-header": "R\u00e9gion"}),
        "root": tool("root", inputSchema={"type": "object", "x-mcp-header": "A"}),
    }
    right = [taking("right", a={**text, "x-mcp-header": "Region"}), tool("echo")]

    refused = offered(alice, evil, right[0], *wrong.values(), right[1])

    assert refused.keys() == wrong.keys()
    assert all("x-mcp-header" in reason for reason in refused.values())
    assert "X-Evil" in told_to_staff(live, alice) and "\\r\\n" not in told_to_staff(live, alice).replace("\\\\", "")
    agent = agent_of(live, alice, revision)
    assert {name for name in agent.names() if name.startswith("up__")} == {"up__right", "up__echo"}
    for name in wrong:
        assert agent.ask("tools/call", {"name": f"up__{name}", "arguments": {}})["error"]["code"] == -32602
    assert agent.text("up__echo", text="hi") == "hi"
    assert evil.seen("calls") == {"echo": 1}


# C15: references elsewhere ------------------------------------------------------------------------------------------


@pytest.fixture
def inside() -> Iterator[Any]:
    """A server that nobody may ask; called, it tells who came."""
    port = free_port()

    def came() -> Any:
        with urlopen(f"http://127.0.0.1:{port}/_hits", timeout=60) as answer:
            return json.loads(answer.read())

    came.host = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
    with sink(port):
        yield came


def test_no_reference_of_a_schema_is_followed(
    live: Live, alice: Person, evil: Evil, inside: Any, settings: Any
) -> None:
    settings.EGRESS_ALLOW = frozenset({*settings.EGRESS_ALLOW, inside.host})  # not even where it could be reached
    places = [
        f"http://{inside.host}/schema.json", f"//{inside.host}/s", f"HTTP://{inside.host}/s#/a", "file:///etc/passwd",
        f"ftp://{inside.host}/s", "schema.json", "/etc/passwd", "",
    ]  # fmt: skip
    remote, number = {}, 0
    for place in places:
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            for part in ("inputSchema", "outputSchema"):
                number += 1
                schema = {"type": "object", "properties": {"a": {"allOf": [{key: place}]}}}
                remote[f"remote{number}"] = tool(f"remote{number}", **{part: schema})
    odd = [
        tool("dialect", inputSchema={"type": "object", "$schema": f"http://{inside.host}/mine"}),
        tool("based", inputSchema={"type": "object", "$id": f"http://{inside.host}/", "$ref": "#/$defs/a",
                                   "$defs": {"a": {"type": "object"}}}),
        tool("inner", outputSchema={"type": "object", "properties": {"a": {"$id": f"http://{inside.host}/x"}}}),
        taking("named", **{"$ref": {"type": "string"}}),
    ]  # fmt: skip

    refused = offered(alice, evil, *remote.values(), *odd)

    assert refused.keys() == remote.keys()
    assert all("outside itself" in reason for reason in refused.values())
    agent = agent_of(live, alice)
    assert {name for name in agent.names() if name.startswith("up__")} == {f"up__{each['name']}" for each in odd}
    for each in odd:
        agent.call(f"up__{each['name']}", **{"$ref": "http://x/"})
    assert evil.seen("calls") == {each["name"]: 1 for each in odd}
    assert inside() == {"connections": 0, "hits": []}


# C16: what takes for ever to read -----------------------------------------------------------------------------------


def deep(levels: int) -> dict[str, Any]:
    """A schema nested so deep."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


BOMBS: dict[str, tuple[dict[str, Any], Any]] = {
    "doubling": ({"properties": {"a": doubling(30) | {"$ref": "#/properties/a/$defs/l0"}}}, "x"),
    "chain": ({**chain(3000), "properties": {}}, "x"),
    "itself": ({"$ref": "#"}, "x"),
    "itself, by turns": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "x"),
    "deep": (deep(400), "x"),
    "large": ({"properties": {"a": {"description": "x" * 9_000_000}}}, "x"),
    "wide": ({"properties": {f"p{number}": {} for number in range(30_000)}}, "x"),
    "backtracking": ({"properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}, "a" * 100_000 + "b"),
    "costly patterns": ({"allOf": [{"pattern": f"\\w{{1,{number}}}"} for number in range(150, 190)]}, "x"),
    "unique": ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, [[n] for n in range(20_000)]),
    "one of": ({"properties": {"a": {"enum": [[n] for n in range(5000)]}}}, list(range(5000))),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_schema_that_explodes_costs_no_more_than_a_second_from_discovery_to_call(
    live: Live, alice: Person, evil: Evil, bomb: str
) -> None:
    schema, argument = BOMBS[bomb]
    began = time.process_time()
    refused = offered(alice, evil, tool("bomb", inputSchema={**schema, "type": "object"}), tool("echo"))
    took = [time.process_time() - began]
    agent = agent_of(live, alice).open()

    began = time.process_time()
    called = agent.ask("tools/call", {"name": "up__bomb", "arguments": {"a": argument}})
    took.append(time.process_time() - began)

    assert max(took) < BUDGET_SECONDS
    assert agent.text("up__echo", text="still there") == "still there"
    if "bomb" in refused:
        assert called["error"]["code"] == -32602
    else:
        warned = {each["code"] for each in Capability.objects.get(name="bomb").warnings}
        is_refused = called["result"].get("_meta", {}).get("gatehouse/error", {}).get("code") == "INVALID_INPUT"
        assert "not_enforced" in warned or is_refused or bomb == "unique"


def test_many_schemas_that_explode_keep_nobody_waiting_and_are_tried_for_a_while_alone(
    live: Live, alice: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "SCHEMAS_SECONDS", BUDGET_SECONDS)
    locked = []

    def judged(definition: Any, **options: Any) -> Any:
        locked.append(connection.in_atomic_block)
        return warnings_of(definition, **options)

    monkeypatch.setattr(discovery, "warnings_of", judged)
    names = [f"t{number}" for number in range(30)]
    patterns = [{f"p{n}": {"pattern": f"\\w{{1,{100 + n}}}{name}"} for n in range(8)} for name in names]
    began = time.process_time()

    refused = offered(alice, evil, *(taking(name, **each) for name, each in zip(names, patterns, strict=True)))

    assert time.process_time() - began < 4 * BUDGET_SECONDS
    assert refused == {} and locked == [False] * len(names)
    told = [warning["code"] for row in Capability.objects.all() for warning in row.warnings]
    assert 0 < len(told) < len(names) and set(told) == {"not_tried"}
    assert agent_of(live, alice).text(f"up__{names[-1]}") == "{}"


@pytest.mark.parametrize("nested", [0, 300])
def test_a_list_is_not_held_beyond_its_limit_however_many_pages_it_has(settings: Any, nested: int) -> None:
    depth = b'{"a":' * nested + b"1" + b"}" * nested
    page = b'{"jsonrpc":"2.0","id":%d,"result":{"tools":[{"name":"a","x":%b,"description":"%b"}],"nextCursor":"%d"}}'
    hello = b'{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}}'
    pages = [page % (number, depth, b"x" * 6_000_000, number) for number in range(2, 30)]
    server = Scripted(http(hello), *map(http, pages))

    async def read() -> None:
        async with server as url:
            settings.EGRESS_ALLOW = frozenset({url.removeprefix("http://").removesuffix("/mcp")})
            await reading.read_all(make_route(url=url, timeout_seconds=60.0))

    with pytest.raises(BackendError, match="is too long"):
        run(read)

    assert len(server.requests) <= 4


@pytest.mark.parametrize(
    "text",
    ["<" + " " * 20_000, "< " * 100_000, "ignore" + " " * 20_000, "do not tell " * 15_000, "ignore all the " * 10_000,
     "do not" + " reveal" * 25_000, "<" * 200_000, "without telling " * 10_000, "\u200b" * 60_000],
    ids=lambda text: text[:10],
)  # fmt: skip
def test_a_text_that_explodes_is_judged_in_time(text: str) -> None:
    began = time.process_time()
    warnings_of(tool("bomb", description=text))

    assert time.process_time() - began < BUDGET_SECONDS
