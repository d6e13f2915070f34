"""How servers have fared: what is due, what is summed up, what is kept, and what is told of it."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.registry import services
from apps.registry.models import Health, HealthCheck, HealthHour, Server
from apps.registry.schemas import BreakerOut, Period
from apps.registry.services import checks, history
from tests.factories.registry import HealthCheckFactory, HealthHourFactory, ServerFactory
from tests.people import Person

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 20, 14, 25, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The clock stands still."""
    monkeypatch.setattr(timezone, "now", lambda: NOW)
    return NOW


@pytest.fixture
def server(alice: Person) -> Server:
    """A server of Acme's."""
    return ServerFactory.create(organization=alice.organization)


def note(server: Server, ago: timedelta, health: str = Health.HEALTHY, latency_ms: float | None = 10.0) -> None:
    """A check as the service notes it."""
    check = HealthCheckFactory.create(server=server, at=NOW - ago, health=health, latency_ms=latency_ms)
    history.add_to_hour(check)


def uptimes(server: Server) -> tuple[float | None, ...]:
    """Over a day, a week and a month."""
    found = services.uptime_of(server)
    return found.last_24_hours, found.last_7_days, found.last_30_days


# Uptime ----------------------------------------------------------------------------------------------------------


@pytest.mark.both
def test_a_server_without_a_check_has_no_uptime_at_all(server: Server, alice: Person) -> None:
    assert uptimes(server) == (None, None, None)
    assert services.get_health(alice.actor, server_id=server.id).health == "unknown"


@pytest.mark.both
def test_a_window_begins_exactly_where_it_says(server: Server, now: datetime) -> None:
    note(server, timedelta(days=1), Health.UNHEALTHY)  # the first moment of the day
    note(server, timedelta(days=1, microseconds=1))  # the last one before it, in the same hour
    assert uptimes(server) == (0.0, 50.0, 50.0)

    note(server, timedelta(days=7))
    note(server, timedelta(days=7, microseconds=1), Health.UNHEALTHY)
    assert uptimes(server) == (0.0, 66.666, 50.0)

    note(server, timedelta(days=30, minutes=25, seconds=30))  # thirty days begin with their whole hour
    note(server, timedelta(days=30, minutes=25, seconds=31), Health.UNHEALTHY)
    assert uptimes(server) == (0.0, 66.666, 60.0)


def test_slow_checks_count_as_passed_and_one_failure_in_many_is_never_rounded_away(
    server: Server, now: datetime
) -> None:
    note(server, MINUTE, Health.DEGRADED)
    assert uptimes(server)[0] == 100.0

    HealthHourFactory.create(server=server, at=NOW - timedelta(hours=2, minutes=25, seconds=30), checks=1_000_000,
                             passed=999_999)  # fmt: skip
    assert uptimes(server)[0] == 99.999


@pytest.mark.both
def test_sums_by_the_hour_say_what_the_single_checks_said(server: Server, now: datetime) -> None:
    for number in range(150):
        health = Health.UNHEALTHY if number % 7 == 0 else Health.HEALTHY
        note(server, timedelta(minutes=13 * number), health, None if number % 7 == 0 else float(number))

    within = HealthCheck.objects.filter(server=server, at__gte=NOW - timedelta(days=1))
    failed = within.filter(health=Health.UNHEALTHY).count()
    assert uptimes(server)[0] == int(100_000 * (1 - failed / within.count())) / 1000
    hours = HealthHour.objects.filter(server=server)
    assert sum(hour.checks for hour in hours) == 150
    assert sum(hour.passed for hour in hours) == 128
    assert max(hour.latency_ms_most for hour in hours) == 149.0


@pytest.mark.both
def test_uptime_is_read_from_hours_in_four_queries_and_each_by_the_range_of_an_index(
    server: Server, now: datetime, django_assert_num_queries: Any
) -> None:
    HealthHour.objects.bulk_create(
        HealthHour(organization_id=server.organization_id, server=server, at=NOW - timedelta(hours=number), checks=360)
        for number in range(700)
    )

    with django_assert_num_queries(4) as asked:
        services.uptime_of(server)

    for query in asked.captured_queries:
        plan = plan_of(query["sql"])
        assert re.search(r"INDEX \w+ \(server_id=\? AND at>\?|Index Cond: .*server_id = .*at >=", plan), plan


def plan_of(sql: str) -> str:
    """How the database would answer; PostgreSQL reads small tables whole unless it is told not to."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {sql}" if connection.vendor == "postgresql" else f"EXPLAIN QUERY PLAN {sql}")
        return " ".join(str(row) for row in cursor.fetchall())


# History ---------------------------------------------------------------------------------------------------------


def test_what_checks_took_is_told_by_the_hour_and_for_a_month_by_the_day(
    server: Server, now: datetime, alice: Person
) -> None:
    note(server, MINUTE, latency_ms=10)
    note(server, 2 * MINUTE, latency_ms=30)
    note(server, 3 * MINUTE, Health.UNHEALTHY, None)
    note(server, timedelta(hours=3), latency_ms=50)
    note(server, timedelta(days=3), Health.UNHEALTHY, None)

    def told(period: Period) -> list[tuple[str, int, int, float | None, float | None]]:
        found = services.get_health(alice.actor, server_id=server.id, period=period).latency
        return [(f"{each.at:%d %H}", each.checks, each.passed, each.latency_ms, each.latency_ms_most) for each in found]

    assert told(Period.DAY) == [("20 11", 1, 1, 50.0, 50.0), ("20 14", 3, 2, 20.0, 30.0)]
    assert told(Period.WEEK) == [("17 14", 1, 0, None, None), *told(Period.DAY)]
    assert told(Period.MONTH) == [("17 00", 1, 0, None, None), ("20 00", 4, 3, 30.0, 50.0)]


def test_single_checks_are_kept_for_a_week_and_their_hours_for_a_month(
    server: Server, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in (7, 9, 30, 32):
        at = timezone.now() - timedelta(days=days)
        HealthCheckFactory.create(server=server, at=at)
        HealthHourFactory.create(server=server, at=at.replace(minute=0, second=0, microsecond=0))
    other = HealthCheckFactory.create(at=timezone.now() - timedelta(days=9))

    services.check_server(alice.actor, server_id=server.id)

    assert HealthCheck.objects.filter(server=server).count() == 2
    assert HealthHour.objects.filter(server=server).count() == 4
    assert HealthCheck.objects.filter(pk=other.pk).exists()


def test_the_health_tells_the_last_checks_the_breaker_and_when_the_next_one_is_due(
    server: Server, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = BreakerOut(state="open", failures=5, retry_after_seconds=8)
    monkeypatch.setattr("apps.gateway.services.breaker_state", lambda server_id: state)
    for _ in range(12):
        services.check_server(alice.actor, server_id=server.id)

    found = services.get_health(alice.actor, server_id=server.id)

    assert found.breaker == state
    assert (found.health, found.consecutive_failures, len(found.last_checks)) == ("unhealthy", 12, 10)
    assert found.next_check_at is not None
    assert timedelta(0) < found.next_check_at - timezone.now() <= timedelta(seconds=60)
    services.disable_server(alice.actor, server_id=server.id)
    assert services.get_health(alice.actor, server_id=server.id).next_check_at is None


# What is due -----------------------------------------------------------------------------------------------------


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which servers a round would have looked at; nothing goes out."""
    seen: list[str] = []

    async def look(plans: Any, tell: Any) -> None:
        for plan in plans:
            seen.append(plan.server.slug)
            tell((plan.server, checks._Finding(Health.HEALTHY, 5.0, "")))

    monkeypatch.setattr(checks, "_check_all", look)
    return seen


@pytest.mark.both
def test_a_round_takes_whoever_is_due_the_longest_overdue_first_and_nobody_else(
    looked_at: list[str], alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(slug: str, overdue: int, person: Person = alice, **more: Any) -> Server:
        due = timezone.now() - timedelta(seconds=overdue)
        return ServerFactory.create(organization=person.organization, slug=slug, check_due_at=due, **more)

    make("b", 10), make("a", 20), make("later", -10), make("c", 5, bob)
    make("off", 99, is_enabled=False), make("gone", 99, deleted_at=timezone.now())
    monkeypatch.setattr(checks, "MOST_IN_A_ROUND", 2)

    counts = [services.check_due_servers() for _ in range(3)]

    assert (counts, looked_at) == ([2, 1, 0], ["a", "b", "c"])


@pytest.mark.both
def test_the_due_are_read_from_an_index(alice: Person) -> None:
    with CaptureQueriesContext(connection) as asked:
        checks._claim_due(NOW)

    plans = [plan_of(query["sql"]) for query in asked.captured_queries if query["sql"].startswith("SELECT")]
    assert ["server_checking" in plans[0], "server_check_due" in plans[1]] == [True, True], plans


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """Rows that other threads see."""
    yield


@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_of_several_that_look_at_the_same_moment_one_takes_each_server(committed: None) -> None:
    made = ServerFactory.create_batch(6)
    taken: list[str] = []
    together = threading.Barrier(4)

    def look() -> None:
        try:
            together.wait(10)
            taken.extend(server.slug for server in checks._claim_due(timezone.now()))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(taken) == sorted(server.slug for server in made)


def test_another_address_or_interval_makes_a_server_due_at_once(alice: Person) -> None:
    later = timezone.now() + timedelta(hours=5)
    for changes in ({"url": "https://other.example/mcp"}, {"check_interval_seconds": 10}):
        server = ServerFactory.create(organization=alice.organization, check_due_at=later)
        services.update_server(alice.actor, server_id=server.id, **changes)
        server.refresh_from_db()
        assert server.check_due_at <= timezone.now()
    services.update_server(alice.actor, server_id=server.id, name="Another name")
    assert Server.objects.get(pk=server.pk).check_due_at == server.check_due_at
