"""Adding calls up by hour and by day.

The writer adds each batch of events to its roll-ups in the transaction that stores the events: both are there or
neither is, however late an event comes and however often its batch is tried. `reconcile` looks on a schedule whether
that has held, and `rebuild_day` makes the roll-ups of a day anew from its events.
"""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from itertools import chain
from operator import add
from typing import Any, Protocol
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Count, Sum, Value
from django.utils import timezone

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import NotFound
from apps.core.ids import new_id
from apps.usage.models import BOUNDS_MS, BUCKETS, Period, Rollup, Status, UsageEvent

logger = logging.getLogger(__name__)

DAY = timedelta(days=1)
RECONCILED_DAYS = 2
NANODOLLARS = 1_000_000_000
_EVENTS = "events"
_KEY = ("organization", "period", "starts_at", "server", "name")
_SUMS = (
    "calls", "errors", "denied", "latency_us", "bytes_in", "bytes_out", "tokens_in", "tokens_out", "cost_nanodollars",
    *BUCKETS,
)  # fmt: skip
_CALLS, _ERRORS, _DENIED, _LATENCY, _BYTES_IN, _BYTES_OUT, _TOKENS_IN, _TOKENS_OUT, _COST, _FIRST_BUCKET = range(10)
_LONGEST = -1
_COLUMNS = ("id", "created_at", "updated_at", *_KEY, *_SUMS, "longest_us")
_READ = (
    "organization_id", "at", "server", "name", "status", "error_code", "latency_ms", "bytes_in", "bytes_out",
    "tokens_in", "tokens_out", "cost",
)  # fmt: skip
_READ_AT_ONCE = 5_000
_WRITTEN_AT_ONCE = 500


class Call(Protocol):
    """What is added up of a usage event."""

    organization_id: UUID
    at: datetime
    server: str
    name: str
    status: str
    error_code: str
    latency_ms: float
    bytes_in: int
    bytes_out: int
    tokens_in: int
    tokens_out: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A day whose roll-ups were made anew, and how many calls it has."""

    day: date
    calls: int


Key = tuple[UUID, str, datetime, str, str]
"""Organisation, period, its start, server, tool."""

Sums = list[int]
"""What the columns of `_SUMS` count, and at the end the longest latency in microseconds."""


def add_to_rollups(calls: Iterable[Call]) -> None:
    """Add these calls to the roll-ups that exist, and make those that do not; within the caller's transaction."""
    _write(_add_up(calls))


def reconcile() -> list[date]:
    """Make the roll-ups of the last days anew where they do not count the calls that there are; says of which days.

    They always do, unless events were written or removed by something else than the writer: by hand, by a backup that
    was put back, by an older version while the platform was being upgraded.
    """
    today = timezone.now().astimezone(UTC).date()
    wrong = [day for back in range(RECONCILED_DAYS) if not _is_right(day := today - back * DAY)]
    for day in wrong:
        logger.warning("the roll-ups of %s did not count all calls of that day; they are made anew", day)
        rebuild_day(day)
    return wrong


def rebuild_rollups(actor: Actor, *, since: date | None = None) -> Iterator[Rebuilt]:
    """Make the roll-ups anew, day by day, of each day of which there are events; other days keep theirs.

    Raises NotPermitted for whoever is no platform admin.
    """
    actor.require_platform_admin()
    # allowed: for platform admins, of all organisations
    first = UsageEvent.objects.order_by("at").values_list("at", flat=True).first()
    if first is None:
        return
    day = max(first.astimezone(UTC).date(), since or date.min)
    audit.record(actor, "usage.rebuilt", "usage:rollups", details={"since": day.isoformat()})
    while day <= timezone.now().astimezone(UTC).date():
        if calls := rebuild_day(day):
            yield Rebuilt(day, calls)
        day += DAY


def rebuild_day(day: date) -> int:
    """Make the roll-ups of a day anew from its events, and say how many those are; of none, nothing is made anew.

    Calls go on meanwhile. Their events wait to be written, in memory, until this is done.
    """
    with transaction.atomic():
        _keep_writers_out()
        rollups = _add_up(_events_of(day))
        if rollups:
            Rollup.objects.filter(starts_at__gte=_start(day), starts_at__lt=_start(day + DAY)).delete()
            _write(rollups)
    return sum(sums[_CALLS] for (_, period, *_), sums in rollups.items() if period == Period.DAY)


def _keep_writers_out() -> None:
    """Until the transaction ends: what was added before is seen, what is added later waits. SQLite has one writer."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {Rollup._meta.db_table} IN EXCLUSIVE MODE")


def _events_of(day: date) -> Iterator[Any]:
    events = UsageEvent.objects.filter(at__gte=_start(day), at__lt=_start(day + DAY)).order_by()
    return events.values_list(*_READ, named=True).iterator(chunk_size=_READ_AT_ONCE)


def _is_right(day: date) -> bool:
    """In one statement, which sees one moment: a writer may add events and sums between two."""
    start, end = _start(day), _start(day + DAY)
    events = UsageEvent.objects.filter(at__gte=start, at__lt=end).order_by().values("organization")
    rollups = Rollup.objects.filter(starts_at__gte=start, starts_at__lt=end).order_by().values("period", "organization")
    there = events.annotate(of=Value(_EVENTS), calls_=Count("pk")).values_list("of", "organization", "calls_")
    summed = rollups.annotate(calls_=Sum("calls")).values_list("period", "organization", "calls_")
    counted: dict[str, dict[UUID, int]] = {_EVENTS: {}, Period.HOUR: {}, Period.DAY: {}}
    for of, organization_id, calls in there.union(summed, all=True):
        counted[of][organization_id] = calls
    right = counted.pop(_EVENTS)
    return not right or counted == {Period.HOUR: right, Period.DAY: right}


def _add_up(calls: Iterable[Call]) -> dict[Key, Sums]:
    """What the calls add up to by hour and by day; the web process does this for every call, so without objects."""
    found: dict[Key, Sums] = {}
    for call in calls:
        key = (call.organization_id, "hour", _hour(call.at), call.server, _name(call))
        sums = found.get(key)
        if sums is None:
            sums = found[key] = [0] * (len(_SUMS) + 1)
        _add(sums, call)
    for (organization_id, _, hour, server, name), sums in list(found.items()):
        day = found.setdefault((organization_id, "day", hour.replace(hour=0), server, name), [0] * len(sums))
        day[:] = [*map(add, day[:_LONGEST], sums), max(day[_LONGEST], sums[_LONGEST])]
    return found


def _add(sums: Sums, call: Call) -> None:
    sums[_CALLS] += 1
    sums[_BYTES_IN] += call.bytes_in
    sums[_BYTES_OUT] += call.bytes_out
    sums[_TOKENS_IN] += call.tokens_in
    sums[_TOKENS_OUT] += call.tokens_out
    sums[_COST] += int(call.cost * NANODOLLARS)
    if call.status == Status.DENIED:
        sums[_DENIED] += 1
        return
    if call.status == Status.ERROR:
        sums[_ERRORS] += 1
    latency_us = round(call.latency_ms * 1000)
    sums[_LATENCY] += latency_us
    sums[_LONGEST] = max(sums[_LONGEST], latency_us)
    sums[_FIRST_BUCKET + bisect_left(BOUNDS_MS, call.latency_ms)] += 1


def _name(call: Call) -> str:
    """The tool's name. Names that nothing has come from the caller: by name they would make roll-ups without end."""
    return "" if call.error_code == NotFound.code and not call.server else call.name


def _hour(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _start(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)


def _write(rollups: Mapping[Key, Sums]) -> None:
    """In the same order by all who write, so that none waits for another in a circle."""
    now, keys = timezone.now(), sorted(rollups)
    with connection.cursor() as cursor:
        for start in range(0, len(keys), _WRITTEN_AT_ONCE):
            rows = [_row(key, rollups[key], now) for key in keys[start : start + _WRITTEN_AT_ONCE]]
            if connection.vendor == "postgresql":
                cursor.execute(_upsert(_arrays()), [*map(_array, zip(*rows, strict=True))])
            else:
                cursor.execute(_upsert(_values(len(rows))), [*chain.from_iterable(rows)])


@cache
def _upsert(source: str) -> str:
    table = Rollup._meta.db_table
    columns = ", ".join(_field(name).column for name in _COLUMNS)
    key = ", ".join(_field(name).column for name in _KEY)
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in _SUMS)
    longest = f"CASE WHEN excluded.longest_us > {table}.longest_us THEN excluded.longest_us ELSE {table}.longest_us END"
    return (
        f"INSERT INTO {table} ({columns}) {source}"
        f" ON CONFLICT ({key}) DO UPDATE SET {sums}, longest_us = {longest}, updated_at = excluded.updated_at"
    )


@cache
def _values(rows: int) -> str:
    return "VALUES " + ", ".join([f"({', '.join(['%s'] * len(_COLUMNS))})"] * rows)


@cache
def _arrays() -> str:
    """One parameter a column: psycopg parses each placeholder anew, with all rows' that took longer than the rest."""
    types = (_field(name).db_type(connection) for name in _COLUMNS)
    return f"SELECT * FROM unnest({', '.join(f'%s::{each}[]' for each in types)})"  # noqa: S608 - names are ours


def _array(column: Sequence[Any]) -> Any:
    """A column as PostgreSQL reads it; numbers are written out here, which psycopg would look at one by one."""
    return f"{{{','.join(map(str, column))}}}" if isinstance(column[0], int) else [*column]


def _row(key: Key, sums: Sums, now: datetime) -> list[Any]:
    organization_id, period, starts_at, server, name = key
    adapted = {"id": new_id(), "created_at": now, "updated_at": now, "organization": organization_id}
    first = [_field(field).get_db_prep_save(value, connection) for field, value in adapted.items()]
    return [*first, period, _field("starts_at").get_db_prep_save(starts_at, connection), server, name, *sums]


@cache
def _field(name: str) -> Any:
    return Rollup._meta.get_field(name)
