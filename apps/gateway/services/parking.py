"""Calls that wait: of clients of 2026-07-28 to servers of the revisions before, which ask in the middle of a call.

A question of such a server becomes a result. The call waits here, parked, until its client has called again with the
answers, and is bounded in number, size and time.
"""

import asyncio
import contextvars
import itertools
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from apps.core import budget
from apps.core.errors import InvalidInput, RateLimited, ServiceError
from apps.gateway.services.asking import Ask, Client, Silent
from apps.gateway.services.results import INPUT_REQUIRED, size_of
from apps.gateway.services.rounds import STATE_SECONDS, Misbehaved, Place, open_state, seal_state
from apps.registry import services as registry

MOST_PARKED_OF_ONE = 8
MOST_PARKED = 512
MOST_PARKED_BYTES = 67_108_864
"""How many calls wait in a process, and how long their requests are in all; an organisation gets half of both."""
MOST_MISSED = 32
LARGEST_MISSED = 4096
"""How much of what was said to a client between two rounds is kept for it: the latest, unless it is long."""
logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Parked:
    """A call to a server of the older era whose questions a client of 2026-07-28 answers by calling again."""

    caller: str
    organization_id: UUID | None = None
    size: int = 0
    """How long the request is that began it, which it keeps; of those that go on with it nothing is kept."""
    id: str = ""
    client: Client | None = None
    work: "asyncio.Task[dict[str, Any]] | None" = None
    open_questions: "dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]]" = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    touched_at: float = field(default_factory=time.monotonic)
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    share: budget.Share | None = None
    """What the call holds: the request that began it has ended before its result comes."""
    expiry: asyncio.TimerHandle | None = None
    progress_token: Any = None
    is_away: bool = False
    missed: "deque[tuple[str, Mapping[str, Any]]]" = field(default_factory=lambda: deque(maxlen=MOST_MISSED))

    def comes(self, ask: Ask) -> None:
        """Its client calls, for the first time or again, and hears what was said meanwhile."""
        self.client, self.is_away = ask.client, False
        self.progress_token = ask.meta.get("progressToken")
        while self.missed:
            self.tell(*self.missed.popleft())

    def leaves(self) -> None:
        """Its client goes, to come back with answers; what is kept of it says how much of the log it wants."""
        client, self.is_away = self.client, True
        self.client = Silent(is_modern=client.is_modern, log_level=client.log_level) if client else None

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Tell the client, when it is there; progress under the token of the round that it has begun."""
        if self.is_away:
            if size_of(params) <= LARGEST_MISSED:
                self.missed.append((method, params))
            return
        if method == "notifications/progress":
            if self.progress_token is None:
                return
            params = {**params, "progressToken": self.progress_token}
        if self.client is not None:
            self.client.notify(method, params)

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The server asks: hold the question until the client has answered it."""
        name = f"q{next(self.numbers)}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.open_questions[name] = ({"method": method, "params": dict(params)}, answer)
        self.news.set()
        try:
            return await answer
        finally:
            self.open_questions.pop(name, None)

    def answer(self, answers: Mapping[str, Any] | None) -> None:
        """Hand the client's answers on; what it did not answer is asked again."""
        for name, (_, future) in list(self.open_questions.items()):
            given = (answers or {}).get(name)
            if isinstance(given, Mapping) and not future.done():
                del self.open_questions[name]
                future.set_result(dict(given))

    async def next(self) -> dict[str, dict[str, Any]] | None:
        """The questions that wait for the client, or None when the call has ended."""
        if self.work is None:
            return None
        while not self.work.done():
            if self.open_questions:
                return {name: question for name, (question, _) in self.open_questions.items()}
            self.news.clear()
            news = asyncio.ensure_future(self.news.wait())
            try:
                await asyncio.wait({news, self.work}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
        return None


class ParkingLot:
    """The calls of an event loop that wait for their clients."""

    def __init__(self, process: str = "") -> None:
        self.process = process
        self._parked: dict[str, Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def keep(self, parked: Parked) -> None:
        """Let a call wait; raises RateLimited where its caller or its organisation has too many that do."""
        if parked.id:
            return
        self._sweep()
        if not self._has_room(parked):
            raise RateLimited(
                "Too many calls wait for answers to their questions. Answer those of yours, or let them expire.",
                details={"retry_after": 30},
            )
        parked.id = f"{self.process}.{secrets.token_hex(12)}"
        self._parked[parked.id] = parked
        self._look_after(STATE_SECONDS, parked)

    def _has_room(self, parked: Parked) -> bool:
        of_all = list(self._parked.values())
        of_organization = [each for each in of_all if each.organization_id == parked.organization_id]
        of_caller = sum(each.caller == parked.caller for each in of_organization)
        return of_caller < MOST_PARKED_OF_ONE and all(
            len(waiting) < MOST_PARKED // parts
            and sum(each.size for each in waiting) + parked.size <= MOST_PARKED_BYTES // parts
            for waiting, parts in ((of_organization, 2), (of_all, 1))
        )

    def find(self, caller: str, parked_id: str) -> Parked | None:
        """The caller's own call."""
        found = self._parked.get(parked_id)
        if found is None or found.caller != caller:
            return None
        found.touched_at = time.monotonic()
        return found

    def end(self, parked: Parked) -> None:
        """It needs no place any more; work that goes on is ended."""
        self._parked.pop(parked.id, None)
        if parked.expiry is not None:
            parked.expiry.cancel()  # a timer keeps what it is about, the result included
        if parked.work is not None and not parked.work.done():
            parked.work.cancel()
        if parked.share is not None:
            parked.share.release()

    def end_all(self) -> None:
        """The end of the server."""
        for parked in list(self._parked.values()):
            self.end(parked)

    def _expire(self, parked: Parked) -> None:
        if parked.id not in self._parked:
            return
        left = parked.touched_at + STATE_SECONDS - time.monotonic()
        if left <= 1:
            self.end(parked)
        else:
            self._look_after(left, parked)

    def _look_after(self, seconds: float, parked: Parked) -> None:
        loop = asyncio.get_running_loop()
        parked.expiry = loop.call_later(seconds, self._expire, parked, context=contextvars.Context())

    def _sweep(self) -> None:
        for parked in [each for each in self._parked.values() if each.work is not None and each.work.done()]:
            self.end(parked)


_lots: dict[asyncio.AbstractEventLoop, ParkingLot] = {}


def parking_lot() -> ParkingLot:
    """That of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _lots:
        for old in [known for known in _lots if known.is_closed()]:
            del _lots[old]
        _lots[loop] = ParkingLot()
    return _lots[loop]


def _seen(work: "asyncio.Task[dict[str, Any]]") -> None:
    """A call that fails while its client is away, and never comes back, is no error of ours, unless it is one."""
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, ServiceError | Misbehaved | registry.Unanswered):
        logger.error("A call that waited failed.", exc_info=error)


async def park(ask: Ask, place: Place, start: Callable[[Parked], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Carry a call of a client of 2026-07-28 to a server of the older era: until it ends, or asks something.

    `start` makes the call, whose questions go to the parked call's `asked`.
    """
    lot = parking_lot()
    if ask.request_state is not None:
        found = lot.find(place.caller, open_state(place, ask.request_state).parked)
        if found is None:
            raise _call_has_ended()
        parked = found
        parked.comes(ask)
        parked.answer(ask.input_responses)
    else:
        parked = Parked(place.caller, place.organization_id)
        parked.comes(ask)
        parked.work = asyncio.ensure_future(start(parked))
        parked.work.add_done_callback(_seen)
    try:
        questions = await parked.next()
        if questions is not None:
            lot.keep(parked)
            parked.leaves()
            return {
                "resultType": INPUT_REQUIRED, "inputRequests": questions,
                "requestState": seal_state(place, parked=parked.id),
            }  # fmt: skip
    except BaseException:
        lot.end(parked)
        raise
    held = parked.share.size if parked.share is not None else 0
    lot.end(parked)
    if ask.share is not None:
        ask.share.take(held)  # from here on the last round holds it
    assert parked.work is not None  # noqa: S101 - it has ended
    if parked.work.cancelled():  # by another request that continued it, or by the end of its time; not ours
        raise _call_has_ended()
    return parked.work.result()


def _call_has_ended() -> InvalidInput:
    return InvalidInput.for_field("requestState", "The call that this continues has ended. Begin it again.")
