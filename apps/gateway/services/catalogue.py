"""What each caller may use: a snapshot of an organisation's offers, and the views that are made from it.

A snapshot is built from the organisation's revision, which is re-read at most about once a second: lists and calls
touch no database in between. Nothing here asks an upstream.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import NotFound
from apps.core.loader import load
from apps.core.threads import in_thread
from apps.core.toolbox import NativeTool
from apps.gateway.services.offers import Offer, Tool, is_allowed, native_tool, upstream_offer, upstream_tool
from apps.gateway.services.pool import upstreams
from apps.gateway.services.selections import Selection, Shelf, selections_of
from apps.gateway.services.views import View, told_apart
from apps.registry import services as registry

logger = logging.getLogger(__name__)
# A revoked right must hold within one second in every process, the time of reading included.
REREAD_SECONDS = 0.9
FORGET_SECONDS = 600.0
VIEWS_PER_SNAPSHOT = 200
EVERYTHING = ""
"""The endpoint that shows all that a caller may use, among the slugs of bundles."""
INSTRUCTIONS = (
    "Gatehouse shows you the tools that your organisation lets you use, each named server__tool, and prompts and"
    " resources likewise. `search` finds them by words and `fetch` shows one in full; `platform_health` tells what is"
    " out of order."
)


@dataclass(slots=True)
class Snapshot:
    """What an organisation's agents may use at one revision; it keeps the views made from it, one a set of rights."""

    organization_id: UUID | None
    revision: int
    tools: dict[str, Tool]
    offers: list[Offer]
    unavailable: list[dict[str, Any]]
    selections: Mapping[str, Selection] = field(default_factory=dict)
    switched_off: frozenset[tuple[UUID, str]] = frozenset()
    views: dict[tuple[str, str, frozenset[str]], View] = field(default_factory=dict)
    _chosen: dict[str, list[Tool | Offer]] = field(default_factory=dict)
    _shelf: Shelf | None = None

    def everything(self) -> list[Tool | Offer]:
        """All that is offered."""
        return [*self.tools.values(), *self.offers]

    def for_actor(self, actor: Actor, *, bundle: str = EVERYTHING) -> View:
        """The view of everybody who holds the same rights; raises NotFound where there is no such bundle."""
        key = (bundle, actor.kind, actor.grants)
        found = self.views.get(key)
        if found is None:
            if len(self.views) >= VIEWS_PER_SNAPSHOT:
                self.views.clear()
            found = self.views[key] = self._make_view(actor, bundle)
        return found

    def _make_view(self, actor: Actor, bundle: str) -> View:
        allowed = [thing for thing in self.chosen_by(bundle) if is_allowed(actor, thing)]
        servers = {thing.server for thing in allowed}
        selection = self.selections.get(bundle)
        return View(
            **_sorted_out(allowed),
            unavailable=[each for each in self.unavailable if each["server"] in servers],
            withheld=self._withheld_from(actor),
            revision=self.revision,
            bundle=bundle,
            name=selection.slug if selection else "gatehouse",
            title=selection.name if selection else "Gatehouse",
            instructions=selection.instructions if selection else INSTRUCTIONS,
        )

    def _withheld_from(self, actor: Actor) -> frozenset[tuple[UUID, str]]:
        """The resources that the actor may not read, whatever template has room for them."""
        denied = (
            (offer.upstream.server_id, offer.upstream.name)
            for offer in self.offers
            if offer.kind == registry.CapabilityKind.RESOURCE and not is_allowed(actor, offer)
        )
        return self.switched_off.union(denied)

    def chosen_by(self, bundle: str) -> list[Tool | Offer]:
        """What an endpoint shows to whoever may use everything; raises NotFound where there is no such bundle."""
        if bundle == EVERYTHING:
            return self.everything()
        selection = self.selections.get(bundle)
        if selection is None:
            raise NotFound("There is no such endpoint: no bundle of your organisation has this address.")
        if bundle not in self._chosen:
            self._shelf = self._shelf or Shelf.of(self.everything())
            self._chosen[bundle] = self._shelf.chosen(selection)
        return self._chosen[bundle]


def _sorted_out(things: Iterable[Tool | Offer]) -> dict[str, Any]:
    """The parts of a view."""
    offers: dict[str, list[Offer]] = {kind: [] for kind in registry.CapabilityKind.values}
    tools: dict[str, Tool] = {}
    for thing in things:
        if isinstance(thing, Tool):
            tools[thing.name] = thing
        else:
            offers[thing.kind].append(thing)
    return {
        "tools": tools,
        "prompts": {prompt.name: prompt for prompt in offers[registry.CapabilityKind.PROMPT]},
        "resources": told_apart(offers[registry.CapabilityKind.RESOURCE]),
        "templates": tuple(told_apart(offers[registry.CapabilityKind.RESOURCE_TEMPLATE]).values()),
    }


@dataclass(slots=True)
class _Held:
    snapshot: Snapshot
    read_at: float
    used_at: float


_held: dict[UUID | None, _Held] = {}
_here: contextvars.ContextVar[str] = contextvars.ContextVar("bundle", default=EVERYTHING)
_refreshing: dict[tuple[int, UUID | None], asyncio.Task[Snapshot]] = {}


def read_view(actor: Actor, *, bundle: str | None = None) -> View:
    """What the actor sees at an endpoint now. It may query: from async code call `view_for`.

    A native tool that does not say which means the endpoint that it is called at.
    """
    snapshot = _fresh(actor.organization_id) or _refresh(actor.organization_id)
    return snapshot.for_actor(actor, bundle=_here.get() if bundle is None else bundle)


def read_chosen(organization_id: UUID, *, bundle: str) -> list[Tool | Offer]:
    """What a bundle shows as of now to whoever may use everything; nothing while it is disabled.

    A snapshot that is made for this is not held: who exchanges the one that is held closes what it no longer needs.
    """
    revision = auth.read_revision(organization_id)
    held = _held.get(organization_id)
    is_current = held is not None and held.snapshot.revision == revision
    snapshot = held.snapshot if held is not None and is_current else _build(organization_id, revision)
    return snapshot.chosen_by(bundle) if bundle in snapshot.selections else []


@contextmanager
def called_at(bundle: str) -> Iterator[None]:
    """Let the native tools that are called within this look at the same endpoint as their caller."""
    mark = _here.set(bundle)
    try:
        yield
    finally:
        _here.reset(mark)


async def view_for(actor: Actor, *, bundle: str = EVERYTHING) -> View:
    """What the actor sees at an endpoint now: all that they may use, or what a bundle selects of it.

    From memory, or read once for all who ask meanwhile. Raises NotFound where the organisation has no such bundle.
    """
    return (await snapshot_for(actor)).for_actor(actor, bundle=bundle)


def known_view(actor: Actor, *, bundle: str = EVERYTHING) -> View | None:
    """The same from memory only; None where it must be read first."""
    snapshot = _fresh(actor.organization_id)
    return snapshot.for_actor(actor, bundle=bundle) if snapshot is not None else None


async def snapshot_for(actor: Actor) -> Snapshot:
    """What the actor's organisation offers, allowed to the actor or not."""
    organization_id = actor.organization_id
    snapshot = _fresh(organization_id)
    if snapshot is not None:
        return snapshot
    loop = asyncio.get_running_loop()
    key = (id(loop), organization_id)
    task = _refreshing.get(key)
    if task is None:
        # An empty context: the work is for everybody who waits, not for the one who came first.
        task = loop.create_task(_read_for_all(organization_id), context=contextvars.Context())
        task.add_done_callback(lambda _: _refreshing.pop(key, None))
        _refreshing[key] = task
    return await asyncio.shield(task)


async def _read_for_all(organization_id: UUID | None) -> Snapshot:
    before = _held.get(organization_id)
    snapshot = await in_thread(_refresh, organization_id)
    if organization_id and before is not None and before.snapshot is not snapshot:
        servers = {thing.upstream.server_id for thing in snapshot.everything() if thing.upstream}
        upstreams().keep_only(organization_id, frozenset(servers))
    return snapshot


def input_schema(actor: Actor, name: str, *, bundle: str = EVERYTHING) -> dict[str, Any] | None:
    """The input schema of a tool that the actor may use, as last read; memory only."""
    held = _held.get(actor.organization_id)
    tool = held.snapshot.for_actor(actor, bundle=bundle).tools.get(name) if held else None
    return tool.definition.get("inputSchema") if tool else None


def forget_snapshots() -> None:
    """Read everything anew; for tests, whose database changes under a running process."""
    _held.clear()


def _fresh(organization_id: UUID | None) -> Snapshot | None:
    held, now = _held.get(organization_id), time.monotonic()
    if held is None or now - held.read_at > REREAD_SECONDS:
        return None
    held.used_at = now
    return held.snapshot


def _refresh(organization_id: UUID | None) -> Snapshot:
    now = time.monotonic()
    # The revision comes first: a change between the two reads is then noticed by the next one.
    revision = auth.read_revision(organization_id) if organization_id else 0
    held = _held.get(organization_id)
    if held is not None and held.snapshot.revision == revision:
        held.read_at = held.used_at = now
        return held.snapshot
    snapshot = _build(organization_id, revision)
    _held[organization_id] = _Held(snapshot, now, now)
    for other, old in list(_held.items()):
        if now - old.used_at > FORGET_SECONDS:
            _held.pop(other, None)
    return snapshot


def _build(organization_id: UUID | None, revision: int) -> Snapshot:
    tools = {tool.name: native_tool(tool) for tool in native_tools().values()}
    if organization_id is None:
        return Snapshot(None, revision, tools, [], [])
    catalogue = registry.catalogue(organization_id)
    offers = []
    for item in catalogue.items:
        if item.kind != registry.CapabilityKind.TOOL:
            offers.append(upstream_offer(item))
        elif item.public_name in tools:
            logger.warning("Two tools are called %s; the later one is left out.", item.public_name)
        else:
            tools[item.public_name] = upstream_tool(item)
    return Snapshot(
        organization_id, revision, tools, offers, [_as_unavailable(each) for each in catalogue.unavailable],
        selections=selections_of(organization_id), switched_off=catalogue.switched_off,
    )  # fmt: skip


def _as_unavailable(server: registry.Unavailable) -> dict[str, Any]:
    return {"server": server.server, "since": _iso(server.since), "reason": server.reason}


@cache
def native_tools() -> dict[str, NativeTool]:
    """The tools of every toolbox that settings name; raises ValueError when two have the same name."""
    found: dict[str, NativeTool] = {}
    for path in settings.MCP_TOOLBOXES:
        for name, tool in load(path).tools.items():
            if name in found or "__" in name:
                raise ValueError(f"The native tool {name} of {path} needs another name.")
            found[name] = tool
    return found


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
