"""Figures of usage: counts, percentiles, lists; each organisation sees its own."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.core.errors import NotPermitted
from apps.core.schemas import PageQuery
from apps.usage import services as usage
from apps.usage.schemas import EventFilters
from tests.factories.usage import UsageEventFactory

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def make(person, **fields):
    return UsageEventFactory(organization=person.organization, **fields)


def summary(person=None, since=None):
    return usage.summarize(person.organization.id if person else None, since=since or timezone.now() - HOUR)


def test_a_summary_counts_calls_errors_and_denials_of_the_period(alice):
    for status, number in (("ok", 5), ("error", 2), ("denied", 3)):
        for _ in range(number):
            make(alice, status=status)
    make(alice, at=timezone.now() - 2 * HOUR)

    found = summary(alice)

    assert (found.calls, found.errors, found.denied) == (10, 2, 3)


def test_percentiles_are_exact_and_leave_denials_out(alice):
    for latency in range(1, 101):
        make(alice, latency_ms=float(latency))
    for _ in range(100):
        make(alice, status="denied", latency_ms=0.1)

    found = summary(alice)

    assert (found.p50_ms, found.p95_ms) == (50.0, 95.0)


@pytest.mark.parametrize(("latencies", "p50", "p95"), [([], None, None), ([7.0], 7.0, 7.0), ([1.0, 2.0], 1.0, 2.0)])
def test_percentiles_of_few_calls(alice, latencies, p50, p95):
    for latency in latencies:
        make(alice, latency_ms=latency)

    found = summary(alice)

    assert (found.p50_ms, found.p95_ms) == (p50, p95)


def test_beyond_the_largest_sample_the_newest_calls_count(alice, monkeypatch):
    monkeypatch.setattr("apps.usage.services.figures.LARGEST_SAMPLE", 10)
    for number in range(30):
        make(alice, latency_ms=float(number), at=timezone.now() - timedelta(seconds=30 - number))

    assert summary(alice).p50_ms == 24.0


def test_each_organisation_counts_its_own_and_the_platform_all(alice, bob):
    make(alice)
    make(bob, status="denied")

    assert (summary(alice).calls, summary(bob).calls, summary().calls) == (1, 1, 2)
    assert usage.latest_denials(alice.organization.id, limit=5) == []
    assert len(usage.latest_denials(bob.organization.id, limit=5)) == len(usage.latest_denials(None, limit=5)) == 1


def test_the_latest_denials_come_newest_first_and_not_too_many(alice):
    for number in range(5):
        make(alice, status="denied", name=f"tool-{number}")

    assert [event.name for event in usage.latest_denials(alice.organization.id, limit=2)] == ["tool-4", "tool-3"]


def test_the_list_is_filtered_and_ones_own(alice, bob):
    make(bob)
    make(alice, name="a", status="denied")
    make(alice, name="b", server="", surface="rest", method="resources/read")
    make(alice, name="c", at=timezone.now() - 2 * HOUR)

    def names(**filters):
        page = usage.list_events(alice.actor, filters=EventFilters(**filters), page=PageQuery())
        return [event.name for event in page.items]

    assert names() == ["c", "b", "a"]
    assert names(status="denied") == names(name="a") == ["a"]
    assert names(server="") == names(surface="rest") == names(method="resources/read") == ["b"]
    assert names(until=timezone.now() - HOUR) == ["c"]
    assert names(since=timezone.now() - HOUR) == ["b", "a"]


def test_calls_are_not_for_everybody_to_see(victor):
    with pytest.raises(NotPermitted):
        usage.list_events(victor.actor, filters=EventFilters(), page=PageQuery())
