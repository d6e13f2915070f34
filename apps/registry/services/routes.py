"""The way to a server, and what agents may use there: all that the road needs, read once per revision."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from apps.core.errors import NotFound
from apps.core.loader import load
from apps.registry.backends.base import Listener, ParamHeaders, ServerRoute, Upstream, runs_tasks
from apps.registry.backends.wire import introduction
from apps.registry.models import Capability, CapabilityKind, Health, Risk, Server
from apps.registry.services.credentials import headers_of
from apps.registry.services.definitions import OPTIONAL, REQUIRED, param_headers_of, task_support_of
from apps.registry.services.names import URI_KINDS


@dataclass(frozen=True, slots=True)
class CatalogueItem:
    """A capability that agents may use, as they see it, with what a decision needs to know about it."""

    id: UUID
    kind: str
    public_name: str
    name: str
    server_slug: str
    server_id: UUID
    definition: Mapping[str, Any]
    risk: str
    tags: tuple[str, ...]
    environment: str
    required_scopes: tuple[str, ...]
    rate_limit_per_minute: int | None
    cache_seconds: int | None
    reads_only: bool
    task_support: str = ""
    """Whether its call may be (`optional`) or has to be (`required`) a task of 2025-11-25; empty: it is none."""

    @property
    def needs_task(self) -> bool:
        """Whether a call that does not ask for a task is refused."""
        return self.task_support == REQUIRED


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A server that agents may use and whose last check failed."""

    server: str
    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything of an organisation's servers that agents may use, and the servers that are down just now.

    `switched_off` are resources that staff have disabled, by their servers' ids and their URIs: no template may lead to
    them.
    """

    items: tuple[CatalogueItem, ...] = ()
    unavailable: tuple[Unavailable, ...] = field(default_factory=tuple)
    switched_off: frozenset[tuple[UUID, str]] = frozenset()

    @property
    def tools(self) -> tuple[CatalogueItem, ...]:
        """Those that are called."""
        return tuple(item for item in self.items if item.kind == CapabilityKind.TOOL)


def connect(
    route: ServerRoute,
    *,
    capabilities: Mapping[str, Any] | None = None,
    client_info: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
) -> Upstream:
    """A client for the route, not yet opened. Needs no database; whoever opens it closes it.

    The capabilities are what a session of the older era is told that its client has, and the listener hears and
    answers what belongs to no single request. Without them a server has nobody to call back.
    """
    entry = settings.BACKENDS["upstream"][route.transport]
    ours = introduction(client_info, capabilities)
    client: Upstream = load(entry["path"])(route, ours, listener, **entry.get("options", {}))
    return client


def server_route(server_id: UUID) -> ServerRoute:
    """The way to a server, its credentials opened. It never leaves the process; raises NotFound."""
    # allowed: the pool asks for servers of a catalogue, which is of one organisation
    server = Server.objects.present().filter(pk=server_id).first()
    if server is None:
        raise NotFound("This server does not exist any more.")
    return replace(route_of(server), param_headers=_param_headers(server))


def route_of(server: Server) -> ServerRoute:
    """The way to a server at hand, to check or to read it: what only calls of its tools need is not read."""
    return ServerRoute(
        id=server.id,
        organization_id=server.organization_id,
        slug=server.slug,
        name=server.name,
        transport=server.transport,
        url=server.url,
        headers=headers_of(server),
        command=tuple(server.command),
        env=dict(server.env),
        timeout_seconds=server.timeout_seconds or settings.UPSTREAM_TIMEOUT_SECONDS,
        max_concurrency=server.max_concurrency,
        isolate_sessions=server.isolate_sessions,
        protocol_version=server.protocol_version,
        capabilities=server.declared_capabilities,
        environment=server.environment,
        tags=tuple(server.tags),
    )


def _param_headers(server: Server) -> dict[str, ParamHeaders]:
    tools = Capability.objects.present().filter(server=server, kind=CapabilityKind.TOOL)
    found = {name: param_headers_of(definition) for name, definition in tools.values_list("name", "definition")}
    return {name: headers for name, headers in found.items() if headers}


def catalogue(organization_id: UUID | None) -> Catalogue:
    """What agents of the organisation may use now: approved as it is defined, enabled, on a usable server."""
    rows = (
        Capability.objects.for_org(organization_id)
        .usable()
        .select_related("server")
        .defer("approved_definition", "warnings")
        .order_by("public_name")
    )
    disabled = Capability.objects.for_org(organization_id).filter(kind=CapabilityKind.RESOURCE, is_enabled=False)
    failing = Server.objects.for_org(organization_id).usable().filter(health=Health.UNHEALTHY).order_by("slug")
    return Catalogue(
        items=tuple(_catalogue_item(row) for row in rows),
        unavailable=tuple(
            Unavailable(server.slug, server.failing_since or server.checked_at, server.health_message)
            for server in failing
        ),
        switched_off=frozenset(disabled.values_list("server_id", "name")),
    )


def _catalogue_item(row: Capability) -> CatalogueItem:
    return CatalogueItem(
        id=row.id,
        kind=row.kind,
        public_name=row.public_name,
        name=row.name,
        server_slug=row.server.slug,
        server_id=row.server_id,
        definition=as_agents_see(row),
        risk=row.risk,
        tags=tuple(dict.fromkeys([*row.server.tags, *row.tags])),
        environment=row.server.environment,
        required_scopes=tuple(row.required_scopes),
        rate_limit_per_minute=row.rate_limit_per_minute,
        cache_seconds=row.cache_seconds,
        reads_only=row.risk == Risk.LOW,
        task_support=_task_support(row),
    )


def as_agents_see(row: Capability) -> dict[str, Any]:
    """The server's own definition, verbatim but for its name, and for the description where staff wrote another.

    Where a call may be a task of 2025-11-25, or has to be one, it says that it may: whoever calls without asking for a
    task gets the result. Where the server declares no tasks, no call may be one, whatever the tool says.
    What has a URI keeps the name of its definition, which is one for people; the road decides about URIs.
    """
    shown = dict(row.definition)
    if row.kind not in URI_KINDS:
        shown["name"] = row.public_name
    if row.description_override:
        shown["description"] = row.description_override
    if task_support_of(row.definition):
        others = {name: value for name, value in shown.pop("execution").items() if name != "taskSupport"}
        execution = {**others, "taskSupport": OPTIONAL} if _task_support(row) else others
        shown |= {"execution": execution} if execution else {}
    return shown


def _task_support(row: Capability) -> str:
    server = row.server
    return task_support_of(row.definition) if runs_tasks(server.protocol_version, server.declared_capabilities) else ""
