"""What a server asks on no call's own stream, and what it says between two rounds: to whom, and until when."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from apps.core.ids import new_id
from apps.gateway.services import hearing
from apps.gateway.services.asking import Ask, Silent
from apps.gateway.services.hearing import BesideCalls, CallListener
from apps.gateway.services.parking import MOST_MISSED, Parked
from apps.registry import services as registry


class Call:
    """A call whose client answers when it may."""

    def __init__(self, name: str, *, answers: bool = True) -> None:
        self.name, self.answers = name, asyncio.Event()
        self.heard: list[str] = []
        self.is_asked = asyncio.Event()
        self.is_cancelled = False
        if answers:
            self.answers.set()

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        self.heard.append(method)

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self.is_asked.set()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.is_cancelled = True
            raise
        return {"by": self.name}


def test_whoever_calls_is_asked_and_nobody_else() -> None:
    async def story() -> None:
        beside, first, second = BesideCalls(is_of_one_client=True), Call("first"), Call("second")
        with pytest.raises(registry.Refused, match="only while a call"):
            await beside.asked("roots/list", {})

        beside.begin(first)
        beside.begin(second)
        beside.notified("notifications/message", {})
        beside.notified("notifications/tools/list_changed", {})
        assert await beside.asked("roots/list", {}) == {"by": "second"}
        beside.end(second)
        assert await beside.asked("roots/list", {}) == {"by": "first"}
        assert (first.heard, second.heard) == ([], ["notifications/message"])

    asyncio.run(story())


def test_where_several_clients_share_a_key_no_call_is_asked_what_may_be_meant_for_another() -> None:
    async def story() -> None:
        beside, mine, theirs = BesideCalls(is_of_one_client=False), Call("mine"), Call("theirs")
        beside.begin(mine)
        assert await beside.asked("roots/list", {}) == {"by": "mine"}

        beside.begin(theirs)
        with pytest.raises(registry.Refused):
            await beside.asked("roots/list", {})

    asyncio.run(story())


def test_a_question_ends_with_its_call() -> None:
    async def story() -> None:
        beside, call = BesideCalls(is_of_one_client=True), Call("slow", answers=False)
        beside.begin(call)
        asking = asyncio.ensure_future(beside.asked("elicitation/create", {}))
        await call.is_asked.wait()

        beside.end(call)
        with pytest.raises(registry.Refused, match="has ended"):
            await asking
        await asyncio.sleep(0)
        assert call.is_cancelled

    asyncio.run(story())


def test_what_a_client_may_not_be_asked_is_refused_beside_its_call_too(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []

    async def note(route: registry.ServerRoute, method: str, refusal: registry.Refused) -> None:
        noted.append(method)

    monkeypatch.setattr(hearing, "note_refusal", note)
    route = registry.ServerRoute(new_id(), new_id(), "loop", "Loop", "http")
    form = {"message": "Name?", "requestedSchema": {"properties": {"password": {"type": "string"}}}}

    async def story() -> None:
        beside = BesideCalls(is_of_one_client=True)
        beside.begin(CallListener(Silent(capabilities={"elicitation": {}}), route))
        with pytest.raises(registry.Refused, match="asks for a secret"):
            await beside.asked("elicitation/create", form)
        with pytest.raises(registry.Refused, match="has not declared roots"):
            await beside.asked("roots/list", {})

    asyncio.run(story())
    assert noted == ["elicitation/create", "roots/list"]


@dataclass(frozen=True)
class Listening(Silent):
    """A client that keeps what it is told."""

    heard: list[tuple[str, int]] = field(default_factory=list)

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.heard.append((params["progressToken"], params["progress"]))


def test_what_is_said_between_two_rounds_is_told_in_the_next_under_its_own_token() -> None:
    async def story() -> None:
        first, second, third = Listening(), Listening(), Listening()
        parked = Parked("alice")

        parked.comes(Ask(first, meta={"progressToken": "one"}))
        parked.tell("notifications/progress", {"progressToken": "one", "progress": 1})
        parked.is_away = True
        for number in range(2, 100):
            parked.tell("notifications/progress", {"progressToken": "one", "progress": number})
        parked.tell("notifications/progress", {"progress": 99, "message": "a long story " * 1000})
        parked.comes(Ask(second, meta={"progressToken": "two"}))
        parked.tell("notifications/progress", {"progressToken": "one", "progress": 100})
        parked.comes(Ask(third))
        parked.tell("notifications/progress", {"progressToken": "one", "progress": 101})

        assert first.heard == [("one", 1)]
        assert second.heard == [("two", number) for number in range(100 - MOST_MISSED, 101)]
        assert third.heard == []

    asyncio.run(story())
