"""What this process holds about one server: the way to it, and the links that are open on it.

A link is one opened upstream:

- one for all callers of a server without sessions: a shared stdio process, or HTTP in revision 2026-07-28;
- else one for each downstream session, closed with it or when idle;
- else, for callers without sessions before a server with sessions, one for each key and for what its callers can be
  asked, for a short while.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.core.errors import BackendError, BackendTimeout, RateLimited
from apps.gateway.services.agreement import Agreement, Start
from apps.gateway.services.asking import LOG_LEVELS, Client, Silent, what_may_be_asked
from apps.gateway.services.breaker import Breaker
from apps.gateway.services.hearing import BesideCalls
from apps.gateway.services.outages import Paused, busy, is_outage
from apps.gateway.services.slots import Absent, ChecksFirst, Slot, Slots
from apps.registry import services as registry

SESSION_IDLE_SECONDS = 300.0
KEY_IDLE_SECONDS = 60.0
HEALTHY_LIFE_SECONDS = 60.0
MOST_DOUBLINGS = 16


@dataclass(slots=True)
class Caller:
    """Whose call it is, as far as it decides which link may carry it."""

    session_id: str | None
    key: str
    client: Client = field(default_factory=Silent, compare=False)
    link: "Link | None" = field(default=None, compare=False)
    """The link that carries all of its calls, where that is settled, for as long as it is open."""


@dataclass(slots=True, eq=False)
class Link:
    """One upstream, opened for the first call and used by all that may share it."""

    place: str
    idle_seconds: float
    upstream: registry.Upstream
    is_child: bool
    organization_id: UUID
    opening: "asyncio.Task[Any] | None" = None
    opened_at: float = 0.0
    in_use: int = 0
    last_used: float = 0.0
    is_retired: bool = False
    closing: "asyncio.Task[None] | None" = None
    log_level: str = ""
    beside: BesideCalls | None = None
    """Who answers what the server asks on no call's own stream, where a client can be asked at all."""
    unsent: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Notifications of the client that the server has not been sent yet, by method."""
    is_sending: bool = False

    @property
    def is_opening(self) -> bool:
        """Whether it is not known yet if the link can be opened."""
        return self.opening is not None and not self.opening.done()

    def should_hear_level(self, level: str) -> bool:
        """Whether the server should hear of a level of its log: what a session wants, else the most that anybody wants.

        Each caller is shown what they want of it.
        """
        if self.place.startswith("session:"):
            return level != self.log_level
        if level not in LOG_LEVELS:
            return False
        return not self.log_level or LOG_LEVELS.index(level) < LOG_LEVELS.index(self.log_level)

    def queue_notification(self, method: str, params: Mapping[str, Any]) -> bool:
        """Keep it to be sent, once however often it is repeated before; whether somebody has to begin with that."""
        self.unsent[method] = params
        has_to_begin, self.is_sending = not self.is_sending, True
        return has_to_begin

    async def send_notifications(self) -> None:
        """Send the server all that is queued."""
        try:
            while self.unsent:
                await self.upstream.notify(*self.unsent.popitem())
        finally:
            self.unsent.clear()
            self.is_sending = False

    def begin(self, call: registry.Listener | None) -> None:
        """A call is under way, on whose behalf its client may be asked."""
        if call is not None and self.beside is not None:
            self.beside.begin(call)

    def end(self, call: registry.Listener | None) -> None:
        """It has ended."""
        if call is not None and self.beside is not None:
            self.beside.end(call)

    def has_ended(self, error: BackendError) -> bool:
        """Whether the link is of no use after this. A timeout is no proof: others may be served well meanwhile."""
        if self.opening is None and not self.upstream.is_open:
            return True
        return not self.is_child and not isinstance(error, registry.UpstreamError | BackendTimeout)


@dataclass(frozen=True, slots=True)
class OpenLinks:
    """How many links to servers are open, and how many stdio children run."""

    upstreams: int
    children: int


def child_in_the_way(route: registry.ServerRoute, children: Collection[Link]) -> Link | None:
    """The idle child that has to end so that one more may run; None where there is room. Raises RateLimited."""
    most: int = settings.STDIO_MAX_PROCESSES
    own = [link for link in children if link.organization_id == route.organization_id]
    if len(own) < max(1, most // 2) and len(children) < most:
        return None
    crowd = own if len(own) >= max(1, most // 2) else list(children)
    idle = [link for link in crowd if not link.in_use and not link.is_retired and not link.is_opening]
    if not idle:
        raise RateLimited(
            f"The server {route.slug} cannot be started: all {len(crowd)} processes that may run for stdio servers"
            " are at work. Try again in a moment, or ask the operator to raise GATEHOUSE_STDIO_MAX_PROCESSES.",
            details={"retry_after": 1, "server": route.slug},
        )
    return min(idle, key=lambda link: link.last_used)


class Way:
    """All that this process holds about one server."""

    def __init__(self, route: registry.ServerRoute, revision: int, start: Start, absent: Absent) -> None:
        self._start = start
        self._absent = absent
        self.links: dict[str, Link] = {}
        self.crashes = 0
        self.start_after = 0.0
        self.slots = Slots(route.max_concurrency)
        self._begin(route, revision)

    def take_route(self, route: registry.ServerRoute, revision: int) -> None:
        """Use this route from now on; what was known of the old one's failures does not count against it.

        Calls that are still under way count where it leads to the same place.
        """
        if route.reaches == self.route.reaches:
            self.slots.resize(route.max_concurrency)
        else:
            self.slots = Slots(route.max_concurrency)
        self._begin(route, revision)

    def _begin(self, route: registry.ServerRoute, revision: int) -> None:
        self.route = route
        self.revision = revision
        self.breaker = Breaker(route.slug, is_outage=is_outage)
        self.agreement = Agreement(route, self.breaker, self._start)

    def place_of(self, caller: Caller) -> tuple[str, float]:
        """Which link may carry the caller's calls, and how long it stays without any."""
        route = self.route
        is_child = route.transport == "stdio"
        if not route.isolate_sessions and (is_child or route.is_modern):
            return "shared", settings.STDIO_IDLE_SECONDS if is_child else SESSION_IDLE_SECONDS
        if caller.session_id:
            return f"session:{caller.session_id}", settings.STDIO_IDLE_SECONDS if is_child else SESSION_IDLE_SECONDS
        return f"key:{caller.key}:{what_may_be_asked(caller.client.capabilities)}", KEY_IDLE_SECONDS

    @asynccontextmanager
    async def slot(self, caller: Caller, deadline: float, listener: ChecksFirst | None) -> AsyncIterator[Slot]:
        """One of the calls that the server takes at the same time; raises Busy where none is free in time."""
        slots = self.slots
        if not await slots.take(deadline):
            raise busy(self.route)
        slot = Slot(slots, self._absent, (self.route.organization_id, caller.key), listener)
        try:
            yield slot
        finally:
            slot.end()

    @asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        """Where a call is the probe of a server that failed, see that no other process sends one at the same time."""
        agreement, changes = self.agreement, self.agreement.changes
        if not self.breaker.is_half_open:
            yield
            return
        await agreement.claim()
        try:
            yield
        finally:
            agreement.release(changes)

    def count_crash(self, now: float, lived: float) -> None:
        """Remember that a child ended by itself; each further one in a row is started after a longer pause.

        The pause is never longer than the breaker's: whatever was repaired is in use again as soon as any server.
        """
        self.crashes = 1 if lived > HEALTHY_LIFE_SECONDS else self.crashes + 1
        doubled = 2.0 ** min(self.crashes - 2, MOST_DOUBLINGS)
        pause = 0.0 if self.crashes == 1 else min(settings.BREAKER_OPEN_SECONDS, doubled)
        self.start_after = now + pause

    def state(self, now: float) -> registry.BreakerOut:
        """How the breaker stands, and whether a child that kept crashing waits for its next start."""
        breaker, pause = self.breaker, self.start_after - now
        return registry.BreakerOut(
            state="half_open" if breaker.is_half_open else "open" if breaker.is_open else "closed",
            failures=breaker.failures,
            retry_after_seconds=math.ceil(breaker.wait_seconds) if breaker.wait_seconds > 0 else None,
            crashes=self.crashes,
            restart_after_seconds=math.ceil(pause) if pause > 0 else None,
        )

    def check_pause(self, now: float) -> None:
        """Raise Paused while a child that kept crashing must wait for its next start."""
        wait = self.start_after - now
        if wait > 0:
            seconds = max(1, round(wait))
            raise Paused(
                f"The process of the server {self.route.slug} ended by itself {self.crashes} times in a row."
                f" It is started again in {seconds} s; an admin can look at it under Servers.",
                details={"server": self.route.slug, "retry_after": seconds},
            )
