"""The addresses of single methods, where the prompt server's messages are answered without a session."""

import json
from typing import Any

import pytest

from tests.gateway.agent import offer
from tests.gateway.conftest import Evil, events
from tests.live import Answer, Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)


def ask(live: Live, key: str, method: str, params: dict[str, Any] | None = None, *, at: str = "") -> Answer:
    """One JSON-RPC message at an address."""
    body = {"jsonrpc": "2.0", "id": "123", "method": method, "params": params or {}}
    return live.with_key(key).post(f"/mcp/{at or method}", body)


def test_each_method_answers_at_its_own_address(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url)
    key = live.key(alice)

    tools = ask(live, key, "tools/list").json()
    called = ask(live, key, "tools/call", {"name": "up__echo", "arguments": {"text": "hi"}}).json()

    assert "up__echo" in {tool["name"] for tool in tools["result"]["tools"]}
    assert called == {"jsonrpc": "2.0", "id": "123", "result": {"content": [{"type": "text", "text": "hi"}]}}
    assert ask(live, key, "prompts/list").json() == {"jsonrpc": "2.0", "id": "123", "result": {"prompts": []}}
    error = ask(live, key, "prompts/get", {"name": "none"}).json()["error"]
    assert (error["code"], error["data"]["code"]) == (-32602, "NOT_FOUND")


def test_an_address_answers_its_own_method_alone_and_posts_alone(live: Live, alice: Person) -> None:
    key = live.key(alice)

    wrong = ask(live, key, "tools/call", at="tools/list")
    assert (wrong.status, wrong.json()["id"]) == (400, "123")
    assert ask(live, key, "resources/list").status == 404
    assert live.with_key(key).get("/mcp/tools/list").status == 405
    assert ask(live, "gate_nonsense", "tools/list").status == 401


def test_what_these_addresses_do_is_counted_and_decided_like_any_call(
    live: Live, alice: Person, victor: Person, evil: Evil
) -> None:
    offer(alice, "up", evil.url)

    refused = ask(live, live.key(victor), "tools/call", {"name": "up__echo", "arguments": {}}).json()["result"]

    assert refused["_meta"]["gatehouse/error"]["code"] == "NOT_PERMITTED"
    assert json.dumps(refused)
    assert [(event.status, event.endpoint) for event in events()] == [("denied", "/mcp")]
