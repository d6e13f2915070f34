"""Metered calls over REST."""

import pytest

from tests.factories.usage import UsageEventFactory

pytestmark = pytest.mark.django_db(transaction=True)
EVENTS = "/api/v1/metrics/events"


def test_calls_are_listed_and_filtered(alice, bob, live):
    UsageEventFactory(organization=bob.organization, name="bobs")
    UsageEventFactory(organization=alice.organization, name="mine", status="denied", latency_ms=2.5)
    rest = live.rest(alice)

    page = rest.get(EVENTS, query={"status": "denied"}).json()

    assert [(event["name"], event["latency_ms"]) for event in page["items"]] == [("mine", 2.5)]
    assert rest.get(EVENTS, query={"name": "bobs"}).json()["total"] == 0
    assert rest.get(EVENTS, query={"cost__gt": "0"}).status == 400
    assert rest.get(EVENTS, query={"since": "now"}).status == 400


def test_a_viewer_does_not_see_them(victor, live):
    assert live.rest(victor).get(EVENTS).status == 403
