"""The ways to all servers that this process holds open, with what keeps one of them from harming the others.

Everything here belongs to one event loop: an HTTP pool cannot be shared between loops. A server has one `Way`, with
its breaker, its limit of calls at the same time and its open links.
"""

import asyncio
import contextvars
import logging
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from apps.core import budget
from apps.core.errors import BackendDown, BackendError, BackendTimeout, ServiceError
from apps.core.threads import in_thread
from apps.gateway.services.asking import Client, told_to_servers, what_may_be_asked
from apps.gateway.services.hearing import BesideCalls
from apps.gateway.services.outages import busy, crowded, named
from apps.gateway.services.slots import Absent, ChecksFirst
from apps.gateway.services.ways import Caller, Link, OpenLinks, Way, child_in_the_way
from apps.registry import services as registry

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 10.0


class Upstreams:
    """The ways to all servers, for one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ways: dict[UUID, Way] = {}
        self._children: set[Link] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reading: dict[UUID, asyncio.Task[Way]] = {}
        self._absent = Absent()

    async def request(
        self, server_id: UUID, revision: int, caller: Caller, method: str, params: Mapping[str, Any],
        *, listener: ChecksFirst | None = None, patience_seconds: float = 0.0,
    ) -> tuple[dict[str, Any], registry.ServerRoute]:  # fmt: skip
        """Make one request to a server and give its result with the route it took.

        It ends within the route's time limit, whatever the server does. One with `patience_seconds` only waits for what
        another has begun: the server has that long, and takes other calls meanwhile. Raises BackendDown,
        BackendTimeout, BackendError (all naming the server), UpstreamError, or RateLimited when no further child may be
        started.
        """
        way = await self._way(server_id, revision)
        deadline = self._loop.time() + way.route.timeout_seconds
        way.agreement.look()
        try:
            way.breaker.check()
            async with way.slot(caller, deadline, listener) as slot, way.probing():
                hears = slot if listener else None
                if patience_seconds:
                    slot.leave()
                with way.breaker.guard():
                    result = await self._send(
                        way, caller, method, params, deadline, listener=hears, patience_seconds=patience_seconds
                    )
                    return result, way.route
        except BackendError as error:
            if way.breaker.is_open:
                self._retire_idle(way)
            if error.details.get("server"):
                raise
            raise named(error, way.route) from error

    async def route(self, server_id: UUID, revision: int) -> registry.ServerRoute:
        """The way to a server as it is at this revision, at least."""
        return (await self._way(server_id, revision)).route

    async def listen(
        self, server_id: UUID, revision: int, caller: Caller, notices: Mapping[str, Any], listener: registry.Listener
    ) -> None:
        """Hear what a server says unasked on the caller's own link, until it ends or this is cancelled."""
        way = await self._way(server_id, revision)
        link = self._link(way, caller)
        link.in_use += 1
        try:
            await self._opened(way, link, self._loop.time() + way.route.timeout_seconds)
            await link.upstream.listen(notices, listener)
        finally:
            self._is_done_with(link)

    async def keep(
        self, server_id: UUID, revision: int, caller: Caller, listener: registry.Listener | None = None
    ) -> Caller:
        """The caller with their link settled: it stays open until `release`, also where its session ends meanwhile.

        Until then the listener is asked what the server asks on no request's own stream.
        """
        link = self._link(await self._way(server_id, revision), caller)
        link.in_use += 1
        link.begin(listener)
        return replace(caller, link=link)

    def release(self, caller: Caller, listener: registry.Listener | None = None) -> None:
        """The end of `keep`."""
        if caller.link is not None:
            caller.link.end(listener)
            self._is_done_with(caller.link)

    def close_session(self, session_id: str) -> None:
        """Close what was opened for a downstream session that has ended; returns at once."""
        for way in self._ways.values():
            link = way.links.get(f"session:{session_id}")
            if link is not None:
                self._retire(way, link)

    def notify_servers(self, session_id: str, method: str, params: Mapping[str, Any]) -> None:
        """Pass a client's notification on to the servers that its session has been opened on; returns at once."""
        for way in self._ways.values():
            link = way.links.get(f"session:{session_id}")
            if link is not None and not link.is_opening and link.queue_notification(method, params):
                self._start(link.send_notifications())

    def keep_only(self, organization_id: UUID, server_ids: frozenset[UUID]) -> None:
        """Close what is open to servers of the organisation that its agents may not use any more."""
        for server_id, way in list(self._ways.items()):
            if way.route.organization_id == organization_id and server_id not in server_ids:
                self._retire_all(way)
                del self._ways[server_id]

    async def aclose(self) -> None:
        """Close everything and wait until no process is left."""
        for way in self._ways.values():
            self._retire_all(way, even_in_use=True)
        self._ways.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def children(self) -> int:
        """How many stdio processes run, or start, or end."""
        return len(self._children)

    def count(self, organization_id: UUID | None) -> "OpenLinks":
        """What is open for an organisation, or for all of them; any thread may ask."""
        links = [link for way in list(self._ways.values()) for link in list(way.links.values())]
        mine = [link for link in links if organization_id in (None, link.organization_id)]
        children = [link for link in list(self._children) if organization_id in (None, link.organization_id)]
        return OpenLinks(len(mine), len(children))

    def state_of(self, server_id: UUID) -> "registry.BreakerOut | None":
        """How the breaker of a server stands, if a call has gone there; any thread may ask."""
        way = self._ways.get(server_id)
        return way.state(self._loop.time()) if way else None

    # -- one call

    async def _send(
        self, way: Way, caller: Caller, method: str, params: Mapping[str, Any], deadline: float,
        *, listener: registry.Listener | None = None, patience_seconds: float = 0.0,
    ) -> dict[str, Any]:  # fmt: skip
        given = deadline - self._loop.time()
        link = self._link(way, caller)
        link.in_use += 1
        try:
            await self._opened(way, link, deadline)
            left = deadline - self._loop.time()
            if left <= 0:
                raise BackendTimeout()
            if link.should_hear_level(caller.client.log_level):
                await self._tell_log_level(way, link, caller.client.log_level, left)
            link.begin(listener)
            return await link.upstream.request(
                method, params, timeout_seconds=patience_seconds or left, listener=listener,
                capabilities=told_to_servers(caller.client),
            )  # fmt: skip
        except registry.Unanswered:
            raise
        except BackendTimeout as error:
            share = budget.current()
            if share is not None and share.is_held_up:
                raise crowded(way.route) from error
            if given < way.route.timeout_seconds / 2:
                # Most of the time went by in our own queue: that the rest was too short says nothing.
                raise busy(way.route) from error
            raise
        except BackendError as error:
            if link.has_ended(error):
                self._retire(way, link, crashed=link.is_child)
            raise
        finally:
            link.end(listener)
            self._is_done_with(link)

    async def _tell_log_level(self, way: Way, link: Link, level: str, seconds: float) -> None:
        """Pass on how much of a server's log is wanted, where the server can be told once for all that follows."""
        link.log_level = level
        if level and "logging" in way.route.capabilities and not way.route.is_modern:
            with suppress(BackendError):
                await link.upstream.request("logging/setLevel", {"level": level}, timeout_seconds=seconds)

    def _is_done_with(self, link: Link) -> None:
        link.in_use -= 1
        link.last_used = self._loop.time()
        if link.is_retired:
            self._close_when_free(link)

    def _link(self, way: Way, caller: Caller) -> Link:
        if caller.link is not None and (caller.link.is_opening or caller.link.upstream.is_open):
            return caller.link
        place, idle_seconds = way.place_of(caller)
        link = way.links.get(place)
        if link is not None and not link.is_opening and not link.upstream.is_open:
            self._retire(way, link, crashed=link.is_child)
            link = None
        return link or self._new_link(way, place, idle_seconds, caller.client)

    async def _opened(self, way: Way, link: Link, deadline: float) -> None:
        """Wait until the link is open, with everybody else who needs it."""
        opening = link.opening
        if opening is None:
            return
        if not opening.done():
            await asyncio.wait({opening}, timeout=max(0.0, deadline - self._loop.time()))
        if not opening.done():
            raise BackendTimeout()
        error = None if opening.cancelled() else opening.exception()
        if error is not None or opening.cancelled():
            raise error if isinstance(error, ServiceError) else BackendDown() from error
        link.opening = None

    # -- links

    def _new_link(self, way: Way, place: str, idle_seconds: float, client: Client) -> Link:
        route, now = way.route, self._loop.time()
        is_child = route.transport == "stdio"
        first: asyncio.Task[None] | None = None
        if is_child:
            way.check_pause(now)
            first = self._make_room(route)
        own = not place.startswith("shared")  # a shared link speaks for nobody in particular
        beside: BesideCalls | None = None
        if own and not route.is_modern and what_may_be_asked(client.capabilities):
            beside = BesideCalls(is_of_one_client=place.startswith("session:"))
        upstream = registry.connect(
            route, capabilities=told_to_servers(client) if own else {}, client_info=client.info if own else None,
            listener=beside,
        )  # fmt: skip
        link = Link(place, idle_seconds, upstream, is_child, route.organization_id, last_used=now, beside=beside)
        way.links[place] = link
        if is_child:
            self._children.add(link)
        link.opening = self._start(self._open(way, link, first))
        self._watch_idle(way, link)
        return link

    async def _open(self, way: Way, link: Link, first: "asyncio.Task[None] | None") -> None:
        try:
            if first is not None:
                await asyncio.wait({first})
            async with asyncio.timeout(way.route.timeout_seconds):
                await link.upstream.open()
            link.opened_at = self._loop.time()
        except BaseException as error:
            self._retire(way, link, crashed=link.is_child)
            if isinstance(error, TimeoutError):
                raise BackendTimeout() from error
            raise

    def _make_room(self, route: registry.ServerRoute) -> "asyncio.Task[None] | None":
        """See that one more child may run; perhaps an idle one ends first. Raises RateLimited when none can."""
        victim = child_in_the_way(route, self._children)
        if victim is None:
            return None
        way = next(way for way in self._ways.values() if victim in way.links.values())
        self._children.discard(victim)
        self._retire(way, victim)
        return victim.closing

    def _watch_idle(self, way: Way, link: Link) -> None:
        """Close the link once it was idle for long enough; one timer looks when that may be so."""
        if link.is_retired:
            return
        now = self._loop.time()
        wait = link.idle_seconds if link.in_use else link.last_used + link.idle_seconds - now
        if wait <= 0:
            self._retire(way, link)
            return
        self._loop.call_later(wait, self._watch_idle, way, link, context=contextvars.Context())

    def _retire(self, way: Way, link: Link, *, crashed: bool = False) -> None:
        """Give the link to nobody any more, and close it when its last call has ended."""
        if link.is_retired:
            return
        link.is_retired = True
        if way.links.get(link.place) is link:
            del way.links[link.place]
        if crashed:
            now = self._loop.time()
            way.count_crash(now, now - link.opened_at if link.opened_at else 0.0)
        self._close_when_free(link)

    def _retire_idle(self, way: Way) -> None:
        for link in list(way.links.values()):
            if not link.in_use:
                self._retire(way, link)

    def _retire_all(self, way: Way, *, even_in_use: bool = False) -> None:
        for link in list(way.links.values()):
            self._retire(way, link)
            if even_in_use and link.closing is None:
                link.closing = self._start(self._close(link))

    def _close_when_free(self, link: Link) -> None:
        if not link.in_use and link.closing is None:
            link.closing = self._start(self._close(link))

    async def _close(self, link: Link) -> None:
        try:
            if link.opening is not None and not link.opening.done():
                link.opening.cancel()
                await asyncio.wait({link.opening})
            async with asyncio.timeout(CLOSE_SECONDS):
                await link.upstream.aclose()
        except Exception:
            logger.exception("An upstream could not be closed.")
        finally:
            self._children.discard(link)

    # -- ways

    async def _way(self, server_id: UUID, revision: int) -> Way:
        """The way to a server as it is at this revision; a changed route drops what was open before."""
        way = self._ways.get(server_id)
        if way is not None and way.revision >= revision:
            return way
        task = self._reading.get(server_id)
        if task is None:
            task = self._reading[server_id] = self._start(self._read_route(server_id, revision))
            task.add_done_callback(lambda _: self._reading.pop(server_id, None))
        return await asyncio.shield(task)

    async def _read_route(self, server_id: UUID, revision: int) -> Way:
        route = await in_thread(registry.server_route, server_id)
        way = self._ways.get(server_id)
        if way is None:
            way = Way(route, revision, self._start, self._absent)
            await way.agreement.begin()
            self._ways[server_id] = way
        elif way.route == route:
            way.revision = revision
        else:
            self._retire_all(way)
            way.agreement.withdraw()
            way.take_route(route, revision)
        return way

    def _start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task of nobody's request: with an empty context, and awaited at the end."""
        task = self._loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it; asyncio need not warn


_upstreams: dict[asyncio.AbstractEventLoop, Upstreams] = {}


def upstreams() -> Upstreams:
    """What the running event loop holds open."""
    loop = asyncio.get_running_loop()
    found = _upstreams.get(loop)
    if found is None:
        for old in [known for known in _upstreams if known.is_closed()]:
            del _upstreams[old]
        found = _upstreams[loop] = Upstreams()
    return found


def count_open(organization_id: UUID | None) -> OpenLinks:
    """What this process holds open for an organisation, or for all of them; any thread may ask."""
    counts = [found.count(organization_id) for found in list(_upstreams.values())]
    return OpenLinks(sum(each.upstreams for each in counts), sum(each.children for each in counts))


def breaker_state(server_id: UUID) -> registry.BreakerOut:
    """How the breaker of a server stands in this process; any thread may ask. Closed where no call has gone yet."""
    states = [found.state_of(server_id) for found in list(_upstreams.values())]
    return next((state for state in states if state is not None), registry.BreakerOut())


async def close_upstreams() -> None:
    """Close everything that the running event loop holds open; no process is left."""
    found = _upstreams.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.aclose()
