"""What the gateway holds open to servers: who shares what, how much at once, and what ends when."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from apps.core.errors import BackendDown, BackendError, BackendTimeout, RateLimited
from apps.gateway.services import pool
from apps.gateway.services.pool import Upstreams
from apps.gateway.services.slots import Absent
from apps.gateway.services.ways import Caller, Way
from apps.registry import services as registry
from apps.registry.backends.base import Hello, HttpRefusal, ServerRoute, UpstreamError

ACME, GLOBEX = uuid4(), uuid4()


class FakeUpstream:
    """A server in this process; `behaviour` answers its requests."""

    made: list["FakeUpstream"] = []

    def __init__(self, route: ServerRoute, behaviour: Callable[["FakeUpstream"], Awaitable[dict[str, Any]]]) -> None:
        self.route = route
        self.behaviour = behaviour
        self.is_open = False
        self.closed = 0
        self.notices: list[str] = []
        self.running = 0
        self.most_running = 0
        self.protocol_version = route.protocol_version
        FakeUpstream.made.append(self)

    async def open(self) -> Hello:
        await asyncio.sleep(0)
        self.is_open = True
        return Hello(self.protocol_version)

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_seconds: float, **_: Any
    ) -> dict[str, Any]:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self.behaviour(self)
        except TimeoutError as error:
            raise BackendTimeout from error
        finally:
            self.running -= 1

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        self.notices.append(method)

    async def aclose(self) -> None:
        self.is_open = False
        self.closed += 1


async def answer(_: FakeUpstream) -> dict[str, Any]:
    await asyncio.sleep(0.001)
    return {"content": []}


async def slow(_: FakeUpstream) -> dict[str, Any]:
    await asyncio.sleep(0.05)
    return {"content": []}


async def hang(_: FakeUpstream) -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def crash(upstream: FakeUpstream) -> dict[str, Any]:
    upstream.is_open = False
    raise BackendDown


async def refuse(_: FakeUpstream) -> dict[str, Any]:
    raise UpstreamError(-32602, "Bad arguments")


class World:
    """The servers there are, and how they behave."""

    def __init__(self) -> None:
        self.routes: dict[UUID, ServerRoute] = {}
        self.behaviour: dict[str, Callable[[FakeUpstream], Awaitable[dict[str, Any]]]] = {}

    def server(self, slug: str, *, organization_id: UUID = ACME, behaviour: Any = answer, **route: Any) -> UUID:
        given = {"transport": "streamable_http", "timeout_seconds": 0.3, "protocol_version": "2025-11-25", **route}
        server_id = uuid4()
        self.routes[server_id] = ServerRoute(server_id, organization_id, slug, slug, **given)
        self.behaviour[slug] = behaviour
        return server_id

    def connect(self, route: ServerRoute, **_: Any) -> FakeUpstream:
        async def behave(upstream: FakeUpstream) -> dict[str, Any]:
            return await self.behaviour[route.slug](upstream)  # as it is then, not now

        return FakeUpstream(route, behave)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    FakeUpstream.made = []

    async def at_once(function: Any, *given: Any) -> Any:
        return function(*given)

    monkeypatch.setattr(registry, "server_route", lambda server_id: world.routes[server_id], raising=False)
    monkeypatch.setattr(registry, "connect", world.connect, raising=False)
    monkeypatch.setattr(registry, "UpstreamError", UpstreamError, raising=False)
    monkeypatch.setattr(registry, "HttpRefusal", HttpRefusal, raising=False)
    monkeypatch.setattr(pool, "in_thread", at_once)
    return world


ALICE, BOB = Caller("session-a", "key-a"), Caller("session-b", "key-b")


def run(story: Callable[[Upstreams], Awaitable[None]]) -> None:
    """Tell a story in an event loop of its own, and see that nothing is left open after it."""

    async def tell() -> None:
        held = Upstreams()
        try:
            await story(held)
        finally:
            await held.aclose()

    asyncio.run(tell())
    assert all(upstream.closed == 1 for upstream in FakeUpstream.made)


async def call(held: Upstreams, server_id: UUID, caller: Caller = ALICE, revision: int = 1) -> dict[str, Any]:
    result, _ = await held.request(server_id, revision, caller, "tools/call", {"name": "x", "arguments": {}})
    return result


def test_each_session_has_its_own_upstream_session_and_ends_it(world: World) -> None:
    server = world.server("notes")

    async def story(held: Upstreams) -> None:
        for caller in (ALICE, BOB, ALICE, Caller(None, "key-a"), Caller(None, "key-a")):
            await call(held, server, caller)
        assert len(FakeUpstream.made) == 3

        held.close_session("session-a")
        await asyncio.sleep(0.01)

        assert [upstream.closed for upstream in FakeUpstream.made] == [1, 0, 0]

    run(story)


def test_what_a_client_says_of_its_roots_reaches_its_own_sessions_alone(world: World) -> None:
    server = world.server("notes")

    async def story(held: Upstreams) -> None:
        await call(held, server, ALICE)
        await call(held, server, BOB)

        held.notify_servers("session-a", "notifications/roots/list_changed", {})
        await asyncio.sleep(0.01)

        assert [upstream.notices for upstream in FakeUpstream.made] == [["notifications/roots/list_changed"], []]

    run(story)


def test_a_client_that_says_it_over_and_over_tells_a_slow_server_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, told = world.server("notes"), asyncio.Event()

    async def slowly(upstream: FakeUpstream, method: str, params: Mapping[str, Any] | None = None) -> None:
        upstream.notices.append(method)
        await told.wait()

    monkeypatch.setattr(FakeUpstream, "notify", slowly)

    async def story(held: Upstreams) -> None:
        await call(held, server, ALICE)
        for _ in range(1000):
            held.notify_servers("session-a", "notifications/roots/list_changed", {})
            await asyncio.sleep(0)
        tasks = len(held._tasks)
        told.set()
        await asyncio.sleep(0.01)

        assert tasks <= 2
        assert len(FakeUpstream.made[0].notices) == 2
        held.notify_servers("session-a", "notifications/roots/list_changed", {})
        await asyncio.sleep(0.01)
        assert len(FakeUpstream.made[0].notices) == 3

    run(story)


@pytest.mark.parametrize("route", [{"transport": "stdio"}, {"protocol_version": "2026-07-28"}])
def test_what_has_no_sessions_is_shared(world: World, route: dict[str, Any]) -> None:
    server = world.server("time", **route)

    async def story(held: Upstreams) -> None:
        await asyncio.gather(*(call(held, server, caller) for caller in (ALICE, BOB, Caller(None, "key-c"))))
        assert len(FakeUpstream.made) == 1

    run(story)


def test_isolated_processes_are_one_for_each_session(world: World) -> None:
    server = world.server("time", transport="stdio", isolate_sessions=True)

    async def story(held: Upstreams) -> None:
        await asyncio.gather(*(call(held, server, caller) for caller in (ALICE, BOB)))
        assert len(FakeUpstream.made) == 2

    run(story)


def test_no_more_calls_run_at_once_than_the_server_takes(world: World) -> None:
    server = world.server("notes", max_concurrency=3, behaviour=slow, transport="stdio")

    async def story(held: Upstreams) -> None:
        await asyncio.gather(*(call(held, server) for _ in range(9)))
        assert FakeUpstream.made[0].most_running == 3

    run(story)


@pytest.mark.measured
def test_waiting_for_a_free_slot_ends_at_the_deadline_and_is_no_outage(world: World, settings: Any) -> None:
    settings.BREAKER_FAILURES = 2
    server = world.server("notes", max_concurrency=1, behaviour=hang)

    async def story(held: Upstreams) -> None:
        began = time.monotonic()
        ended = await asyncio.gather(*(call(held, server) for _ in range(20)), return_exceptions=True)
        assert time.monotonic() - began < 0.3 * 1.3
        assert all(isinstance(error, BackendTimeout) for error in ended)

        world.behaviour["notes"] = answer
        await call(held, server)

    run(story)


@pytest.mark.measured
def test_a_hanging_server_fails_at_its_deadline_and_then_at_once(world: World, settings: Any) -> None:
    settings.BREAKER_FAILURES = 5
    settings.BREAKER_OPEN_SECONDS = 0.2
    server = world.server("slow", behaviour=hang)

    async def story(held: Upstreams) -> None:
        began = time.monotonic()
        await asyncio.gather(*(call(held, server) for _ in range(5)), return_exceptions=True)
        assert 0.3 <= time.monotonic() - began < 0.33 * 1.2

        began = time.monotonic()
        with pytest.raises(BackendDown) as refusal:
            await call(held, server)
        assert time.monotonic() - began < 0.05
        assert "slow" in refusal.value.message
        assert "Try again in" in refusal.value.message

        world.behaviour["slow"] = answer
        await asyncio.sleep(0.2)
        await call(held, server)

    run(story)


def test_one_probe_goes_out_of_fifty_calls(world: World, settings: Any) -> None:
    settings.BREAKER_FAILURES = 1
    settings.BREAKER_OPEN_SECONDS = 0.05
    asked = []
    server = world.server("notes", behaviour=crash)

    async def story(held: Upstreams) -> None:
        with pytest.raises(BackendDown):
            await call(held, server)

        async def count(upstream: FakeUpstream) -> dict[str, Any]:
            asked.append(1)
            return await slow(upstream)

        world.behaviour["notes"] = count
        await asyncio.sleep(0.06)
        ended = await asyncio.gather(*(call(held, server) for _ in range(50)), return_exceptions=True)
        assert len(asked) == 1
        assert sum(isinstance(each, BackendDown) for each in ended) == 49

        await call(held, server)

    run(story)


def test_an_error_of_the_server_s_own_names_it_and_opens_nothing(world: World, settings: Any) -> None:
    settings.BREAKER_FAILURES = 1
    server = world.server("notes", behaviour=refuse)

    async def story(held: Upstreams) -> None:
        for _ in range(5):
            with pytest.raises(BackendError, match="notes refused the call: Bad arguments"):
                await call(held, server)

    run(story)


def test_a_crashing_child_is_started_again_but_ever_more_slowly(world: World, settings: Any) -> None:
    settings.BREAKER_FAILURES = 1000
    server = world.server("shaky", transport="stdio", behaviour=crash)

    async def story(held: Upstreams) -> None:
        for _ in range(200):
            with pytest.raises(BackendDown):
                await call(held, server)
        assert len(FakeUpstream.made) <= 3

    run(story)


def test_a_child_that_ended_often_waits_no_longer_than_the_breaker(world: World, settings: Any) -> None:
    way = Way(world.routes[world.server("gone", transport="stdio")], 1, asyncio.ensure_future, Absent())

    pauses = []
    for _ in range(2000):
        way.count_crash(now=0.0, lived=0.0)
        pauses.append(way.start_after)

    assert pauses[:4] == [0, 1, 2, 4]
    assert max(pauses) == settings.BREAKER_OPEN_SECONDS


def test_an_idle_child_is_stopped(world: World, settings: Any) -> None:
    settings.STDIO_IDLE_SECONDS = 0.05
    server = world.server("time", transport="stdio")

    async def story(held: Upstreams) -> None:
        await call(held, server)
        assert held.children == 1
        await asyncio.sleep(0.15)
        assert held.children == 0

    run(story)


def test_a_child_at_work_is_not_idle(world: World, settings: Any) -> None:
    settings.STDIO_IDLE_SECONDS = 0.02
    server = world.server("time", transport="stdio", behaviour=slow)

    async def story(held: Upstreams) -> None:
        for _ in range(3):
            await call(held, server)
        assert len(FakeUpstream.made) == 1

    run(story)


def test_children_are_capped_for_the_process_and_for_one_organization(world: World, settings: Any) -> None:
    settings.STDIO_MAX_PROCESSES = 4
    ours = [world.server(f"ours-{number}", transport="stdio", behaviour=slow) for number in range(3)]
    theirs = [
        world.server(f"theirs-{number}", organization_id=GLOBEX, transport="stdio", behaviour=slow)
        for number in range(2)
    ]

    async def story(held: Upstreams) -> None:
        ended = await asyncio.gather(*(call(held, server) for server in ours), return_exceptions=True)
        refused = [each for each in ended if isinstance(each, RateLimited)]
        assert len(refused) == 1
        assert "GATEHOUSE_STDIO_MAX_PROCESSES" in refused[0].message
        assert held.children == 2

        await asyncio.gather(*(call(held, server) for server in theirs))
        assert held.children == 4

        await call(held, ours[2])
        await asyncio.sleep(0.01)
        assert held.children == 4
        assert sum(upstream.is_open for upstream in FakeUpstream.made) == 4

    run(story)


def test_a_changed_route_drops_what_was_open(world: World) -> None:
    server = world.server("notes", url="http://a/mcp")

    async def story(held: Upstreams) -> None:
        await call(held, server)
        await call(held, server, revision=2)
        assert len(FakeUpstream.made) == 1

        old = world.routes[server]
        world.routes[server] = ServerRoute(
            old.id, ACME, "notes", "notes", "streamable_http", url="http://b/mcp", timeout_seconds=0.3
        )
        await call(held, server, revision=3)

        assert [upstream.route.url for upstream in FakeUpstream.made] == ["http://a/mcp", "http://b/mcp"]
        await asyncio.sleep(0.01)
        assert FakeUpstream.made[0].closed == 1

    run(story)


def test_a_withdrawn_server_s_process_ends(world: World) -> None:
    kept, withdrawn = (world.server(slug, transport="stdio") for slug in ("kept", "withdrawn"))

    async def story(held: Upstreams) -> None:
        await call(held, kept)
        await call(held, withdrawn)

        held.keep_only(ACME, frozenset({kept}))
        await asyncio.sleep(0.01)

        assert [upstream.closed for upstream in FakeUpstream.made] == [0, 1]

    run(story)


def test_a_cancelled_call_leaves_its_slot_and_its_probe_to_others(world: World) -> None:
    server = world.server("notes", max_concurrency=1, behaviour=hang)

    async def story(held: Upstreams) -> None:
        waiting = asyncio.ensure_future(call(held, server))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        world.behaviour["notes"] = answer
        await call(held, server)

    run(story)


@pytest.mark.measured
def test_a_server_that_does_not_open_fails_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: FakeUpstream) -> Hello:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(FakeUpstream, "open", never)
    server = world.server("notes", transport="stdio")

    async def story(held: Upstreams) -> None:
        began = time.monotonic()
        with pytest.raises(BackendTimeout, match="notes did not answer within"):
            await call(held, server)
        assert time.monotonic() - began < 0.33 * 1.2

    run(story)
