"""The budget of held bytes: who waits, who may go on, and that nobody waits for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest

from apps.core import budget
from apps.core.budget import FREE_BYTES, Budget, Share
from apps.core.ids import new_id

ACME, GLOBEX = new_id(), new_id()
MOST = 1000


@pytest.fixture(autouse=True)
def _a_small_budget(settings: Any) -> None:
    settings.UPSTREAM_MAX_HELD_BYTES = MOST


def run(work: Callable[[Budget], Coroutine[Any, Any, None]]) -> None:
    """Run a story with a budget of its own."""

    async def whole() -> None:
        async with asyncio.timeout(10):
            await work(Budget())

    asyncio.run(whole())


async def holding(held: Budget, owner: UUID, size: int) -> Share:
    """A share that counts this much."""
    share = Share(held, owner)
    await share.grow(FREE_BYTES)
    await share.grow(size)
    return share


async def later(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Begin something, and let it come as far as it can."""
    task = asyncio.ensure_future(work)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


def test_small_answers_never_wait_and_are_not_counted() -> None:
    async def work(held: Budget) -> None:
        large = await holding(held, ACME, 500)
        other = await holding(held, GLOBEX, 500)
        for _ in range(50):
            await Share(held, ACME).grow(FREE_BYTES)
        assert held.taken == MOST
        large.release()
        other.release()
        assert held.taken == 0

    run(work)


def test_whoever_exceeds_the_budget_waits_until_others_have_given_back() -> None:
    async def work(held: Budget) -> None:
        one, two = await holding(held, ACME, 500), await holding(held, GLOBEX, 400)
        three = Share(held, new_id())
        waiting = await later(three.grow(FREE_BYTES + 200))
        assert not waiting.done()
        assert three.is_held_up
        two.back_to(FREE_BYTES + 300)  # what it threw away makes room
        await waiting
        assert not three.is_held_up
        assert held.taken == MOST
        one.release()
        one.release()
        assert held.taken == 500

    run(work)


def test_an_organisation_gets_half_so_that_others_go_on() -> None:
    async def work(held: Budget) -> None:
        first = await holding(held, ACME, 400)
        second = await later(holding(held, ACME, 200))
        assert not second.done()
        await holding(held, GLOBEX, 500)
        first.release()
        await second

    run(work)


def test_where_all_wait_the_oldest_goes_on_alone_and_the_others_follow_one_by_one() -> None:
    async def work(held: Budget) -> None:
        shares = [await holding(held, owner, 240) for owner in (ACME, ACME, GLOBEX, GLOBEX)]
        growing = [await later(share.grow(600)) for share in shares]
        assert [each.done() for each in growing] == [True, False, False, False]
        assert held.taken == 4 * 240 + 600
        for share, task in zip(shares, growing, strict=True):
            await task
            share.release()
        assert held.taken == 0

    run(work)


def test_an_organisation_that_waits_for_itself_goes_on_while_others_work() -> None:
    async def work(held: Budget) -> None:
        await holding(held, GLOBEX, 100)  # works, and holds on for long
        own = [await holding(held, ACME, 250) for _ in range(2)]
        growing = [await later(share.grow(100)) for share in own]
        assert [each.done() for each in growing] == [True, False]
        own[0].release()
        await growing[1]

    run(work)


def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    async def work(held: Budget) -> None:
        first = await holding(held, ACME, 500)
        share = Share(held, ACME)
        waiting = await later(share.grow(FREE_BYTES + 400))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert share.is_held_up  # which tells a time limit from a slow server
        share.release()
        first.release()
        assert held.taken == 0
        assert held._holders == {}
        assert held._waiting == {}
        assert not held._by_owner

    run(work)


def test_what_came_on_a_shared_connection_counts_at_once_and_holds_others_up() -> None:
    async def work(held: Budget) -> None:
        share = Share(held, ACME)
        share.take(FREE_BYTES + 450)
        waiting = await later(holding(held, ACME, 100))
        assert not waiting.done()
        share.release()
        await waiting

    run(work)


def test_reading_counts_only_where_somebody_is_answered() -> None:
    async def work(held: Budget) -> None:
        assert budget.current() is None
        with budget.share_for(ACME) as share:
            with budget.counting(share, ACME):
                assert budget.current() is share
                share.take(FREE_BYTES + 7)
            assert budget.budget().taken == 7
            assert budget.current() is None
        assert budget.budget().taken == 0
        with budget.counting(None, ACME):
            own = budget.current()
            assert own is not None
            own.take(FREE_BYTES + 7)
        assert budget.budget().taken == 0

    run(work)
