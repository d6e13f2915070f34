"""Resources that clients want to hear of: what they subscribed to, and who listens upstream for it.

A client of any revision is told of a server of any other: servers before 2026-07-28 are asked resource by resource and
tell on their session; those of 2026-07-28 have a stream that says at its beginning which resources it is about.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import DatabaseError

from apps.core.actor import Actor
from apps.core.errors import NotPermitted, RateLimited, ServiceError
from apps.gateway.services.asking import Ask
from apps.gateway.services.catalogue import view_for
from apps.gateway.services.errands import caller_of
from apps.gateway.services.offers import UnknownResource, action_of
from apps.gateway.services.pool import upstreams
from apps.gateway.services.views import Found, View
from apps.gateway.services.ways import Caller
from apps.policies.services import decide
from apps.registry import services as registry

logger = logging.getLogger(__name__)
MOST_RESOURCES = 200
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
UPDATED = "notifications/resources/updated"


@dataclass(eq=False, slots=True)
class _OfServer:
    """What one client wants to hear of one server."""

    server_id: UUID
    revision: int
    caller: Caller
    tell: Callable[[str], None]
    is_modern: bool
    uris: dict[str, str] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """A resource has changed: tell the client by the URI that it knows."""
        uri = params.get("uri")
        if method != UPDATED or not isinstance(uri, str):
            return
        # A server may tell of a part of what was subscribed to.
        for own, listed in self.uris.items():
            if uri == own or uri.startswith(f"{own.rstrip('/')}/"):
                self.tell(listed.removesuffix(own) + uri)
                return

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Nobody is asked outside of a call."""
        raise registry.Refused(-32601, "Clients are asked only while a call of theirs is carried out.")

    def is_in(self, view: View, own: str, listed: str) -> bool:
        """Whether a view leads from the URI that the client knows to the one of this server."""
        try:
            found = view.find_resource(listed)
        except UnknownResource:
            return False
        return found.uri == own and found.offer.upstream.server_id == self.server_id

    async def ask(self, method: str, uri: str) -> None:
        """Subscribe at a server of the older era, or take it back."""
        await upstreams().request(self.server_id, self.revision, self.caller, method, {"uri": uri})

    def listen_anew(self) -> None:
        """Listen for what is wanted now."""
        if self.task is not None and (self.is_modern or not self.uris):
            self.task.cancel()
            self.task = None
        if self.uris and (self.task is None or self.task.done()):
            self.task = asyncio.get_running_loop().create_task(self._listen(), context=contextvars.Context())

    async def _listen(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            notices = {"notifications": {"resourceSubscriptions": list(self.uris)}} if self.is_modern else {}
            with suppress(ServiceError, DatabaseError):
                await upstreams().listen(self.server_id, self.revision, self.caller, notices, self)
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            if not self.is_modern:
                # Another session: it knows nothing of what the one before was asked for.
                with suppress(ServiceError, DatabaseError):
                    for uri in list(self.uris):
                        await self.ask("resources/subscribe", uri)


class Subscriptions:
    """The resources that one client has subscribed to; `tell` is given the URI of one that has changed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._servers: dict[UUID, _OfServer] = {}
        self._checked: View | None = None

    async def add(self, actor: Actor, uri: str, ask: Ask) -> None:
        """Subscribe to a resource; raises UnknownResource, NotPermitted, RateLimited or what the server says."""
        view = await view_for(actor, bundle=ask.bundle)
        found = view.find_resource(uri)
        _check(actor, found)
        self._require_room()
        server_id = found.offer.upstream.server_id
        route = await upstreams().route(server_id, view.revision)
        of_server = self._servers.get(server_id)
        if of_server is None:
            caller = caller_of(actor, ask.client)
            of_server = _OfServer(server_id, view.revision, caller, self._tell, route.is_modern)
            self._servers[server_id] = of_server
        if not route.is_modern:
            await of_server.ask("resources/subscribe", found.uri)
        self._require_room()  # others of this client may have come while the server was asked
        of_server.uris[found.uri] = uri
        self._checked = None  # what was seen before may not be what holds now
        of_server.listen_anew()

    def _require_room(self) -> None:
        if sum(len(each.uris) for each in self._servers.values()) >= MOST_RESOURCES:
            raise RateLimited(f"A client may subscribe to {MOST_RESOURCES} resources. Take some back first.")

    async def remove(self, actor: Actor, uri: str, ask: Ask) -> None:
        """Take a subscription back; one that there is not is no error."""
        for of_server in self._servers.values():
            for own, listed in list(of_server.uris.items()):
                if listed == uri:
                    del of_server.uris[own]
                    if not of_server.is_modern:
                        with suppress(ServiceError):
                            await of_server.ask("resources/unsubscribe", own)
                    of_server.listen_anew()

    async def keep_allowed(self, actor: Actor, *, bundle: str) -> None:
        """Hear no more of what the actor may not read any more, or what is not offered any more."""
        view = await view_for(actor, bundle=bundle)
        if view is self._checked:
            return
        self._checked = view
        for of_server in list(self._servers.values()):
            gone = [own for own, listed in of_server.uris.items() if not of_server.is_in(view, own, listed)]
            for own in gone:
                del of_server.uris[own]
            if gone:
                of_server.listen_anew()

    def close(self) -> None:
        """Hear of nothing any more; sessions with servers end by themselves."""
        for of_server in self._servers.values():
            of_server.uris.clear()
            of_server.listen_anew()
        self._servers.clear()


def _check(actor: Actor, found: Found) -> None:
    decision = decide(actor, action_of(found.offer), found.offer.resource)
    if not decision.allowed:
        raise NotPermitted(f"{found.offer.name} was not subscribed to: {decision.reason}")
