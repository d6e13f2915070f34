"""Web processes agree on a server that fails: one learns it, all leave it alone, one of all probes it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from apps.core.errors import BackendDown
from apps.gateway.services import agreement
from apps.gateway.services.pool import Upstreams
from tests.fixtures.faults import FaultProxy, Mode, own_redis
from tests.gateway.test_upstreams import ALICE, FakeUpstream, World, answer, call, crash, slow, world
from tests.waiting import until

__all__ = ["world"]
FAILURES, OPEN_SECONDS = 3, 1.0


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """The address of a Redis."""
    with own_redis() as url:
        if not url:
            pytest.skip("There is no Redis here.")
        yield url


@pytest.fixture
def shared(redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the cache be in Redis, as with REDIS_URL; called, it leads there another way."""

    def lead_to(url: str) -> None:
        patience = {"socket_connect_timeout": 0.3, "socket_timeout": 0.3}
        backend = "django.core.cache.backends.redis.RedisCache"
        settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": url, "OPTIONS": patience}}

    monkeypatch.setattr(agreement, "_silent_until", 0.0)
    settings.BREAKER_FAILURES, settings.BREAKER_OPEN_SECONDS = FAILURES, OPEN_SECONDS
    lead_to(redis)
    return lead_to


def run(story: Callable[[Upstreams, Upstreams], Awaitable[None]]) -> None:
    """A story of two processes, which share nothing but Redis."""

    async def tell() -> None:
        one, other = Upstreams(), Upstreams()
        try:
            await story(one, other)
        finally:
            await asyncio.gather(one.aclose(), other.aclose())

    asyncio.run(tell())


async def fail(held: Upstreams, server: Any, times: int = FAILURES) -> None:
    """Calls that fail."""
    for _ in range(times):
        with pytest.raises(BackendDown):
            await call(held, server)


def state(held: Upstreams, server: Any) -> str:
    """How the breaker stands there."""
    found = held.state_of(server)
    return found.state if found else ""


async def settle(held: Upstreams) -> None:
    """Let everything be said that is under way."""
    while held._tasks:
        await asyncio.wait(held._tasks)


class Counting:
    """Counts the calls that reach a server, and lets them end as it is told."""

    def __init__(self, behaviour: Any) -> None:
        self.behaviour = behaviour
        self.calls = 0

    async def __call__(self, upstream: FakeUpstream) -> dict[str, Any]:
        self.calls += 1
        found: dict[str, Any] = await self.behaviour(upstream)
        return found


def test_what_one_has_learnt_holds_in_the_other_and_after_a_restart(world: World, shared: Any, settings: Any) -> None:
    settings.BREAKER_OPEN_SECONDS = 60.0
    counting = Counting(answer)
    server = world.server("notes", behaviour=counting)

    async def story(one: Upstreams, other: Upstreams) -> None:
        await call(other, server)
        counting.behaviour = crash
        await fail(one, server)
        await settle(one)
        counting.behaviour, before = answer, counting.calls

        await asyncio.sleep(agreement.READ_SECONDS)
        other._ways[server].agreement.look()
        await settle(other)
        assert state(other, server) == "open"
        with pytest.raises(BackendDown, match="left alone"):
            await call(other, server)

        started_later = Upstreams()
        try:
            with pytest.raises(BackendDown, match="left alone"):
                await call(started_later, server)
        finally:
            await started_later.aclose()
        assert counting.calls == before

    run(story)


def test_of_a_hundred_calls_in_two_processes_one_probes_and_both_close(world: World, shared: Any) -> None:
    counting = Counting(answer)
    server = world.server("notes", behaviour=counting)

    async def story(one: Upstreams, other: Upstreams) -> None:
        await call(other, server)
        counting.behaviour = crash
        await fail(one, server)
        await settle(one)
        await asyncio.sleep(OPEN_SECONDS)
        other._ways[server].agreement._read_at = -agreement.READ_SECONDS
        other._ways[server].agreement.look()
        await settle(other)
        assert (state(one, server), state(other, server)) == ("half_open", "half_open")
        counting.behaviour, before = slow, counting.calls

        calls = [call(held, server) for _ in range(50) for held in (one, other)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        await settle(one)
        await settle(other)

        assert counting.calls == before + 1
        assert sum(isinstance(each, BackendDown) for each in ended) == 99
        await asyncio.sleep(agreement.READ_SECONDS)
        for held in (one, other):
            held._ways[server].agreement.look()
            await settle(held)
            assert state(held, server) == "closed"
            await call(held, server)

    run(story)


def test_a_probe_that_failed_in_one_process_is_not_repeated_by_the_other(world: World, shared: Any) -> None:
    counting = Counting(crash)
    server = world.server("notes", behaviour=counting)

    async def story(one: Upstreams, other: Upstreams) -> None:
        await fail(one, server)
        await settle(one)
        with pytest.raises(BackendDown, match="left alone"):
            await call(other, server)
        await asyncio.sleep(OPEN_SECONDS)
        before = counting.calls

        await fail(one, server, times=1)
        await settle(one)
        other._ways[server].agreement._read_at = time.monotonic()  # it has not heard of it yet
        await fail(other, server, times=1)

        assert counting.calls == before + 1

    run(story)


def test_a_probe_that_is_given_up_makes_room_for_another(world: World, shared: Any) -> None:
    counting = Counting(crash)
    server = world.server("notes", behaviour=counting)

    async def story(one: Upstreams, other: Upstreams) -> None:
        await fail(one, server)
        await settle(one)
        await asyncio.sleep(OPEN_SECONDS)

        async def wait(_: FakeUpstream) -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

        counting.behaviour, before = wait, counting.calls
        probe = asyncio.ensure_future(call(one, server))
        await until(lambda: counting.calls == before + 1)
        probe.cancel()
        await asyncio.wait({probe})
        await settle(one)
        counting.behaviour = answer

        await call(other, server)

        assert state(other, server) == "closed"

    run(story)


@pytest.mark.parametrize("mode", ["swallow", "refuse", "drip", "half"])
def test_without_a_redis_that_answers_each_process_goes_by_what_it_sees(
    world: World, shared: Any, redis: str, mode: Mode
) -> None:
    counting = Counting(crash)
    server = world.server("notes", behaviour=counting)
    with FaultProxy(int(redis.rpartition(":")[2].partition("/")[0])) as proxy:
        proxy.set(mode)
        shared(f"redis://127.0.0.1:{proxy.port}/0")

        async def story(one: Upstreams, other: Upstreams) -> None:
            began = time.monotonic()
            await fail(one, server)
            await fail(other, server)
            assert time.monotonic() - began < 20
            assert (state(one, server), state(other, server)) == ("open", "open")
            counting.behaviour = answer
            await asyncio.sleep(OPEN_SECONDS)
            await call(one, server)
            await call(other, server)
            assert (state(one, server), state(other, server)) == ("closed", "closed")

        run(story)


def test_processes_of_stdio_servers_belong_to_one_web_process(world: World, shared: Any) -> None:
    counting = Counting(crash)
    server = world.server("kid", behaviour=counting, transport="stdio", isolate_sessions=False)

    async def story(one: Upstreams, other: Upstreams) -> None:
        for _ in range(FAILURES):
            one._ways.get(server) and setattr(one._ways[server], "start_after", 0.0)
            await fail(one, server, times=1)
        await settle(one)
        counting.behaviour = answer

        await call(other, server, ALICE)

        assert state(other, server) == "closed"

    run(story)
