"""Agents of organisation B see and call nothing of A's (B05, B18)."""

import asyncio
import re
from typing import Any

import pytest

from apps.auth import services as auth
from apps.core.ids import new_id
from apps.gateway import services as gateway
from apps.gateway.models import Bundle, BundleItem
from apps.registry.models import Capability, Server
from tests.house.tenants import CANARY, make_row
from tests.house.world import THEIR_TOOL, World, open_to_agents, wait_until
from tests.journeys.agents import call, connected, tool_names
from tests.people import make_person

UNKNOWN_TOOL = "nothing-a__tool"


def outcome(world: World, key: str, name: str, era: str = "2025-11-25", **arguments: Any) -> str:
    """How a call by this name ends, as text, without the name and the request's id."""
    try:
        text = str(call(world.live.mcp_url, key, name, arguments, era))
    except Exception as error:  # whatever the client makes of the refusal
        text = f"{error} {getattr(error, 'error', '')}"
    for word in (name, *map(str, arguments.values())):
        text = text.replace(word, "…")
    return re.sub(r"req_[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:.]+Z", "…", text)


@pytest.fixture(scope="module")
def keys(world):
    """A key of A's owner and one of B's."""
    return world.live.key(world.owner_of_a), world.live.key(world.owner_of_b)


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_the_tools_of_a_are_unknown_to_agents_of_b(world, keys, era):
    theirs, ours = (tool_names(world.live.mcp_url, key, era) for key in keys)

    assert THEIR_TOOL in theirs
    assert [name for name in ours if CANARY in name] == []
    unknown = outcome(world, keys[1], UNKNOWN_TOOL, era)
    for name in (THEIR_TOOL, THEIR_TOOL.upper(), f"{THEIR_TOOL} "):
        assert outcome(world, keys[1], name, era) == unknown
    assert CANARY not in unknown


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_a_list_of_b_says_nothing_of_what_fails_at_as(world, keys, era):
    theirs, ours = (whole_list(world.live.mcp_url, key, era) for key in keys)

    assert "gatehouse/unavailable" in theirs
    assert "shared__tool" in ours
    assert CANARY not in ours


def whole_list(url: str, key: str, era: str) -> str:
    """The answer to tools/list as text, with all that comes beside the tools."""

    async def ask() -> str:
        async with connected(url, key, era) as client:
            return str(await client.list_tools())

    return asyncio.run(ask())


def test_native_tools_show_an_agent_nothing_of_as(world, keys):
    def found(key: str) -> Any:
        return call(world.live.mcp_url, key, "search", {"query": "canary"})

    theirs, ours = found(keys[0]), found(keys[1])
    ids = re.findall(r'"id":\s*"([^"]+)"', theirs.content[0].text)

    assert CANARY in str(theirs)
    assert CANARY not in str(ours)
    assert ids
    for each in [*ids, *(str(row.pk) for row in world.theirs.values())]:
        assert CANARY not in outcome(world, keys[1], "fetch", id=each)
    assert any(CANARY in str(call(world.live.mcp_url, keys[0], "fetch", {"id": each})) for each in ids)


@pytest.mark.parametrize(("method", "parameters"), [
    ("resources/list", {}), ("resources/templates/list", {}), ("prompts/list", {}),
    ("resources/read", {"uri": "canary://tool"}), ("prompts/get", {"name": THEIR_TOOL}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": THEIR_TOOL}, "argument": {"name": "a"}}),
])  # fmt: skip
def test_other_methods_show_an_agent_nothing_of_as(world, keys, method, parameters):
    client = world.live.with_key(keys[1])
    accept = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
    opened = client.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}, headers=accept)
    session = {"Mcp-Session-Id": opened.headers.get("mcp-session-id", "")}

    answer = client.post(
        "/mcp", {"jsonrpc": "2.0", "id": 2, "method": method, "params": parameters}, headers={**accept, **session}
    )

    assert answer.status in (200, 400, 404)
    assert CANARY not in answer.text.replace(THEIR_TOOL, "")


def test_a_bundle_of_as_is_no_endpoint_for_agents_of_b(world, keys):
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    accept = {"Accept": "application/json, text/event-stream"}
    theirs = world.theirs[Bundle].slug

    def opened(key: str, slug: str) -> Any:
        return world.live.with_key(key).post(f"/mcp/{slug}", opening, headers=accept)

    assert opened(keys[0], theirs).status == 200
    refused, never = opened(keys[1], theirs), opened(keys[1], "never")
    assert (refused.status, never.status) == (404, 404)
    assert refused.json()["error"]["message"] == never.json()["error"]["message"]


def test_a_bundle_of_b_shows_nothing_that_rows_of_as_put_there(world, keys):
    bundle = make_row(Bundle, world.b)
    for owner, name in ((world.b, "desk__tool"), (world.a, "desk__other")):
        capability = make_row(Capability, world.b)
        open_to_agents(capability.server, capability, name)
        make_row(BundleItem, owner, bundle=bundle, capability=capability, description_override=f"{owner.slug} says")
    gateway.forget_snapshots()

    shown = whole_list(f"{world.live.mcp_url}/{bundle.slug}", keys[1], "2025-11-25")
    read = world.callers["owner"].get(f"/api/v1/mcp/bundles/{bundle.pk}").text

    assert "desk__tool" in shown and "desk__tool" in read
    assert CANARY not in shown + read


@pytest.fixture
def tool_of_initech(world):
    """A usable tool of a third organisation, the key of its owner, and its rows."""
    initech = make_person(f"peter-{new_id().hex[-6:]}", f"initech-{new_id().hex[-6:]}", "owner")
    server = make_row(Server, initech.organization, slug="printer")
    capability = make_row(Capability, initech.organization, server=server)
    open_to_agents(server, capability, "printer__print")
    return initech, world.live.key(initech), server, capability


@pytest.mark.parametrize(("model", "change"), [
    (Server, {"deleted_at": "2026-01-01T00:00:00Z"}), (Server, {"approved_at": None}), (Server, {"is_enabled": False}),
    (Capability, {"approved_digest": ""}), (Capability, {"is_enabled": False}),
    (Capability, {"removed_at": "2026-01-01T00:00:00Z"}),
], ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)))  # fmt: skip
def test_what_is_deleted_or_not_approved_cannot_be_called(world, tool_of_initech, model, change):
    initech, key, server, capability = tool_of_initech
    wait_until(lambda: "printer__print" in tool_names(world.live.mcp_url, key))

    model.objects.filter(pk=server.pk if model is Server else capability.pk).update(**change)
    auth.raise_revision(initech.organization.pk)

    wait_until(lambda: "printer__print" not in tool_names(world.live.mcp_url, key))
    assert outcome(world, key, "printer__print") == outcome(world, key, UNKNOWN_TOOL)


def test_a_deleted_server_is_not_found_and_not_listed(world, tool_of_initech):
    initech, _, server, _ = tool_of_initech
    client = world.live.rest(initech)
    assert client.delete(f"/api/v1/mcp/servers/{server.pk}").status == 204

    assert client.get(f"/api/v1/mcp/servers/{server.pk}").status == 404
    assert str(server.pk) not in client.get("/api/v1/mcp/servers").text
