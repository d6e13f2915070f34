"""Figures of usage: counts, percentiles, lists; each organisation sees its own."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from apps.core.errors import NotPermitted
from apps.core.schemas import PageQuery
from apps.usage import services as usage
from apps.usage.models import BOUNDS_MS
from apps.usage.schemas import EventFilters
from tests.factories.usage import UsageEventFactory

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 20, 13, 30, tzinfo=UTC)
A_FIFTH = 2**0.25


def make(person, **fields):
    return UsageEventFactory(organization=person.organization, **{"at": NOW, **fields})


def look(person=None, span="24h"):
    return usage.look_back(person.organization.id if person else None, span=usage.SPANS[span], now=NOW)


def test_a_span_counts_calls_errors_and_denials_of_its_time_alone(alice):
    for status, number in (("ok", 5), ("error", 2), ("denied", 3)):
        for _ in range(number):
            make(alice, status=status)
    make(alice, at=NOW - 24 * HOUR)

    found = look(alice).total

    assert (found.calls, found.errors, found.denied) == (10, 2, 3)


@pytest.mark.parametrize(
    ("span", "length", "first"),
    [
        ("24h", 24, datetime(2026, 11, 19, 14, tzinfo=UTC)),
        ("7d", 7, datetime(2026, 11, 14, tzinfo=UTC)),
        ("30d", 30, datetime(2026, 10, 22, tzinfo=UTC)),
    ],
)
def test_a_span_has_every_hour_or_day_and_ends_with_the_current_one(alice, span, length, first):
    make(alice)
    make(alice, at=first)
    make(alice, at=first - timedelta(seconds=1))

    points = look(alice, span).points

    assert [len(points), points[0].starts_at, points[0].figures.calls, points[-1].figures.calls] == [
        length,
        first,
        1,
        1,
    ]
    assert sum(point.figures.calls for point in points) == look(alice, span).total.calls == 2


def test_percentiles_leave_denials_out_and_are_at_most_a_fifth_off(alice):
    latencies = [1.01 * 1.11**step for step in range(100)]
    for latency in latencies:
        make(alice, latency_ms=latency, name="one" if latency < 50 else "other")
    for _ in range(100):
        make(alice, status="denied", latency_ms=0.1)

    found = look(alice).total

    for per_cent in (1, 10, 50, 75, 90, 95, 99, 100):
        true = latencies[per_cent - 1]
        assert true / A_FIFTH <= found.percentile_ms(per_cent) <= true * A_FIFTH, per_cent
    assert (found.p50_ms, found.p95_ms) == (found.percentile_ms(50), found.percentile_ms(95))


def test_percentiles_of_parts_can_be_put_together(alice, bob):
    for number in range(40):
        make(alice if number % 2 else bob, latency_ms=2.0 ** (number % 12), at=NOW - number * timedelta(minutes=20))
    parts = [look(alice).total, look(bob).total]

    assert usage.Figures.together(parts) == look().total == usage.Figures.together([p.figures for p in look().points])


@pytest.mark.parametrize(
    ("latencies", "p50", "p95"),
    [([], None, None), ([0.2], 0.2, 0.2), ([1.0, 5000.0], 1.0, 4870.992), ([90_000.0], BOUNDS_MS[-1], BOUNDS_MS[-1])],
)
def test_percentiles_of_few_calls_and_at_the_ends(alice, latencies, p50, p95):
    for latency in latencies:
        make(alice, latency_ms=latency)

    found = look(alice).total

    assert (found.p50_ms, found.p95_ms) == (p50, pytest.approx(p95) if p95 else None)


def test_the_busiest_tools_come_first(alice, bob):
    for name, number in (("rare", 1), ("busy", 3), ("usual", 2)):
        for _ in range(number):
            make(alice, name=name, status="error" if name == "busy" else "ok")
    make(bob, name="theirs")

    found = usage.busiest_tools(alice.organization.id, span=usage.SPANS["24h"], limit=2, now=NOW)

    assert [(tool.server, tool.name, tool.figures.calls, tool.figures.errors) for tool in found] == [
        ("time", "busy", 3, 3),
        ("time", "usual", 2, 0),
    ]


def test_each_organisation_counts_its_own_and_the_platform_all(alice, bob):
    make(alice)
    make(bob, status="denied")

    assert (look(alice).total.calls, look(bob).total.calls, look().total.calls) == (1, 1, 2)
    assert usage.latest_denials(alice.organization.id, limit=5) == []
    assert len(usage.latest_denials(bob.organization.id, limit=5)) == len(usage.latest_denials(None, limit=5)) == 1


def test_only_a_call_that_was_let_through_is_a_first_call(alice, bob):
    make(alice, status="denied")
    make(bob)

    assert not usage.has_been_called(alice.organization.id)
    assert usage.has_been_called(bob.organization.id)
    assert usage.has_been_called(None)
    make(alice, status="error")
    assert usage.has_been_called(alice.organization.id)


def test_the_latest_denials_come_newest_first_and_not_too_many(alice):
    for number in range(5):
        make(alice, status="denied", name=f"tool-{number}")

    assert [event.name for event in usage.latest_denials(alice.organization.id, limit=2)] == ["tool-4", "tool-3"]


def test_the_list_is_filtered_newest_first_and_ones_own(alice, bob):
    now = timezone.now()
    make(bob, at=now)
    make(alice, name="a", status="denied", at=now)
    make(alice, name="b", server="", surface="rest", method="resources/read", at=now)
    make(alice, name="c", at=now - 2 * HOUR)

    def names(**filters):
        page = usage.list_events(alice.actor, filters=EventFilters(**filters), page=PageQuery())
        return [event.name for event in page.items]

    assert names() == ["b", "a", "c"]
    assert names(status="denied") == names(name="a") == ["a"]
    assert names(server="") == names(surface="rest") == names(method="resources/read") == ["b"]
    assert names(until=now - HOUR) == ["c"]
    assert names(since=now - HOUR) == ["b", "a"]


def test_calls_are_not_for_everybody_to_see(victor):
    with pytest.raises(NotPermitted):
        usage.list_events(victor.actor, filters=EventFilters(), page=PageQuery())
