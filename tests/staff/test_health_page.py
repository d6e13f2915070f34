"""The page of a server's health: what it shows, to whom, and the steps of a tested connection on it."""

import json
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from apps.registry.models import HealthHour, Server
from apps.registry.schemas import BreakerOut
from tests.factories.registry import HealthCheckFactory, HealthHourFactory, ServerFactory
from tests.people import Person
from tests.staff.rooms import deed_url, enter

pytestmark = pytest.mark.django_db


def health_url(server: Server) -> str:
    """The page of a server."""
    return reverse("admin:registry_server_health", args=[server.pk])


def text_of(answer: Any) -> str:
    """What a person reads, on one line."""
    page = re.sub(r"<script.*?</script>|<style.*?</style>", " ", answer.content.decode(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))


def charts_of(answer: Any) -> list[dict[str, Any]]:
    """The numbers that the script draws."""
    return [json.loads(unescape(each)) for each in re.findall(r'data-value="([^"]*)"', answer.content.decode())]


@pytest.fixture
def server(alice: Person) -> Server:
    """A server of Acme's."""
    return ServerFactory(organization=alice.organization, name="Weather", approved_at=timezone.now())


def test_a_server_without_a_check_shows_that_nothing_is_known(alice: Person, server: Server) -> None:
    answer = enter(alice).get(health_url(server))

    text = text_of(answer)
    assert text.count("No check of the checks passed") == 3  # a figure for each window, and none says 100 %
    assert "100 %" not in text
    assert "No check in the last 24 hours" in text
    assert charts_of(answer) == []


def test_the_page_tells_uptime_latency_failures_and_the_breaker_and_the_table_says_what_the_charts_show(
    alice: Person, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = BreakerOut(state="open", failures=7, retry_after_seconds=9, crashes=3, restart_after_seconds=4)
    monkeypatch.setattr("apps.gateway.services.breaker_state", lambda server_id: breaker)
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    HealthHourFactory(server=server, at=hour, checks=10, passed=9, latency_ms_total=90.0, latency_ms_most=31.0)
    HealthHourFactory(server=server, at=hour - timedelta(hours=3), checks=10, passed=0, latency_ms_total=0)
    HealthCheckFactory(server=server, health="unhealthy", latency_ms=None, message="It said <b>no</b>\u202e.")
    Server.objects.filter(pk=server.pk).update(
        health="unhealthy", consecutive_failures=2, failing_since=hour, checked_at=hour, health_message="Gone."
    )

    answer = enter(alice).get(health_url(server))

    text = text_of(answer)
    for said in (
        "45 %", "Calls are refused", "in 9 s", "3 times in a row", "in 4 s", "Failures in a row 2", "Gone.", "10 ms",
        "Unhealthy", "<b>no</b> U+202E",
    ):  # fmt: skip
        assert said in text, said
    latency, counts = charts_of(answer)
    assert len(latency["labels"]) == 25
    assert [each["data"][-1] for each in latency["datasets"]] == [10.0, 31.0]
    assert [each["data"][-4:] for each in counts["datasets"]] == [[0, 0, 0, 9], [10, 0, 0, 1]]
    assert latency["datasets"][0]["data"][-4:-1] == [None, None, None]  # a gap, not a zero
    assert f"{hour:%Y-%m-%d %H}:00 10 1 10 ms 31 ms" in text


@pytest.mark.parametrize(("period", "points", "step"), [("7d", 169, "hour"), ("30d", 31, "day"), ("x", 25, "hour")])
def test_another_period_shows_other_steps(alice: Person, server: Server, period: str, points: int, step: str) -> None:
    HealthHourFactory(server=server, at=timezone.now().replace(minute=0, second=0, microsecond=0))

    answer = enter(alice).get(health_url(server), {"period": period})

    assert len(charts_of(answer)[0]["labels"]) == points
    assert f"Checks by {step}" in text_of(answer)
    assert answer.content.count(b'aria-current="true"') == 1


def test_a_tested_connection_shows_its_steps_on_the_page(alice: Person, server: Server) -> None:
    Server.objects.filter(pk=server.pk).update(url="http://127.0.0.1:9/mcp")

    answer = enter(alice).post(deed_url(server, "test_connection"))

    text = text_of(answer)
    assert answer.status_code == 200
    assert re.search(r"Connection, step by step.*Resolve failed.*GATEHOUSE_EGRESS_ALLOW.*Uptime, 24 hours", text)
    assert "The first step that failed" in text


def test_the_page_opens_for_nobody_else(alice: Person, bob: Person, dora: Person, root: Person, server: Server) -> None:
    assert enter(bob).get(health_url(server)).status_code == 404
    assert enter(dora).get(health_url(server)).status_code in (302, 403)
    assert enter(root).get(health_url(server)).status_code == 200
    assert enter(alice).get(reverse("admin:registry_server_health", args=["nonsense"])).status_code == 404
    Server.objects.filter(pk=server.pk).update(deleted_at=timezone.now())
    assert enter(alice).get(health_url(server)).status_code == 404
    assert b"/health/" not in enter(alice).get(reverse("admin:registry_server_change", args=[server.pk])).content


def test_a_month_of_hours_costs_no_more_queries_than_an_empty_page(
    alice: Person, server: Server, django_assert_max_num_queries: Any
) -> None:
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    HealthHour.objects.bulk_create(
        HealthHour(organization_id=server.organization_id, server=server, at=now - timedelta(hours=number), checks=60)
        for number in range(720)
    )
    client = enter(alice)
    client.get(health_url(server))

    with django_assert_max_num_queries(20):
        assert client.get(health_url(server), {"period": "30d"}).status_code == 200
