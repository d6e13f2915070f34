"""Reading usage: lists of calls, and figures out of the roll-ups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from django.db.models import F, Max, Sum
from django.utils import timezone

from apps.core.actor import Actor
from apps.core.schemas import Page, PageQuery, page_of
from apps.usage.models import BOUNDS_MS, BUCKETS, Period, Rollup, Status, UsageEvent
from apps.usage.schemas import EventFilters

_SHORTEST_MS = 1.0
_COLUMNS: dict[str, Sum | Max] = {
    "calls": Sum("calls"),
    "errors": Sum("errors"),
    "denied": Sum("denied"),
    "longest_us": Max("longest_us"),
    **{name: Sum(name) for name in BUCKETS},
}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time up to now, in whole hours or days of UTC; the last of them is the current one."""

    period: Period
    length: int

    @property
    def step(self) -> timedelta:
        """How long each of its parts is."""
        return timedelta(hours=1) if self.period == Period.HOUR else timedelta(days=1)

    def starts(self, now: datetime) -> list[datetime]:
        """When each of its parts starts, the oldest first."""
        last = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        last = last if self.period == Period.HOUR else last.replace(hour=0)
        return [last - back * self.step for back in reversed(range(self.length))]


SPANS: Mapping[str, Span] = {
    "24h": Span(Period.HOUR, 24),
    "7d": Span(Period.DAY, 7),
    "30d": Span(Period.DAY, 30),
}
"""The stretches of time that staff may look at, by what they are called in an address."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What some calls add up to.

    Percentiles are of the calls that were let through, and None when there were none. They come from buckets: between
    1 ms and 33 s they are at most a fifth off (a factor of the fourth root of two), and what is below reads as 1 ms.
    """

    calls: int = 0
    errors: int = 0
    denied: int = 0
    longest_ms: float = 0.0
    buckets: tuple[int, ...] = (0,) * len(BUCKETS)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Of one row of sums."""
        counts = tuple(row[name] for name in BUCKETS)
        return cls(row["calls"], row["errors"], row["denied"], row["longest_us"] / 1000, counts)

    @classmethod
    def together(cls, parts: Sequence["Figures"]) -> Self:
        """Of all these calls as if they had been counted in one."""
        return cls(
            calls=sum(part.calls for part in parts),
            errors=sum(part.errors for part in parts),
            denied=sum(part.denied for part in parts),
            longest_ms=max((part.longest_ms for part in parts), default=0.0),
            buckets=tuple(sum(counts) for counts in zip(*(part.buckets for part in parts), strict=True))
            or (0,) * len(BUCKETS),
        )

    @property
    def p50_ms(self) -> float | None:
        """Half of the calls took no longer."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float | None:
        """Nineteen of twenty calls took no longer."""
        return self.percentile_ms(95)

    def percentile_ms(self, per_cent: int) -> float | None:
        """The middle of the bucket that has the call which this share of all calls did not exceed."""
        rank = -(-sum(self.buckets) * per_cent // 100)
        if not rank:
            return None
        place, seen = 0, self.buckets[0]
        while seen < rank:
            place += 1
            seen += self.buckets[place]
        return round(min(_middle_ms(place), self.longest_ms), 3)


@dataclass(frozen=True, slots=True)
class Point:
    """The figures of one hour or day."""

    starts_at: datetime
    figures: Figures


@dataclass(frozen=True, slots=True)
class Overview:
    """A stretch of time: its hours or days, none left out, and all of it together."""

    points: Sequence[Point]
    total: Figures


@dataclass(frozen=True, slots=True)
class Busy:
    """A tool, the server that has it (none: one of our own), and the figures of its calls."""

    server: str
    name: str
    figures: Figures


def look_back(organization_id: UUID | None, *, span: Span, now: datetime | None = None) -> Overview:
    """The figures of an organisation over a span; None means the whole platform, and the caller checks."""
    starts = span.starts(now or timezone.now())
    rows = _rollups(organization_id, span, starts[0]).values("starts_at").annotate(**_COLUMNS)
    found = {row["starts_at"]: Figures.of(row) for row in rows}
    points = [Point(start, found.get(start, Figures())) for start in starts]
    return Overview(points, Figures.together([point.figures for point in points]))


def busiest_tools(
    organization_id: UUID | None, *, span: Span, limit: int, now: datetime | None = None
) -> Sequence[Busy]:
    """The tools that were called most often over a span; None means the whole platform, and the caller checks."""
    since = span.starts(now or timezone.now())[0]
    rows = _rollups(organization_id, span, since).values("server", "name").annotate(**_COLUMNS)
    newest = rows.order_by("-calls", "server", "name")[:limit]
    return [Busy(row["server"], row["name"], Figures.of(row)) for row in newest]


def has_been_called(organization_id: UUID | None) -> bool:
    """Whether a call was ever let through; None means the whole platform, and the caller checks."""
    rollups = Rollup.objects.for_org(organization_id) if organization_id else Rollup.objects.all()
    return bool(rollups.filter(period=Period.DAY, calls__gt=F("denied")).exists())


def latest_denials(organization_id: UUID | None, *, limit: int) -> list[UsageEvent]:
    """The newest denied calls; None means the whole platform, and the caller checks."""
    events = UsageEvent.objects.for_org(organization_id) if organization_id else UsageEvent.objects.all()
    return list(events.filter(status=Status.DENIED)[:limit])


def list_events(actor: Actor, *, filters: EventFilters, page: PageQuery) -> Page:
    """The newest calls of the actor's organisation; raises NotPermitted without `usage.read`."""
    actor.require("usage.read")
    given: dict[str, Any] = filters.model_dump(exclude_none=True, exclude={"since", "until"})
    if filters.since:
        given["at__gte"] = filters.since
    if filters.until:
        given["at__lt"] = filters.until
    return page_of(UsageEvent.objects.for_org(actor.organization_id).filter(**given), page)


def _rollups(organization_id: UUID | None, span: Span, since: datetime) -> Any:
    rollups = Rollup.objects.for_org(organization_id) if organization_id else Rollup.objects.all()
    return rollups.filter(period=span.period, starts_at__gte=since).order_by()


def _middle_ms(place: int) -> float:
    """The geometric middle: as far, as a factor, from one end of the bucket as from the other."""
    if place == 0:
        return _SHORTEST_MS
    if place == len(BOUNDS_MS):
        return BOUNDS_MS[-1]
    return (BOUNDS_MS[place - 1] * BOUNDS_MS[place]) ** 0.5  # type: ignore[no-any-return]
