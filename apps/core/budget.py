"""How many bytes of large answers a process holds at once: whoever would exceed that waits, and reads no further.

An answer is held from its first byte until it has been sent on. One alone is capped; sixteen of them at once are not.
So what is read beyond a free beginning counts into a share of one budget. While the budget is full, reading stops, and
the network holds back the sender. An organisation gets at most half, so that its own answers keep others waiting only
up to there. Should all that hold bytes be waiting for more, nobody would ever end: then the oldest may go on alone.

A budget belongs to one event loop, which a web process has one of.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID
from weakref import WeakKeyDictionary

from django.conf import settings

FREE_BYTES = 262_144
"""Answers up to this size never wait, and are not counted: there are far more of them, and they are soon gone."""


class Share:
    """The bytes that one answer holds."""

    def __init__(self, budget: "Budget", owner: UUID | None) -> None:
        self.owner = owner
        self.size = 0
        self.is_held_up = False
        self._budget = budget

    @property
    def counted(self) -> int:
        """What of it counts."""
        return _counted(self.size)

    async def grow(self, size: int) -> None:
        """Hold more bytes, as soon as there is room. Cancelled meanwhile, the share tells so by `is_held_up`."""
        if self.size + size <= FREE_BYTES:
            self.size += size
            return
        await self._budget.grow(self, size)

    def take(self, size: int) -> None:
        """Hold more bytes at once: they have been read already, on a connection that others share."""
        self._budget.resize(self, self.size + size)

    def back_to(self, size: int) -> None:
        """Hold no more than this: what was read since has been thrown away."""
        self._budget.resize(self, min(size, self.size))

    def release(self) -> None:
        """Hold nothing any more; may be called twice."""
        if self.size or self._budget.is_watching(self):
            self._budget.resize(self, 0)


class Budget:
    """The shares of one event loop."""

    def __init__(self) -> None:
        self.taken = 0
        self._by_owner: Counter[UUID | None] = Counter()
        self._holders: dict[Share, None] = {}  # in the order in which they began to count
        self._waiting: dict[Share, tuple[int, asyncio.Future[None]]] = {}
        self._alone: dict[UUID | None, Share] = {}
        self._alone_of_all: Share | None = None

    async def grow(self, share: Share, size: int) -> None:
        """Let a share grow, or wait until it may."""
        self._holders.setdefault(share)
        if not self._waiting and self._may_grow(share, size):
            self._account(share, share.size + size)
            return
        self._waiting[share] = (size, asyncio.get_running_loop().create_future())
        self._let_go_on()
        if share in self._waiting:
            share.is_held_up = True
            try:
                await self._waiting[share][1]
            finally:
                self._waiting.pop(share, None)
        share.is_held_up = False

    def is_watching(self, share: Share) -> bool:
        """Whether the share has ever counted; small answers never do."""
        return share in self._holders

    def resize(self, share: Share, size: int) -> None:
        """Let a share shrink, and others go on."""
        self._account(share, size)
        if share.counted:
            self._holders.setdefault(share)
        if not share.size:
            self._holders.pop(share, None)
            self._alone = {owner: each for owner, each in self._alone.items() if each is not share}
            self._alone_of_all = None if self._alone_of_all is share else self._alone_of_all
        self._let_go_on()

    def _account(self, share: Share, size: int) -> None:
        before, share.size = share.counted, size
        self.taken += share.counted - before
        self._by_owner[share.owner] += share.counted - before
        if not self._by_owner[share.owner]:
            del self._by_owner[share.owner]

    def _let_go_on(self) -> None:
        """Grant what there is room for, the oldest first; where everybody waits, the oldest gets room all the same."""
        self._grant()
        for owner in {share.owner for share in self._waiting}:
            if owner not in self._alone and (oldest := self._oldest_of_stuck(owner)):
                self._alone[owner] = oldest
        if self._alone_of_all is None and self._waiting and len(self._waiting) == len(self._holders):
            self._alone_of_all = next(share for share in self._holders if share in self._waiting)
        self._grant()

    def _grant(self) -> None:
        for share in [each for each in self._holders if each in self._waiting]:
            size, turn = self._waiting[share]
            if self._may_grow(share, size):
                del self._waiting[share]
                self._account(share, share.size + size)
                if not turn.done():
                    turn.set_result(None)

    def _may_grow(self, share: Share, size: int) -> bool:
        if share is self._alone_of_all:
            return True
        most: int = settings.UPSTREAM_MAX_HELD_BYTES
        more = _counted(share.size + size) - share.counted
        if self.taken + more > most:
            return False
        return self._by_owner[share.owner] + more <= most // 2 or self._alone.get(share.owner) is share

    def _oldest_of_stuck(self, owner: UUID | None) -> Share | None:
        """The oldest share of an organisation all of whose shares wait."""
        own = [share for share in self._holders if share.owner == owner]
        return own[0] if own and all(share in self._waiting for share in own) else None


def _counted(size: int) -> int:
    return max(0, size - FREE_BYTES)


_budgets: WeakKeyDictionary[asyncio.AbstractEventLoop, Budget] = WeakKeyDictionary()
_current: ContextVar[Share | None] = ContextVar("share_of_held_bytes", default=None)


def budget() -> Budget:
    """The budget of the running event loop."""
    return _budgets.setdefault(asyncio.get_running_loop(), Budget())


@contextmanager
def share_for(owner: UUID | None) -> Iterator[Share]:
    """A share for one answer to an organisation; what it holds is given back at the end."""
    share = Share(budget(), owner)
    try:
        yield share
    finally:
        share.release()


@contextmanager
def counting(share: Share | None, owner: UUID | None) -> Iterator[None]:
    """Count what this task reads inside into the share; without one, into one of its own that ends with it."""
    mine = share or Share(budget(), owner)
    mark = _current.set(mine)
    try:
        yield
    finally:
        _current.reset(mark)
        if share is None:
            mine.release()


def current() -> Share | None:
    """The share that is counted into; none for work that answers nobody, such as checks."""
    return _current.get()
