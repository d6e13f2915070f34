"""What clients are told unasked: that a list of theirs looks different, that a resource has changed."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from apps.core.actor import Actor
from apps.core.errors import ServiceError
from apps.gateway import services as gateway
from config.mcp_messages import META, SUBSCRIPTION_ID, Message, call_message, malformed
from config.mcp_sessions import UPDATED

CHANGES: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "toolsListChanged": ("notifications/tools/list_changed", ("tools",)),
    "promptsListChanged": ("notifications/prompts/list_changed", ("prompts",)),
    "resourcesListChanged": ("notifications/resources/list_changed", ("resources", "templates")),
}
"""What a subscription of 2026-07-28 names, the notice that tells it, and the lists that it is about."""


class Put(Protocol):
    """Sends a message to a client."""

    def __call__(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Whether somebody takes it."""


@dataclass(slots=True)
class Changes:
    """What one caller's lists looked like, and whom to tell when one looks different; what they still may hear of."""

    bundle: str
    kinds: Mapping[str, tuple[Any, ...]]
    tell: Callable[[str], None]
    subscriptions: gateway.Subscriptions | None = None
    _seen: dict[str, tuple[str, ...]] | None = None

    async def look(self, actor: Actor) -> None:
        """Tell what has changed since the last look, and hear no more of what the actor has lost."""
        if self.subscriptions is not None:
            await self.subscriptions.keep_allowed(actor, bundle=self.bundle)
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

    @classmethod
    async def begin(cls, actor: Actor, message: Message, bundle: str, put: Put) -> "Telling":
        """Acknowledge what will be told; raises RpcError. Nothing comes before the acknowledgement."""
        wanted, meta = message.params.get("notifications"), {SUBSCRIPTION_ID: message.id}
        if not isinstance(wanted, dict):
            raise malformed("subscriptions/listen takes notifications, an object.")

        def tell(method: str, **params: Any) -> None:
            put(call_message(method, {**params, "_meta": meta}), may_be_dropped=True)

        honoured: dict[str, Any] = {name: True for name in CHANGES if wanted.get(name) is True}
        subscriptions = gateway.Subscriptions(lambda uri: tell(UPDATED, uri=uri))
        try:
            heard = await _add_all(subscriptions, actor, message, bundle)
            tell(
                "notifications/subscriptions/acknowledged",
                notifications={**honoured, "resourceSubscriptions": heard} if heard else honoured,
            )
            changes = Changes(bundle, dict(CHANGES[name] for name in honoured), tell, subscriptions)
            await changes.look(actor)
        except BaseException:
            subscriptions.close()
            raise
        return cls(changes, subscriptions)

    def end(self) -> None:
        """Tell nothing any more."""
        self.subscriptions.close()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


async def _add_all(subscriptions: gateway.Subscriptions, actor: Actor, message: Message, bundle: str) -> list[str]:
    """Subscribe to what the caller may read; the rest is left out of what is acknowledged."""
    uris = message.params["notifications"].get("resourceSubscriptions")
    silent = gateway.Silent(is_modern=True, capabilities=_mapping(message.meta.get(META + "clientCapabilities")))
    ask = gateway.Ask(silent, bundle=bundle)
    heard: list[str] = []
    for uri in uris if isinstance(uris, list) else []:
        with suppress(ServiceError):
            if isinstance(uri, str):
                await subscriptions.add(actor, uri, ask)
                heard.append(uri)
    return heard
