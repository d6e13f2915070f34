"""What clients are told unasked: that a list of theirs looks different, that a resource has changed."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from apps.core.actor import Actor
from apps.core.errors import ServiceError
from apps.gateway import services as gateway
from config.mcp_messages import META, SUBSCRIPTION_ID, Message, call_message, malformed
from config.mcp_methods import needs_tasks
from config.mcp_sessions import UPDATED

TASK_CHANGED = "notifications/tasks"

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
    _seen: dict[str, tuple[str, ...]] | None = None

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
        for method in self.kinds if self._seen is not None else ():
            if self._seen and self._seen[method] != now[method]:
                self.tell(method)
        self._seen = now


@dataclass(slots=True)
class Telling:
    """One `subscriptions/listen`: what was acknowledged, and what is told from then on."""

    changes: Changes
    subscriptions: gateway.Subscriptions
    following: gateway.Following

    @classmethod
    async def begin(cls, actor: Actor, message: Message, bundle: str, outlet: Outlet) -> "Telling":
        """Acknowledge what will be told; raises RpcError. Nothing comes before the acknowledgement."""
        wanted, meta = message.params.get("notifications"), {SUBSCRIPTION_ID: message.id}
        if not isinstance(wanted, dict):
            raise malformed("subscriptions/listen takes notifications, an object.")
        silent = gateway.Silent(is_modern=True, capabilities=_mapping(message.meta.get(META + "clientCapabilities")))
        if wanted.get("taskIds") and not gateway.takes_tasks(silent):
            raise needs_tasks()
        ask = gateway.Ask(silent, bundle=bundle)

        def tell(method: str, **params: Any) -> None:
            outlet.put(call_message(method, {**params, "_meta": meta}), may_be_dropped=True)

        def tell_state(state: Mapping[str, Any]) -> bool:
            """A state may be long, and is told once: it waits until the client has read what came before."""
            told = {name: value for name, value in state.items() if name != "resultType"}
            notice = call_message(TASK_CHANGED, {**told, "_meta": {**state.get("_meta", {}), **meta}})
            return outlet.put(notice, may_be_dropped=not outlet.is_read)

        honoured: dict[str, Any] = {name: True for name in CHANGES if wanted.get(name) is True}
        subscriptions = gateway.Subscriptions(lambda uri: tell(UPDATED, uri=uri))
        following = gateway.Following(actor, ask, tell_state)
        try:
            if uris := [
                uri for uri in _texts(wanted, "resourceSubscriptions") if await _add(subscriptions, actor, uri, ask)
            ]:
                honoured["resourceSubscriptions"] = uris
            if task_ids := [task_id for task_id in _texts(wanted, "taskIds") if await following.add(task_id)]:
                honoured["taskIds"] = task_ids
            tell("notifications/subscriptions/acknowledged", notifications=honoured)
            following.begin()
            changes = Changes(
                bundle,
                {CHANGES[name][0]: CHANGES[name][1] for name in CHANGES if name in honoured},
                tell,
                subscriptions,
                following,
            )
            await changes.look(actor)
        except BaseException:
            subscriptions.close()
            following.close()
            raise
        return cls(changes, subscriptions, following)

    def end(self) -> None:
        """Tell nothing any more."""
        self.subscriptions.close()
        self.following.close()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(wanted: Mapping[str, Any], name: str) -> list[str]:
    found = wanted.get(name)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


async def _add(subscriptions: gateway.Subscriptions, actor: Actor, uri: str, ask: gateway.Ask) -> bool:
    """Subscribe to what the caller may read; the rest is left out of what is acknowledged."""
    with suppress(ServiceError):
        await subscriptions.add(actor, uri, ask)
        return True
    return False
