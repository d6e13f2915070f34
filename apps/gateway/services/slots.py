"""The calls that a server takes at the same time, and what becomes of a call's place while its client is asked."""

import asyncio
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from apps.core import egress
from apps.gateway.services.asking import NOT_DECLARED
from apps.registry import services as registry

MOST_ABSENT_OF_ONE = 8
MOST_ABSENT_OF_ORGANIZATION = egress.POOL_SIZE // 4
MOST_ABSENT = egress.POOL_SIZE // 2
RETURN_SECONDS = 5.0
"""How long an answer is held back until there is a slot for what its server does with it: longer than most calls take,
and much shorter than a call may take that waits at a server for this very answer."""
Owner = tuple[UUID, str]
"""An organisation, and a caller in it."""


class ChecksFirst(registry.Listener, Protocol):
    """The listener of a call, which knows beforehand what may not be asked."""

    async def check(self, method: str, params: Mapping[str, Any]) -> None:
        """Raise registry.Refused for a question that is not put to anybody."""


class Slots:
    """So many at the same time; whoever comes back from a question is let in before whoever is new."""

    def __init__(self, most: int) -> None:
        self.free = most
        """How many nobody has; below zero while more are taken than there may be by now."""
        self.most = most
        self._new: deque[asyncio.Future[None]] = deque()
        self._back: deque[asyncio.Future[None]] = deque()

    async def take(self, deadline: float, *, is_back: bool = False) -> bool:
        """Wait for a slot; False where none was free in time."""
        if self.free > 0:  # then nobody waits: a slot that is given back goes to whoever does
            self.free -= 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._back if is_back else self._new
        queue.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            if turn.cancelled():
                queue.remove(turn)
            else:
                self.give()  # it came in the very moment in which we left
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give(self) -> None:
        """Give a slot back, to whoever waits first."""
        self.free += 1
        self._let_in()

    def resize(self, most: int) -> None:
        """Have so many from now on; those that are taken beyond that stay until they are given back."""
        self.free += most - self.most
        self.most = most
        self._let_in()

    def _let_in(self) -> None:
        for queue in (self._back, self._new):
            for turn in list(queue):
                if self.free <= 0:
                    return
                if not turn.done():
                    queue.remove(turn)
                    self.free -= 1
                    turn.set_result(None)


class Absent:
    """The calls of an event loop that have left their slots: so few that enough connections are left for others."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return self._counts[None]

    def add(self, owner: Owner) -> bool:
        """Whether one more may leave its slot."""
        most = {None: MOST_ABSENT, owner[0]: MOST_ABSENT_OF_ORGANIZATION, owner: MOST_ABSENT_OF_ONE}
        if any(self._counts[key] >= limit for key, limit in most.items()):
            return False
        self._counts.update(most.keys())
        return True

    def remove(self, owner: Owner) -> None:
        """One has a slot again, or has ended."""
        self._counts.subtract((None, owner[0], owner))
        self._counts += Counter()  # forgets who has none


@dataclass(slots=True, eq=False)
class Slot:
    """One of the calls that a server takes at the same time, as the listener of that call.

    While the call's client is asked something, which may take a person minutes, others may have the slot. The answer
    is handed to the server when there is a slot again, before whoever is new, or after some seconds without one: the
    server may be one that does nothing else until it has the answer. See decision 0019.
    """

    slots: Slots
    absent: Absent
    owner: Owner
    listener: ChecksFirst | None = None
    is_held: bool = True
    is_over: bool = False
    asked_now: int = 0
    is_waiting: bool = False

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Hear a notification."""
        if self.listener is not None:
            self.listener.notified(method, params)

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question, without the slot; one that may not be put at all leaves it where it is."""
        if self.listener is None:
            raise registry.Refused(NOT_DECLARED, "Nobody listens to this call.")
        await self.listener.check(method, params)
        self.asked_now += 1
        self._leave()
        seconds = RETURN_SECONDS
        try:
            return await self.listener.asked(method, params)
        except asyncio.CancelledError:
            seconds = 0.0  # the server does not wait for this any more
            raise
        finally:
            self.asked_now -= 1
            await self._come_back(seconds)

    def leave(self) -> None:
        """The call only waits for what another one has begun: others may have the slot until it ends."""
        self.is_waiting = True
        self._leave()

    def _leave(self) -> None:
        if self.is_held and not self.is_over and self.absent.add(self.owner):
            self.is_held = False
            self.slots.give()

    async def _come_back(self, seconds: float) -> None:
        """Take a slot again, where one is free in time and nobody else is asked."""
        if self._is_settled() or not (self.slots.free > 0 or seconds):
            return
        if not await self.slots.take(asyncio.get_running_loop().time() + seconds, is_back=True):
            return
        if self._is_settled():  # since then
            self.slots.give()
            return
        self.is_held = True
        self.absent.remove(self.owner)

    def _is_settled(self) -> bool:
        """Whether it needs no slot: it has one, has ended, only waits, or somebody is still asked."""
        return self.is_held or self.is_over or self.is_waiting or self.asked_now > 0

    def end(self) -> None:
        """The call has ended."""
        self.is_over = True
        if self.is_held:
            self.slots.give()
        else:
            self.absent.remove(self.owner)
