"""Writing to the journal and reading from it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from uuid import UUID

from django.db import models, transaction
from django.db.models import QuerySet

from apps.audit.models import PLATFORM_CHAIN, ChainHead, Entry
from apps.audit.schemas import LogFilters
from apps.audit.services.chain import digest_of
from apps.core.actor import Actor
from apps.core.doors import storable_text
from apps.core.logs import redact, request_id
from apps.core.schemas import Page, PageQuery, page_of

LONGEST_TEXT = 2_000
OF_ALL_CAPABILITIES = (
    "server.approved", "server.approval_revoked", "server.deleted", "server.restored", "capability.withheld",
)  # fmt: skip
"""What happens to a server and decides about each of its capabilities."""


def record(
    actor: Actor,
    action: str,
    subject: str | models.Model = "",
    *,
    outcome: Literal["done", "refused"] = "done",
    details: Mapping[str, Any] | None = None,
    organization_id: UUID | None = None,
) -> Entry:
    """Append what happened to a chain, in the caller's transaction if there is one.

    The chain is that of the organisation named here, else of the one that owns the subject, else of the actor's: what a
    platform admin does to an organisation stands in that organisation's own journal.

    The chain's head stays locked until that transaction ends, so that no two entries follow the same one.
    Secrets in `details` are masked. A refusal that must be kept is recorded outside the transaction that it rolls back.
    """
    with transaction.atomic():
        owner = organization_id or getattr(subject, "organization_id", None) or actor.organization_id
        head = _lock_head(owner or PLATFORM_CHAIN)
        entry = Entry(
            chain_id=head.chain_id,
            sequence=head.sequence + 1,
            action=action,
            outcome=outcome,
            actor_kind=actor.kind,
            actor_id=str(actor.id or ""),
            actor_label=_text(actor.label, 200),
            surface=actor.surface,
            address=_text(actor.address, 45),
            subject=_text(subject if isinstance(subject, str) else _name_of(subject), 200),
            subject_id="" if isinstance(subject, str) else str(subject.pk or ""),
            details=_writable(redact(dict(details or {}))),
            request_id=_text(request_id.get(), 64),
            previous_digest=head.digest,
        )
        entry.digest = digest_of(entry)
        entry.save(force_insert=True)
        ChainHead.objects.filter(pk=head.pk).update(sequence=entry.sequence, digest=entry.digest)
    return entry


def hold_chain(organization_id: UUID | None) -> None:
    """Lock the head of a chain until the caller's transaction ends.

    Whoever is about to lock a row that many writers share, and may record something afterwards, holds the chain first:
    all take both in the same order, and none waits for another in a circle.
    """
    hold_chains([organization_id])


def hold_chains(organization_ids: Iterable[UUID | None]) -> None:
    """Lock the heads of several chains, in one order for everybody: that of the platform comes first."""
    for chain_id in sorted({each or PLATFORM_CHAIN for each in organization_ids}):
        _lock_head(chain_id)


def list_entries(actor: Actor, *, filters: LogFilters, page: PageQuery) -> Page:
    """The newest entries of the actor's organisation; raises NotPermitted without `audit.read`."""
    actor.require("audit.read")
    entries = Entry.objects.for_org(actor.organization_id).matching(
        action=filters.action,
        actor=filters.actor,
        outcome=filters.outcome,
        since=filters.since,
        until=filters.until,
        subject=filters.subject,
        subject_id=str(filters.subject_id) if filters.subject_id else None,
    )
    return page_of(entries.order_by("-sequence"), page)


def entries_about(entries: QuerySet[Entry], row: models.Model) -> QuerySet[Entry]:
    """Those of the given entries that tell what happened to a row, the newest first.

    What was written before entries had the row's id is found by its name. A credential stands in its server's entries,
    and what lets agents use a capability is an approval of its server.
    """
    server_id, kind = str(getattr(row, "server_id", "")), row._meta.model_name
    if kind == "credential":
        found = [entries.filter(subject_id=server_id, action__startswith="credential.", details__id=str(row.pk))]
    else:
        names = {_name_of(row), f"{row._meta.model_name}:{row.pk}"}
        found = [entries.filter(subject_id=str(row.pk))]
        found += [entries.filter(subject_id="", subject=name) for name in sorted(names)]
    if kind == "capability":
        found.append(entries.filter(subject_id=server_id, action__in=OF_ALL_CAPABILITIES))
    # Each has an index of its own; joined by OR in one condition, SQLite would read the whole chain instead.
    first, *others = (each.order_by().values("pk") for each in found)
    return Entry.objects.filter(pk__in=first.union(*others, all=True) if others else first).order_by("-id")


def _lock_head(chain_id: UUID) -> ChainHead:
    """The chain's head, locked until the transaction ends. SQLite's transactions are exclusive from the start."""
    heads = ChainHead.objects.select_for_update().filter(pk=chain_id)
    head = heads.first()
    if head is None:
        ChainHead.objects.bulk_create([ChainHead(chain_id=chain_id)], ignore_conflicts=True)
        head = heads.get()
    return head


def _name_of(thing: models.Model) -> str:
    name = getattr(thing, "slug", "") or getattr(thing, "name", "") or thing.pk
    return getattr(thing, "journal_name", "") or f"{thing._meta.model_name}:{name}"


def _text(value: str, longest: int) -> str:
    return storable_text(value)[:longest]


def _writable(details: Any) -> Any:
    """The details as JSON that every database stores and gives back unchanged; long texts are cut."""
    return _clean(json.loads(json.dumps(details, default=str), parse_constant=str))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value, LONGEST_TEXT)
    if isinstance(value, dict):
        return {_text(name, LONGEST_TEXT): _clean(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    # PostgreSQL gives 1e16 back as an integer and forgets the sign of zero; the digest must not depend on it.
    return int(value) if isinstance(value, float) and value.is_integer() else value
