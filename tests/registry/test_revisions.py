"""Every dated revision of the protocol, over HTTP and stdio, against a server that speaks that one and no other."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from apps.core.errors import BackendError
from apps.registry.backends.base import ServerRoute, Upstream, UpstreamError
from tests.fixtures import servers
from tests.fixtures.revisions import REVISIONS, URI
from tests.registry.conftest import make_route
from tests.registry.test_listeners import CAN, Ear, call, opened, text_of

pytestmark = pytest.mark.slow_process
WAYS = [(revision, way) for revision in REVISIONS for way in ("streamable_http", "stdio")]
CAN_ASK = REVISIONS[2:]
WAYS_TO_ASK = [way for way in WAYS if way[0] in CAN_ASK]
WAYS_TO_ASK_BY_RESULT = [way for way in WAYS if way[0] == REVISIONS[-1]]
WANTED = {"notifications": {"toolsListChanged": True, "resourceSubscriptions": [URI]}}
TOOLS_CHANGED, UPDATED = "notifications/tools/list_changed", "notifications/resources/updated"


@pytest.fixture(scope="module")
def ports() -> Iterator[Mapping[str, int]]:
    """A server of each revision over HTTP."""
    with servers.revisions_http(REVISIONS) as found:
        yield found


@pytest.fixture(params=WAYS, ids="-over-".join)
def route(request: Any, ports: Mapping[str, int], settings: Any) -> ServerRoute:
    """The way to a server of one revision; it is not known yet which one that is."""
    revision, way = request.param
    if way == "stdio":
        started = servers.revisions_stdio_command(revision)
        settings.STDIO_ALLOW = (" ".join(started),)
        return make_route(transport="stdio", command=tuple(started), timeout_seconds=20.0, environment=revision)
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{ports[revision]}"})
    return make_route(url=f"http://127.0.0.1:{ports[revision]}/mcp", timeout_seconds=20.0, environment=revision)


def test_all_that_a_revision_has_arrives(route: ServerRoute) -> None:
    revision = route.environment  # the fixture says there what it is

    async def work(upstream: Upstream) -> None:
        assert upstream.protocol_version == revision
        ear = Ear()

        told = await call(upstream, "count", ear, meta={"progressToken": 7}, to=3)
        assert text_of(told) == "3"
        assert [(each["progressToken"], each["progress"]) for each in ear.of("notifications/progress")] == [
            (7, 1), (7, 2), (7, 3),
        ]  # fmt: skip

        added = await call(upstream, "add", ear, a=2, b=3)
        assert (text_of(added), added.get("structuredContent")) == ("5", {"sum": 5} if revision in CAN_ASK else None)
        assert (await call(upstream, "fail", ear))["isError"] is True
        with pytest.raises(UpstreamError):
            await call(upstream, "nothing", ear)

        read = await upstream.request("resources/read", {"uri": URI}, timeout_seconds=20)
        greeting = {"name": "greet", "arguments": {"name": "Bob"}}
        prompt = await upstream.request("prompts/get", greeting, timeout_seconds=20)
        about = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "al"}}
        completed = await upstream.request("completion/complete", about, timeout_seconds=20)
        assert read["contents"][0]["text"] == "Hello."
        assert prompt["messages"][0]["content"]["text"] == "Greet Bob."
        assert completed["completion"]["values"] == ["alice", "alan"]

    opened(route, work)


def test_whoever_can_be_asked_is_asked_as_the_revision_does(route: ServerRoute) -> None:
    async def fill_in(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"action": "accept", "content": {"name": "Alice"}}

    async def work(upstream: Upstream) -> str:
        ear = Ear(fill_in)
        asked = await call(upstream, "ask", ear, can=CAN, message="Who?")
        if asked.get("resultType") != "input_required":
            assert [params["message"] for _, params in ear.questions] == ["Who?"]
            return text_of(asked)
        question = asked["inputRequests"]["name"]
        assert (question["method"], question["params"]["message"], ear.questions) == ("elicitation/create", "Who?", [])
        answered = {
            "name": "ask", "arguments": {"message": "Who?"}, "requestState": asked["requestState"],
            "inputResponses": {"name": await fill_in("", {})},
        }  # fmt: skip
        return text_of(await upstream.request("tools/call", answered, timeout_seconds=20, listener=ear))

    if route.environment in CAN_ASK:
        assert opened(route, work, capabilities=CAN) == "accept: Alice"
    else:
        with pytest.raises(UpstreamError, match="Unknown tool"):
            opened(route, work, capabilities=CAN)


@pytest.mark.parametrize("route", WAYS_TO_ASK, ids="-over-".join, indirect=True)
def test_nobody_is_asked_who_has_not_declared_that_they_can_be(route: ServerRoute) -> None:
    async def work(upstream: Upstream) -> None:
        ear = Ear()
        try:
            assert (await call(upstream, "ask", ear))["isError"]
        except UpstreamError as error:
            assert error.rpc_code == -32021
        assert ear.questions == []

    opened(route, work)


@pytest.mark.parametrize("route", WAYS_TO_ASK_BY_RESULT, ids="-over-".join, indirect=True)
def test_a_result_that_asks_is_given_to_nobody_who_does_not_listen(route: ServerRoute) -> None:
    async def work(upstream: Upstream) -> None:
        asked = {"name": "ask", "arguments": {"message": "Who?"}}
        with pytest.raises(BackendError, match="nobody to ask"):
            await upstream.request("tools/call", asked, timeout_seconds=20, capabilities=CAN)

    opened(route, work)


async def hear_of(upstream: Upstream, ear: Ear, what: str, method: str) -> None:
    """Change something until it is heard: whoever has just begun to listen may not do so yet.

    Whoever makes the call that changes something does not hear of it by that.
    """
    before, caller = len(ear.of(method)), Ear()
    async with asyncio.timeout(60):
        while len(ear.of(method)) == before:
            await call(upstream, "touch", caller, what=what)
            await asyncio.sleep(0.05)
    assert caller.heard == []


def test_what_changes_is_heard_by_whoever_listens(route: ServerRoute) -> None:
    async def work(upstream: Upstream) -> None:
        ear = Ear()
        listening = asyncio.create_task(upstream.listen(WANTED, ear))
        if upstream.protocol_version < REVISIONS[-1]:
            await upstream.request("resources/subscribe", {"uri": URI}, timeout_seconds=20)

        await hear_of(upstream, ear, "tools", TOOLS_CHANGED)
        await hear_of(upstream, ear, "resource", UPDATED)

        assert (ear.of(TOOLS_CHANGED)[0], ear.of(UPDATED)[0]) == ({}, {"uri": URI})
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening

        again = asyncio.create_task(upstream.listen(WANTED, ear))
        await hear_of(upstream, ear, "tools", TOOLS_CHANGED)
        await upstream.aclose()
        async with asyncio.timeout(10):
            await again  # ends with the upstream

    opened(route, work)


@pytest.mark.parametrize("revision", ["2025-06-18", "2026-07-28"])
def test_listening_survives_a_restart_of_the_server(revision: str, settings: Any) -> None:
    port = servers.free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    server = servers.revision_http(revision, port)
    route = make_route(url=f"http://127.0.0.1:{port}/mcp", protocol_version=revision, timeout_seconds=20.0)

    async def work(upstream: Upstream) -> None:
        ear = Ear()
        listening = asyncio.create_task(upstream.listen(WANTED, ear))
        if revision != REVISIONS[-1]:
            await upstream.request("resources/subscribe", {"uri": URI}, timeout_seconds=20)
        await hear_of(upstream, ear, "resource", UPDATED)

        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)

        await hear_of(upstream, ear, "resource", UPDATED)  # nobody subscribed again
        assert not listening.done()

    try:
        server.start()
        opened(route, work)
    finally:
        server.stop()
