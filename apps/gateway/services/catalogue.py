"""What each caller may use: a snapshot of an organisation's tools, and the lists that are made from it.

A snapshot is built from the organisation's revision, which is re-read at most about once a second: lists and calls
touch no database in between. Nothing here asks an upstream.
"""

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings

from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import NotFound
from apps.core.loader import load
from apps.core.threads import in_thread
from apps.core.toolbox import NativeTool
from apps.gateway.services.pool import upstreams
from apps.policies.schemas import Resource
from apps.policies.services import decide
from apps.registry import services as registry

logger = logging.getLogger(__name__)
# A revoked right must hold within one second in every process, the time of reading included.
REREAD_SECONDS = 0.9
FORGET_SECONDS = 600.0
LISTS_PER_SNAPSHOT = 200


class UnknownTool(NotFound):
    """There is no tool of this name for this organisation; one of another organisation looks the same."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as an agent knows it, with what is behind it: a function of ours or a server."""

    name: str
    definition: dict[str, Any]
    resource: Resource
    encoded: bytes
    legacy_encoded: bytes
    native: NativeTool | None = None
    upstream: registry.CatalogueTool | None = None

    @property
    def server(self) -> str:
        """The slug of its server; empty for a native tool."""
        return self.upstream.server_slug if self.upstream else ""


@dataclass(frozen=True, slots=True)
class ToolList:
    """What one caller may use."""

    tools: Mapping[str, Tool]
    unavailable: list[dict[str, Any]]

    def encoded(self, *, is_modern: bool) -> bytes:
        """The definitions as a JSON list, for revision 2026-07-28 or for the earlier ones."""
        each = (tool.encoded if is_modern else tool.legacy_encoded for tool in self.tools.values())
        return b"[" + b",".join(each) + b"]"


@dataclass(slots=True)
class Snapshot:
    """An organisation's tools at one revision; it keeps the lists made from it, one for each set of rights."""

    organization_id: UUID | None
    revision: int
    tools: dict[str, Tool]
    unavailable: list[dict[str, Any]]
    lists: dict[tuple[str, frozenset[str]], ToolList] = field(default_factory=dict)

    def for_actor(self, actor: Actor) -> ToolList:
        """The list of everybody who holds the same rights."""
        key = (actor.kind, actor.grants)
        found = self.lists.get(key)
        if found is None:
            if len(self.lists) >= LISTS_PER_SNAPSHOT:
                self.lists.clear()
            found = self.lists[key] = self._make_list(actor)
        return found

    def _make_list(self, actor: Actor) -> ToolList:
        allowed = {name: tool for name, tool in self.tools.items() if is_allowed(actor, tool)}
        servers = {tool.server for tool in allowed.values()}
        return ToolList(
            tools=allowed,
            unavailable=[each for each in self.unavailable if each["server"] in servers],
        )


@dataclass(slots=True)
class _Held:
    snapshot: Snapshot
    read_at: float
    used_at: float


_held: dict[UUID | None, _Held] = {}
_refreshing: dict[tuple[int, UUID | None], asyncio.Task[Snapshot]] = {}


def list_tools(actor: Actor) -> ToolList:
    """What the actor may use now. It may query: from async code call `tools_for`."""
    return (_fresh(actor.organization_id) or _refresh(actor.organization_id)).for_actor(actor)


async def tools_for(actor: Actor) -> ToolList:
    """What the actor may use now; from memory, or read once for all who ask meanwhile."""
    return (await snapshot_for(actor)).for_actor(actor)


async def snapshot_for(actor: Actor) -> Snapshot:
    """The tools of the actor's organisation, allowed to the actor or not."""
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
        servers = {tool.upstream.server_id for tool in snapshot.tools.values() if tool.upstream}
        upstreams().keep_only(organization_id, frozenset(servers))
    return snapshot


def input_schema(actor: Actor, name: str) -> dict[str, Any] | None:
    """The input schema of a tool that the actor may use, as last read; memory only."""
    held = _held.get(actor.organization_id)
    tool = held.snapshot.for_actor(actor).tools.get(name) if held else None
    return tool.definition.get("inputSchema") if tool else None


def is_allowed(actor: Actor, tool: Tool) -> bool:
    """Whether the actor may call the tool."""
    return decide(actor, "tool.call", tool.resource).allowed


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
    tools = {tool.name: _native(tool) for tool in native_tools().values()}
    if organization_id is None:
        return Snapshot(None, revision, tools, [])
    catalogue = registry.catalogue(organization_id)
    for offered in catalogue.tools:
        if offered.public_name in tools:
            logger.warning("Two tools are called %s; the later one is left out.", offered.public_name)
            continue
        tools[offered.public_name] = _upstream(offered)
    unavailable = [
        {
            "server": each.server,
            "since": _iso(each.since),
            "reason": each.reason,
        }
        for each in catalogue.unavailable
    ]
    return Snapshot(organization_id, revision, tools, unavailable)


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


def _native(tool: NativeTool) -> Tool:
    risk = "low" if tool.reads_only else "medium"
    resource = Resource("tool", tool.name, risk=risk, reads_only=tool.reads_only, required=(tool.permission,))
    return Tool(tool.name, tool.definition, resource, *_encodings(tool.definition), native=tool)


def _upstream(offered: registry.CatalogueTool) -> Tool:
    resource = Resource(
        "tool",
        offered.public_name,
        server=offered.server_slug,
        tags=frozenset(offered.tags),
        environment=offered.environment,
        risk=offered.risk,
        reads_only=offered.reads_only,
        required=tuple(offered.required_scopes),
    )
    definition = dict(offered.definition)
    return Tool(offered.public_name, definition, resource, *_encodings(definition), upstream=offered)


def _encodings(definition: dict[str, Any]) -> tuple[bytes, bytes]:
    """The definition as JSON for revision 2026-07-28, and for the earlier ones; most are the same bytes, kept once."""
    encoded, legacy = _encode(definition), _legacy(definition)
    return encoded, encoded if legacy is definition else _encode(legacy)


def _encode(definition: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(definition)
    except TypeError:
        return json.dumps(definition).encode()  # integers of more than 64 bits


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _legacy(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition as revisions before 2026-07-28 allow it: an output schema describes an object, or is left out."""
    schema = definition.get("outputSchema")
    if schema is None or (isinstance(schema, dict) and schema.get("type") == "object"):
        return definition
    return {name: value for name, value in definition.items() if name != "outputSchema"}
