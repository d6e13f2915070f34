"""Roll-ups add up to exactly the calls that there are, whatever happens while they are written."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from threading import Thread

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.utils import timezone

from apps.audit.models import Entry
from apps.core.errors import NotPermitted
from apps.usage import services as usage
from apps.usage import tasks
from apps.usage.models import BOUNDS_MS, BUCKETS, Period, Rollup, UsageEvent
from apps.usage.services import rollups, writer
from tests.usage.test_writer import note

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
NOON = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
COUNTS = ("calls", "errors", "denied", "latency_us", "bytes_in", "bytes_out", "tokens_in", "tokens_out")


def events_of(person, number: int, *, seed: int = 1) -> list[UsageEvent]:
    """Calls of three days with everything that is added up, none of them stored."""
    chance = random.Random(seed)
    return [
        UsageEvent(
            organization=person.organization,
            at=NOON + timedelta(seconds=chance.uniform(-DAY.total_seconds(), DAY.total_seconds())),
            server=chance.choice(["time", "notes", ""]),
            name=chance.choice(["a", "b"]),
            status=chance.choice(["ok", "ok", "error", "denied"]),
            latency_ms=chance.lognormvariate(3, 2),
            bytes_in=chance.randrange(2**40),
            bytes_out=chance.randrange(2**40),
            tokens_in=chance.randrange(1000),
            tokens_out=chance.randrange(1000),
            cost=Decimal(chance.randrange(10**8)) / 10**8,
        )
        for _ in range(number)
    ]


def store(events: list[UsageEvent]) -> None:
    """As the writer does: with their roll-ups."""
    rollups.add_to_rollups(UsageEvent.objects.bulk_create(events))


def contents() -> list[tuple]:
    """Everything that the roll-ups say."""
    names = [field.attname for field in Rollup._meta.concrete_fields]
    told = [name for name in names if name not in ("id", "created_at", "updated_at")]
    return sorted(Rollup.objects.values_list(*told))


def expected(events: list[UsageEvent], period: str) -> dict[tuple, Counter]:
    """Counted the slow way, one event after the other."""
    found: dict[tuple, Counter] = {}
    for event in events:
        start = event.at.replace(minute=0, second=0, microsecond=0, **({"hour": 0} if period == "day" else {}))
        sums = found.setdefault((start, event.server, event.name), Counter())
        let_through = event.status != "denied"
        sums.update(
            calls=1, errors=event.status == "error", denied=event.status == "denied",
            latency_us=round(event.latency_ms * 1000) if let_through else 0,
            bytes_in=event.bytes_in, bytes_out=event.bytes_out, tokens_in=event.tokens_in, tokens_out=event.tokens_out,
            cost_nanodollars=int(event.cost * 10**9),
        )  # fmt: skip
        if let_through:
            sums["longest_us"] = max(sums["longest_us"], round(event.latency_ms * 1000))
            sums[BUCKETS[sum(bound < event.latency_ms for bound in BOUNDS_MS)]] += 1
    return found


def test_hours_and_days_add_up_exactly_in_however_many_pieces(alice):
    events = events_of(alice, 300)

    for piece in (events[:7], events[7:150], events[150:]):
        store(piece)

    for period in Period.values:
        counted = expected(events, period)
        told = {(each.starts_at, each.server, each.name): each for each in Rollup.objects.filter(period=period)}
        assert told.keys() == counted.keys()
        for key, sums in counted.items():
            for column in (*COUNTS, "cost_nanodollars", "longest_us", *BUCKETS):
                assert getattr(told[key], column) == sums[column], (key, column)


def test_what_the_writer_stores_is_in_the_figures_at_once_however_late_it_comes(alice, monkeypatch):
    late = timezone.now() - 3 * DAY
    note(alice, 2)
    with monkeypatch.context() as patch:
        patch.setattr(writer.timezone, "now", lambda: late)
        note(alice)

    usage.flush()

    points = usage.look_back(alice.organization.id, span=usage.SPANS["7d"]).points
    assert [point.figures.calls for point in points] == [0, 0, 0, 1, 0, 0, 2]


@pytest.mark.parametrize("adds_first", [True, False])
def test_a_batch_that_fails_is_counted_once_when_it_is_tried_again(alice, monkeypatch, adds_first):
    note(alice, 3)

    def fail(rows):
        if adds_first:
            rollups.add_to_rollups(rows)
        raise OperationalError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "add_to_rollups", fail)
        with pytest.raises(OperationalError):
            usage.flush()
    usage.flush()
    usage.flush()

    assert usage.look_back(None, span=usage.SPANS["24h"]).total.calls == UsageEvent.objects.count() == 3


def test_rebuilding_gives_what_was_there_and_may_be_repeated(alice, bob):
    store(events_of(alice, 200))
    store(events_of(bob, 50, seed=2))
    before = contents()

    for _ in range(2):
        call_command("usage_rebuild", stdout=StringIO())
        assert contents() == before


def test_rebuilding_repairs_what_is_wrong_missing_or_too_much(alice):
    store(events_of(alice, 200))
    before = contents()
    Rollup.objects.filter(period="day").update(calls=1, bucket_3=99)
    Rollup.objects.filter(period="hour", server="time").delete()
    Rollup.objects.filter(server="notes", name="a").update(name="renamed")

    said = StringIO()
    call_command("usage_rebuild", stdout=said)

    assert contents() == before
    assert f"{NOON:%Y-%m-%d}: " in said.getvalue()
    assert Entry.objects.filter(action="usage.rebuilt").count() == 1


def test_rebuilding_begins_where_it_is_told_and_leaves_days_without_events_alone(alice):
    store(events_of(alice, 100))
    Rollup.objects.update(calls=0)
    UsageEvent.objects.filter(at__gte=NOON + DAY / 2).delete()

    call_command("usage_rebuild", "--since", f"{NOON:%Y-%m-%d}", stdout=StringIO())

    whole = {each.starts_at.date(): each.calls > 0 for each in Rollup.objects.filter(period="day")}
    assert whole == {(NOON - DAY).date(): False, NOON.date(): True, (NOON + DAY).date(): False}


def test_rebuilding_is_for_platform_admins(alice):
    with pytest.raises(NotPermitted):
        list(usage.rebuild_rollups(alice.actor))


def test_the_schedule_repairs_what_something_else_than_the_writer_wrote(alice):
    note(alice, 4)
    usage.flush()
    right = contents()
    tasks.reconcile()
    assert contents() == right

    # An older version, still running during an upgrade, knows no roll-ups.
    UsageEvent.objects.bulk_create([UsageEvent(organization=alice.organization, status="ok", latency_ms=7)])
    tasks.reconcile()
    tasks.reconcile()

    assert usage.look_back(None, span=usage.SPANS["24h"]).total.calls == 5
    assert usage.look_back(None, span=usage.SPANS["7d"]).total.calls == 5
    assert usage.reconcile() == []


def test_names_that_nothing_has_do_not_make_a_roll_up_each(alice):
    for number in range(20):
        note(alice, name=f"guess-{number}", server="", status="error", error_code="NOT_FOUND")

    usage.flush()

    assert [(each.name, each.calls) for each in Rollup.objects.filter(period="day")] == [("", 20)]


@pytest.mark.django_db(transaction=True)
def test_days_are_rebuilt_while_calls_go_on_and_none_is_lost_or_counted_twice(alice):
    def call_often():
        own = writer._Writer()
        for _ in range(12):
            for event in range(5):
                own.record(_call(alice, event))
            own.write_all()
        connection.close()

    callers = [Thread(target=call_often) for _ in range(2)]
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers):
        rollups.rebuild_day(timezone.now().astimezone(UTC).date())
    for caller in callers:
        caller.join()

    for span in usage.SPANS.values():
        assert usage.look_back(alice.organization.id, span=span).total.calls == UsageEvent.objects.count() == 120


def test_what_is_written_while_events_and_sums_are_compared_is_no_fault(alice):
    note(alice, 3)
    usage.flush()

    def write_another_after(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.lstrip("(").startswith("SELECT") and UsageEvent._meta.db_table in sql:
            with connection.execute_wrapper(lambda run, *statement: run(*statement)):
                UsageEvent.objects.bulk_create(events_of(alice, 1, seed=2))
        return result

    before = contents()
    with connection.execute_wrapper(write_another_after):
        assert rollups.reconcile() == []
    assert contents() == before


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_whoever_writes_while_a_day_is_rebuilt_waits_until_it_is_done(alice, monkeypatch):
    note(alice, 3)
    usage.flush()
    late = Thread(target=_write_one, args=(alice,))
    events_of_day = rollups._events_of

    def read_while_one_more_is_written(day):
        events = list(events_of_day(day))
        late.start()
        while late.is_alive() and not waits_for_the_rollups():
            late.join(0.05)
        return events

    monkeypatch.setattr(rollups, "_events_of", read_while_one_more_is_written)
    rollups.rebuild_day(timezone.now().astimezone(UTC).date())
    late.join()

    counted = usage.look_back(alice.organization.id, span=usage.SPANS["24h"]).total.calls
    assert counted == UsageEvent.objects.count() == 4


def waits_for_the_rollups() -> bool:
    """Whether somebody waits for the lock on the table of roll-ups."""
    with connection.cursor() as cursor:
        table = Rollup._meta.db_table
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass", [table])
        return cursor.fetchone() is not None


def _write_one(person) -> None:
    own = writer._Writer()
    own.record(_call(person, 1))
    own.write_all()
    connection.close()


def _call(person, number: int) -> writer._Call:
    return writer._Call(
        timezone.now(), person.organization.id, person.actor, "/mcp", "tools/call", f"t{number}",
        "time", "ok", "", 1.5, 0, 0, "",
    )  # fmt: skip
