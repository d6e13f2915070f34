"""The overview: what was called, as charts and in words, and the way to the first call."""

import json
import re
from datetime import timedelta
from html import unescape

import pytest
from django.urls import reverse
from django.utils import timezone

from apps.auth.models import ApiKey
from apps.gateway.services import CLIENTS
from config.env import BASE_DIR
from tests.factories.auth import ApiKeyFactory
from tests.factories.registry import ServerFactory
from tests.factories.usage import UsageEventFactory
from tests.staff.rooms import enter

pytestmark = pytest.mark.django_db
INDEX = "/admin/"
STEP = re.compile(r'<li class="gh-first-step([^"]*)".*?<h3>\d\. ([^<]*).*?<a [^>]*href="([^"]*)"', re.DOTALL)


def call(person, **fields):
    return UsageEventFactory(organization=person.organization, **fields)


def charts(text: str) -> list[dict]:
    """The numbers that each chart draws."""
    return [json.loads(unescape(found)) for found in re.findall(r'<canvas [^>]*data-value="([^"]*)"', text)]


def table(text: str) -> list[list[str]]:
    """The rows of the table that says the same as the charts."""
    body = re.search(r"<caption.*?<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    return [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in body.split("</tr>") if row]


def steps(text: str) -> dict[str, str]:
    """Each step of the beginning: done, next or neither."""
    return {title: state.removeprefix(" gh-first-") for state, title, _ in STEP.findall(text)}


@pytest.mark.parametrize(("span", "length", "unit"), [("24h", 24, "hour"), ("7d", 7, "day"), ("30d", 30, "day")])
def test_a_period_is_drawn_by_hour_or_day_and_told_in_a_table(alice, span, length, unit):
    for status, number in (("ok", 3), ("error", 2), ("denied", 1)):
        for _ in range(number):
            call(alice, status=status)

    text = enter(alice).get(f"{INDEX}?span={span}").text

    calls, latencies = charts(text)
    assert {name: line["data"][-1] for name, line in lines(calls).items()} == {"fine": 3, "errors": 2, "denied": 1}
    assert all(len(line["data"]) == length for chart in (calls, latencies) for line in chart["datasets"])
    assert lines(latencies)["p50"]["data"][-1] is not None
    assert len(table(text)) == length
    assert table(text)[0][1:4] == ["6", "2", "1"]
    assert f"Calls by {unit}" in text
    assert f'href="?span={span}" aria-current="true"' in text


def lines(chart: dict) -> dict[str, dict]:
    return {line["label"]: line for line in chart["datasets"]}


def test_what_is_no_period_shows_a_day(alice):
    for nonsense in ("", "1y", "<script>", "24h'"):
        assert 'href="?span=24h" aria-current="true"' in enter(alice).get(INDEX, {"span": nonsense}).text


def test_calls_before_the_period_are_not_in_it(alice):
    call(alice, at=timezone.now() - timedelta(days=3), name="time__earlier")
    client = enter(alice)

    assert "No calls in 24 hours" in client.get(INDEX).text
    assert "time__earlier" in client.get(f"{INDEX}?span=7d").text


def test_each_organisation_sees_its_own_figures_and_a_platform_admin_those_of_all(alice, bob, root):
    call(alice, name="time__ours")
    call(bob, name="time__theirs")

    ours, all_of_them = enter(alice).get(INDEX).text, enter(root).get(INDEX).text

    assert [lines(charts(text)[0])["fine"]["data"][-1] for text in (ours, all_of_them)] == [1, 2]
    assert "time__theirs" not in ours
    assert "time__theirs" in all_of_them


def test_names_of_tools_are_text_and_nothing_else(alice):
    call(alice, name="<img src=x onerror=alert(1)>")

    assert "<img src=x" not in enter(alice).get(INDEX).text


def test_the_first_steps_are_ticked_one_after_the_other_and_go_with_the_first_call(alice):
    client = enter(alice)

    def state() -> list[str]:
        return list(steps(client.get(INDEX).text).values())

    assert state() == ["next", "", "", "", ""]
    server = ServerFactory(organization=alice.organization, approved_at=None)
    assert state() == ["done", "next", "", "", ""]
    server.approved_at = timezone.now()
    server.save()
    assert state() == ["done", "done", "next", "", ""]
    ApiKeyFactory(organization=alice.organization, user=alice.user)
    assert state() == ["done", "done", "done", "next", ""]
    ApiKey.objects.update(last_used_at=timezone.now())
    assert state() == ["done", "done", "done", "done", "next"]
    call(alice, status="denied")
    assert state() == ["done", "done", "done", "done", "next"]
    call(alice)
    assert state() == []


def test_each_first_step_leads_to_where_it_is_done(alice, bob):
    call(bob)
    ServerFactory(organization=alice.organization, approved_at=None, name="Ours")
    client = enter(alice)

    found = {title: url for _, title, url in STEP.findall(client.get(INDEX).text)}

    assert list(found) == ["Add a server", "Approve it", "Make a key", "Connect a client", "Call a tool"]
    assert all(client.get(url).status_code == 200 for url in found.values())
    assert "Ours" in client.get(found["Approve it"]).text


def test_a_platform_admin_of_an_empty_platform_is_led_into_an_organisation(alice, root):
    client = enter(root)
    assert f'name="organization" value="{alice.organization.pk}" class="gh-button' in client.get(INDEX).text

    answer = client.post(
        reverse("admin:switch_organization"), {"organization": str(alice.organization.pk)}, follow=True
    )

    assert next(iter(steps(answer.text).values())) == "next"


def test_how_to_connect_is_told_for_every_program_and_tells_nothing_of_the_machine(alice, dora):
    text = unescape(enter(alice).get(reverse("admin:connect")).text)

    assert all(f"<summary>{name}</summary>" in text for name in CLIENTS)
    assert text.count("gate_YOUR_KEY") > len(CLIENTS)
    assert str(BASE_DIR) not in text
    assert enter(dora).get(reverse("admin:connect")).status_code == 302
