"""Writing to the journal and reading from it."""

import json
from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

from django.db import models, transaction

from apps.audit.models import PLATFORM_CHAIN, ChainHead, Entry
from apps.audit.schemas import LogFilters
from apps.audit.services.chain import digest_of
from apps.core.actor import Actor
from apps.core.doors import storable_text
from apps.core.logs import redact, request_id
from apps.core.schemas import Page, PageQuery, page_of

LONGEST_TEXT = 2_000


def record(
    actor: Actor,
    action: str,
    subject: str | models.Model = "",
    *,
    outcome: Literal["done", "refused"] = "done",
    details: Mapping[str, Any] | None = None,
) -> Entry:
    """Append what happened to the chain of the actor's organisation, in the caller's transaction if there is one.

    The chain's head stays locked until that transaction ends, so that no two entries follow the same one.
    Secrets in `details` are masked. A refusal that must be kept is recorded outside the transaction that it rolls back.
    """
    with transaction.atomic():
        head = _lock_head(actor.organization_id or PLATFORM_CHAIN)
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
    _lock_head(organization_id or PLATFORM_CHAIN)


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
    )
    return page_of(entries.order_by("-sequence"), page)


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
    return f"{thing._meta.model_name}:{name}"


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
