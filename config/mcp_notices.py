"""What clients are told unasked: that a list of theirs looks different, that a resource has changed."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from apps.core.actor import Actor
from apps.core.errors import ServiceError
from apps.gateway import services as gateway
from config.mcp_messages import META, SUBSCRIPTION_ID, Message, call_message, malformed
from config.mcp_methods import needs_tasks
from config.mcp_sessions import UPDATED, Session

TASK_CHANGED = "notifications/tasks"
MOST_EARLY = 200
FIRST_ANSWERS_SECONDS = 10.0
"""How long the acknowledgement waits for servers that are asked to tell of a resource."""

CHANGES: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "toolsListChanged": ("notifications/tools/list_changed", ("tools",)),
    "promptsListChanged": ("notifications/prompts/list_changed", ("prompts",)),
    "resourcesListChanged": ("notifications/resources/list_changed", ("resources", "templates")),
}
"""What a subscription of 2026-07-28 names, the notice that tells it, and the lists that it is about."""


class Outlet(Protocol):
    """Sends messages to a client."""

    @property
    def is_read(self) -> bool:
        """Whether everything has been sent."""

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Whether somebody takes it."""


@dataclass(slots=True)
class Changes:
    """What one caller's lists looked like, and whom to tell when one looks different; what they still may hear of."""

    bundle: str
    kinds: Mapping[str, tuple[Any, ...]]
    tell: Callable[[str], None]
    subscriptions: gateway.Subscriptions | None = None
    following: gateway.Following | None = None
    seen: dict[str, tuple[str, ...]] = field(default_factory=dict)

    async def look(self, actor: Actor) -> None:
        """Tell what has changed since the last look, and hear no more of what the actor has lost."""
        if self.subscriptions is not None:
            await self.subscriptions.keep_allowed(actor, bundle=self.bundle)
        if self.following is not None:
            self.following.actor = actor
        if not self.kinds:
            return
        view = await gateway.view_for(actor, bundle=self.bundle)
        now = {method: tuple(view.fingerprint(kind) for kind in kinds) for method, kinds in self.kinds.items()}
        changed = [method for method in self.kinds if self.seen.get(method, now[method]) != now[method]]
        self.seen.update(now)
        for method in changed:
            self.tell(method)


def changes_of(session: Session) -> Changes:
    """The lists of a session, and what its client was last told of them, on whichever stream."""
    return Changes(session.bundle, dict(CHANGES.values()), session.tell, session.subscriptions, seen=session.seen_lists)


class Telling:
    """One `subscriptions/listen`: what was acknowledged, and what is told from then on. Raises RpcError."""

    def __init__(self, actor: Actor, message: Message, bundle: str, outlet: Outlet) -> None:
        wanted = message.params.get("notifications")
        if not isinstance(wanted, dict):
            raise malformed("subscriptions/listen takes notifications, an object.")
        self._wanted: Mapping[str, Any] = wanted
        self._outlet = outlet
        self._meta = {SUBSCRIPTION_ID: message.id}
        silent = gateway.Silent(is_modern=True, capabilities=_mapping(message.meta.get(META + "clientCapabilities")))
        self._ask = gateway.Ask(silent, bundle=bundle)
        if wanted.get("taskIds") and not gateway.takes_tasks(silent):
            raise needs_tasks()
        self._actor = actor
        self._early: dict[str, None] | None = {}
        """The resources that changed before the acknowledgement; None: it has been sent."""
        self._subscriptions = gateway.Subscriptions(self._tell_updated)
        self._following = gateway.Following(actor, self._ask, self._tell_state, lambda: outlet.is_read)
        self.changes = Changes(bundle, {}, self._tell, self._subscriptions, self._following)

    async def begin(self) -> None:
        """Acknowledge what will be told, as soon as that is known. Nothing comes before the acknowledgement."""
        wanted, actor = self._wanted, self._actor
        honoured: dict[str, Any] = {name: True for name in CHANGES if wanted.get(name) is True}
        self.changes.kinds = dict(CHANGES[name] for name in honoured)
        uris, task_ids = await asyncio.gather(
            self._subscribe_all(actor, _texts(wanted, "resourceSubscriptions")),
            self._following.add(_texts(wanted, "taskIds")),
        )
        lists = {"resourceSubscriptions": uris, "taskIds": task_ids}
        honoured.update({name: heard for name, heard in lists.items() if heard})
        self._tell("notifications/subscriptions/acknowledged", notifications=honoured)
        early, self._early = self._early, None
        for uri in early or ():
            self._tell_updated(uri)
        self._following.begin()
        await self.changes.look(actor)

    async def _subscribe_all(self, actor: Actor, uris: list[str]) -> list[str]:
        """Subscribe to what the caller may read, and to what servers agree to within seconds.

        The rest is left out of what is acknowledged, and so is what is beyond the most that a client may subscribe to.
        """
        chosen = list(dict.fromkeys(uris))[: gateway.MOST_RESOURCES]
        works: dict[str, asyncio.Task[bool]] = {}
        try:
            for uri in chosen:
                works[uri] = asyncio.ensure_future(self._subscribe(actor, uri))
                await asyncio.sleep(0)  # to hold a URI against templates takes time: others are served in between
            if works:
                await asyncio.wait(works.values(), timeout=FIRST_ANSWERS_SECONDS)
            return [uri for uri, work in works.items() if work.done() and work.result()]
        finally:
            for work in works.values():
                work.cancel()

    async def _subscribe(self, actor: Actor, uri: str) -> bool:
        with suppress(ServiceError):
            await self._subscriptions.add(actor, uri, self._ask)
            return True
        return False

    def _tell(self, method: str, **params: Any) -> None:
        self._outlet.put(call_message(method, {**params, "_meta": self._meta}), may_be_dropped=True)

    def _tell_updated(self, uri: str) -> None:
        if self._early is None:
            self._tell(UPDATED, uri=uri)
        elif len(self._early) < MOST_EARLY:
            self._early[uri] = None

    def _tell_state(self, state: Mapping[str, Any]) -> bool:
        """A task's state may be long, and is told once: it waits until the client has read what came before."""
        told = {name: value for name, value in state.items() if name != "resultType"}
        notice = call_message(TASK_CHANGED, {**told, "_meta": {**state.get("_meta", {}), **self._meta}})
        return self._outlet.put(notice, may_be_dropped=not self._outlet.is_read)

    def end(self) -> None:
        """Tell nothing any more."""
        self._subscriptions.close()
        self._following.close()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(wanted: Mapping[str, Any], name: str) -> list[str]:
    found = wanted.get(name)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
