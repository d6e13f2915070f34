"""Reading usage: lists, counts and percentiles."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q

from apps.core.actor import Actor
from apps.core.schemas import Page, PageQuery, page_of
from apps.usage.models import Status, UsageEvent
from apps.usage.schemas import EventFilters

LARGEST_SAMPLE = 10_000
"""Percentiles are exact up to this many calls in the period, and those of the newest this many beyond."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Calls of a period. Percentiles are of the calls that were let through; None when there were none."""

    calls: int
    errors: int
    denied: int
    p50_ms: float | None
    p95_ms: float | None


def summarize(organization_id: UUID | None, *, since: datetime) -> Summary:
    """Counts and latencies of an organisation since a moment; None means the whole platform, and the caller checks."""
    events = _events(organization_id).filter(at__gte=since)
    counts = events.order_by().aggregate(
        calls=Count("id"),
        errors=Count("id", filter=Q(status=Status.ERROR)),
        denied=Count("id", filter=Q(status=Status.DENIED)),
    )
    let_through = events.exclude(status=Status.DENIED).order_by("-at").values_list("latency_ms", flat=True)
    latencies = sorted(let_through[:LARGEST_SAMPLE])
    return Summary(**counts, p50_ms=_percentile(latencies, 50), p95_ms=_percentile(latencies, 95))


def latest_denials(organization_id: UUID | None, *, limit: int) -> list[UsageEvent]:
    """The newest denied calls; None means the whole platform, and the caller checks."""
    return list(_events(organization_id).filter(status=Status.DENIED).order_by("-id")[:limit])


def list_events(actor: Actor, *, filters: EventFilters, page: PageQuery) -> Page:
    """The newest calls of the actor's organisation; raises NotPermitted without `usage.read`."""
    actor.require("usage.read")
    given: dict[str, Any] = filters.model_dump(exclude_none=True, exclude={"since", "until"})
    if filters.since:
        given["at__gte"] = filters.since
    if filters.until:
        given["at__lt"] = filters.until
    return page_of(UsageEvent.objects.for_org(actor.organization_id).filter(**given).order_by("-id"), page)


def _events(organization_id: UUID | None) -> Any:
    return UsageEvent.objects.for_org(organization_id) if organization_id else UsageEvent.objects.all()


def _percentile(ordered: list[float], per_cent: int) -> float | None:
    """The nearest-rank percentile: the smallest value that this share of all values does not exceed."""
    if not ordered:
        return None
    rank = -(-len(ordered) * per_cent // 100)
    return round(ordered[rank - 1], 3)
