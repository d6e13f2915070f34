"""What servers offer: looking at it, approving it, and deciding how agents see it."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput, NotFound
from apps.core.schemas import Page, PageQuery, page_of
from apps.registry.models import Capability
from apps.registry.schemas import CapabilityFilters
from apps.registry.services.aliases import check_alias, own_name
from apps.registry.services.definitions import changes_between
from apps.registry.services.servers import get_server, hold_server

_CHANGEABLE = frozenset({
    "is_enabled", "alias", "description_override", "tags", "risk", "required_scopes", "rate_limit_per_minute",
    "cache_seconds",
})  # fmt: skip


def list_capabilities(actor: Actor, *, server_id: UUID, filters: CapabilityFilters, page: PageQuery) -> Page:
    """What a server offers, by name; what it offers no longer only on request."""
    server = get_server(actor, server_id=server_id)
    rows = Capability.objects.for_org(actor.organization_id).filter(server=server)
    rows = rows if filters.include_removed else rows.filter(removed_at=None)
    equal = filters.model_dump(include={"kind", "is_enabled"}, exclude_none=True)
    rows = rows.filter(**equal)
    if filters.is_approved is not None:
        as_now = {"approved_digest": F("digest")}
        rows = rows.filter(**as_now) if filters.is_approved else rows.exclude(**as_now)
    if filters.q:
        rows = rows.filter(name__icontains=filters.q)
    found = page_of(rows.order_by("kind", "public_name", "id"), page)
    for row in found.items:
        row.changes = describe_changes(row)
    return found


def get_capability(actor: Actor, *, capability_id: UUID) -> Capability:
    """A capability of the actor's organisation."""
    actor.require("server.read")
    found = Capability.objects.for_org(actor.organization_id).filter(server__deleted_at=None)
    capability: Capability | None = found.select_related("server").filter(pk=capability_id).first()
    if capability is None:
        raise NotFound("There is no such capability.")
    capability.changes = describe_changes(capability)
    return capability


def read_capabilities(
    actor: Actor, *, capability_ids: Collection[UUID] = (), server_ids: Collection[UUID] = ()
) -> list[Capability]:
    """These capabilities, and all that these servers offer now; raises NotFound where one of the former is missing.

    Their definitions, which may be long, are read when they are asked for: most callers want names.
    """
    actor.require("server.read")
    known = Capability.objects.for_org(actor.organization_id).filter(server__deleted_at=None)
    wanted = Q(pk__in=capability_ids) | Q(server_id__in=server_ids, removed_at=None)
    rows = known.filter(wanted).select_related("server").defer("definition", "approved_definition", "warnings")
    found: list[Capability] = list(rows) if capability_ids or server_ids else []
    if set(capability_ids) - {each.pk for each in found}:
        raise NotFound("There is no such capability.")
    return found


def describe_changes(capability: Capability) -> list[str]:
    """What differs between the definition that was approved and the one of now, a line each."""
    if not capability.approved_digest or capability.is_approved:
        return []
    return changes_between(capability.approved_definition, capability.definition)


def approve_capability(actor: Actor, *, capability_id: UUID, digest: str = "") -> Capability:
    """Let agents use a capability as it is defined now.

    With the digest of the definition that was looked at, raises Conflict when it has changed meanwhile.
    """
    shown = get_capability(actor, capability_id=capability_id)
    actor.require("server.approve")
    with transaction.atomic():
        hold_server(shown.server, is_present=False)
        # allowed: the actor has just been shown it
        capability: Capability = Capability.objects.select_for_update(no_key=True).get(pk=capability_id)
        if digest and digest != capability.digest:
            raise Conflict("The definition has changed since you looked at it. Look at it again.")
        if capability.removed_at:
            raise Conflict("The server does not offer this any more.")
        if capability.is_approved:
            return capability
        changes = describe_changes(capability)
        capability.approve()
        capability.store(update_fields=["approved_digest", "approved_definition", "updated_at"])
        audit.record(actor, "capability.approved", capability, details={"changes": changes})
        auth.raise_revision(capability.organization_id)
    return capability


def update_capability(actor: Actor, *, capability_id: UUID, **changes: Any) -> Capability:
    """Decide how agents see and may use a capability."""
    capability = get_capability(actor, capability_id=capability_id)
    actor.require("server.approve")
    unknown = sorted(set(changes) - _CHANGEABLE)
    if unknown:
        raise InvalidInput.for_field(unknown[0], "This cannot be set.")
    with transaction.atomic():
        hold_server(capability.server, is_present=False)
        return _update(actor, get_capability(actor, capability_id=capability_id), changes)


def _update(actor: Actor, capability: Capability, changes: dict[str, Any]) -> Capability:
    changes = {field: value for field, value in changes.items() if getattr(capability, field) != value}
    if not changes:
        return capability
    _check_scopes(changes.get("required_scopes", ()))
    told = audit.what_changes(capability, changes)
    for field, value in changes.items():
        setattr(capability, field, value)
    if "alias" in changes:
        # Before the row: whoever gives another the same name waits for it, and may hold the chain.
        audit.hold_chain(capability.organization_id)
        check_alias(capability)
        capability.public_name = capability.alias or own_name(capability)
    capability.store(update_fields=[*changes, "public_name", "updated_at"])
    audit.record(actor, "capability.updated", capability, details={"changes": told})
    auth.raise_revision(capability.organization_id)
    return capability


def _check_scopes(scopes: Any) -> None:
    unknown = [scope for scope in scopes if scope not in auth.known_permissions()]
    if unknown:
        raise InvalidInput.for_field("required_scopes", f"There is no permission {str(unknown[0])[:60]!r}.")
