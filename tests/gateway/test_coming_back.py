"""Whose turn it is at a server: who is new, who waits for a person, and who comes back from one."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from apps.core.ids import new_id
from apps.gateway.services import slots
from apps.gateway.services.slots import Absent, Slot, Slots
from apps.registry import services as registry

OWNER = (new_id(), "alice")
LONG = 60.0


@dataclass
class Person:
    """Who is asked, and what they do."""

    answers: Callable[[], Awaitable[Any]]
    may_be_asked: bool = True

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Hear nothing."""

    async def check(self, method: str, params: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)  # the journal
        if not self.may_be_asked:
            raise registry.Refused(-32601, "Not this one.")

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        await self.answers()
        return {}


async def in_a_while() -> None:
    """Everything that can go on goes on."""
    for _ in range(10):
        await asyncio.sleep(0)


def soon(some: Slots, **how: Any) -> "asyncio.Task[bool]":
    """Somebody who wants a slot and has time."""
    return asyncio.ensure_future(some.take(asyncio.get_running_loop().time() + LONG, **how))


async def call(some: Slots, person: Person, absent: Absent | None = None) -> Slot:
    """A call that has its slot."""
    assert await soon(some)
    return Slot(some, Absent() if absent is None else absent, OWNER, person)


def test_who_comes_back_goes_before_who_is_new() -> None:
    async def story() -> None:
        some = Slots(1)
        assert await soon(some)
        new, back = soon(some), soon(some, is_back=True)
        await in_a_while()

        some.give()
        await in_a_while()
        assert (back.done(), new.done()) == (True, False)

        some.give()
        assert await new
        some.give()
        assert some.free == 1

    asyncio.run(story())


def test_a_question_that_may_not_be_asked_gives_no_slot_away() -> None:
    async def story() -> None:
        some, person = Slots(1), Person(in_a_while, may_be_asked=False)
        slot, new = await call(some, person), soon(some)

        with pytest.raises(registry.Refused):
            await slot.asked("roots/list", {})

        await in_a_while()
        assert not new.done()
        slot.end()
        assert await new

    asyncio.run(story())


def test_an_answer_is_held_back_until_there_is_a_slot() -> None:
    async def story() -> None:
        some, answered = Slots(1), asyncio.Event()
        slot, other = await call(some, Person(answered.wait)), soon(some)
        asking = asyncio.ensure_future(slot.asked("roots/list", {}))
        assert await other
        answered.set()
        await in_a_while()
        assert not asking.done()

        some.give()
        await asking
        assert slot.is_held and not some.free

    asyncio.run(story())


def test_it_is_not_held_back_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other call may wait at its server for this very answer."""
    monkeypatch.setattr(slots, "RETURN_SECONDS", 0.05)

    async def story() -> None:
        some, absent = Slots(1), Absent()
        slot, other = await call(some, Person(in_a_while), absent), soon(some)

        async with asyncio.timeout(LONG):
            await slot.asked("roots/list", {})

        assert other.result() and not slot.is_held and len(absent) == 1
        slot.end()
        some.give()
        assert some.free == 1 and not len(absent)

    asyncio.run(story())


def test_a_question_that_is_taken_back_holds_nobody_up() -> None:
    async def story() -> None:
        some = Slots(1)
        slot, other = await call(some, Person(asyncio.Event().wait)), soon(some)
        asking = asyncio.ensure_future(slot.asked("roots/list", {}))
        assert await other

        asking.cancel()
        await in_a_while()

        assert asking.cancelled() and not slot.is_held

    asyncio.run(story())


def test_a_limit_that_is_changed_counts_who_is_at_work() -> None:
    async def story() -> None:
        some = Slots(2)
        assert await soon(some) and await soon(some)
        third, fourth = soon(some), soon(some)
        await in_a_while()

        some.resize(3)
        await in_a_while()
        assert (third.done(), fourth.done()) == (True, False)

        some.resize(1)
        for _ in range(2):
            some.give()
        await in_a_while()
        assert not fourth.done() and some.free == 0

        some.give()
        assert await fourth and some.free == 0

    asyncio.run(story())


def test_a_slot_that_comes_as_one_leaves_goes_to_the_next() -> None:
    async def story() -> None:
        some = Slots(1)
        assert await soon(some)
        first, second = soon(some), soon(some)
        await in_a_while()

        some.give()
        first.cancel()

        assert await second
        assert first.cancelled()
        some.give()
        assert some.free == 1

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_no_slot_is_lost_and_none_is_taken_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(slots, "RETURN_SECONDS", chance.choice((LONG, 0.001)))
    monkeypatch.setattr(slots, "MOST_ABSENT_OF_ONE", chance.choice((2, 100)))

    async def story() -> None:
        some, absent, working = Slots(3), Absent(), set()

        async def pause() -> None:
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            if chance.random() < 0.1:
                await asyncio.sleep(0.002)

        async def one() -> None:
            if not await some.take(asyncio.get_running_loop().time() + LONG):
                return
            slot = Slot(some, absent, OWNER, Person(pause, may_be_asked=chance.random() < 0.8))
            working.add(slot)
            try:
                for _ in range(chance.randrange(3)):
                    await pause()
                    asked = [asyncio.ensure_future(slot.asked("roots/list", {})) for _ in range(chance.randrange(1, 3))]
                    if chance.random() < 0.2:
                        asked[0].cancel()
                    await asyncio.gather(*asked, return_exceptions=True)
                    assert sum(each.is_held for each in working) + some.free <= some.most
            finally:
                working.discard(slot)
                slot.end()

        async def impatient() -> None:
            work = asyncio.ensure_future(one())
            await pause()
            if chance.random() < 0.3:
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if not work.cancelled() and (error := work.exception()):
                raise error

        async with asyncio.timeout(LONG):
            await asyncio.gather(change_limit(some, chance, pause), *(impatient() for _ in range(40)))
            await in_a_while()
        assert some.free == 3 and not len(absent)

    asyncio.run(story())


async def change_limit(some: Slots, chance: random.Random, pause: Callable[[], Awaitable[None]]) -> None:
    """Allow more and fewer, and in the end three again."""
    for most in (*(chance.randrange(1, 5) for _ in range(10)), 3):
        some.resize(most)
        await pause()
