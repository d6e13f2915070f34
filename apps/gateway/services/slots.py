"""The calls that a server takes at the same time, and what becomes of a call's place while its client is asked."""

import asyncio
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from apps.core import egress
from apps.gateway.services.asking import NOT_DECLARED
from apps.registry import services as registry

MOST_ABSENT_OF_ONE = 8
MOST_ABSENT_OF_ORGANIZATION = egress.POOL_SIZE // 4
MOST_ABSENT = egress.POOL_SIZE // 2
Owner = tuple[UUID, str]
"""An organisation, and a caller in it."""


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

    While the call's client is asked something, which may take a person minutes, others may have the slot. When there is
    an answer the call goes on: with a slot if one is free, else beside them. So a server may have more calls than its
    limit for a while, by as many as may be absent; what is beyond that keeps its slot.
    """

    slots: asyncio.Semaphore
    absent: Absent
    owner: Owner
    listener: registry.Listener | None = None
    is_held: bool = True
    is_over: bool = False
    asked_now: int = 0
    is_waiting: bool = False

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Hear a notification."""
        if self.listener is not None:
            self.listener.notified(method, params)

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question, without the slot."""
        if self.listener is None:
            raise registry.Refused(NOT_DECLARED, "Nobody listens to this call.")
        self.asked_now += 1
        self._leave()
        try:
            return await self.listener.asked(method, params)
        finally:
            self.asked_now -= 1
            if not (self.asked_now or self.is_waiting or self.is_held or self.is_over or self.slots.locked()):
                await self.slots.acquire()  # at once, for one is free
                self.is_held = True
                self.absent.remove(self.owner)

    def leave(self) -> None:
        """The call only waits for what another one has begun: others may have the slot until it ends."""
        self.is_waiting = True
        self._leave()

    def _leave(self) -> None:
        if self.is_held and not self.is_over and self.absent.add(self.owner):
            self.is_held = False
            self.slots.release()

    def end(self) -> None:
        """The call has ended."""
        self.is_over = True
        if self.is_held:
            self.slots.release()
        else:
            self.absent.remove(self.owner)
