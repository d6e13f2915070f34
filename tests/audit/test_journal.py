"""What the journal writes down, and who may read it."""

import json
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.audit.models import PLATFORM_CHAIN, Entry
from apps.audit.schemas import LogFilters
from apps.core.actor import Actor, system_actor
from apps.core.errors import NotPermitted
from apps.core.logs import request_id
from apps.core.schemas import PageQuery
from apps.secrets.models import Secret

pytestmark = pytest.mark.django_db
EVERYTHING = LogFilters()
FIRST_PAGE = PageQuery()


def test_an_entry_says_who_did_what_to_what_and_where(alice):
    token = request_id.set("r-1")

    entry = audit.record(alice.actor, "org.renamed", alice.organization, details={"name": "Acme"})
    request_id.reset(token)

    entry.refresh_from_db()
    assert (entry.action, entry.subject, entry.outcome) == ("org.renamed", "organization:acme", "done")
    assert (entry.actor_kind, entry.actor_id, entry.surface) == ("user", str(alice.user.id), "rest")
    assert (entry.chain_id, entry.request_id, entry.details) == (alice.organization.id, "r-1", {"name": "Acme"})


def test_a_subject_is_called_by_its_name_and_kept_by_its_id(alice):
    entry = audit.record(alice.actor, "user.changed", alice.user)

    assert (entry.subject, entry.subject_id) == (f"user:{alice.email}", str(alice.user.pk))


def test_each_organisation_has_a_chain_of_its_own_and_the_platform_has_one(alice, bob):
    for actor in (alice.actor, bob.actor, alice.actor, system_actor()):
        audit.record(actor, "thing.done")

    def numbers(chain_id):
        return list(Entry.objects.filter(chain_id=chain_id, action="thing.done").values_list("sequence", flat=True))

    assert sorted(numbers(alice.organization.id))[-1] - sorted(numbers(alice.organization.id))[0] == 1
    assert len(numbers(bob.organization.id)) == len(numbers(PLATFORM_CHAIN)) == 1


def test_a_refusal_is_an_entry_like_any_other(alice):
    audit.record(alice.actor, "server.approved", "server:weather", outcome="refused")

    refused = audit.list_entries(alice.actor, filters=LogFilters(outcome="refused"), page=FIRST_PAGE)

    assert [entry.action for entry in refused.items] == ["server.approved"]


def test_secrets_in_details_are_masked(alice):
    details = {"password": "hunter2hunter2", "url": "https://u:pw@host/", "nested": [{"api_key": "x" * 30}]}

    entry = audit.record(alice.actor, "server.registered", details=details)

    text = json.dumps(entry.details)
    assert "hunter2" not in text and "u:pw" not in text and "xxx" not in text


@pytest.mark.parametrize(
    "value",
    [1e16, -0.0, 0.1, 1e-7, float("inf"), float("nan"), 2**70, "a\x00b", "half \ud800", Decimal("1.50"), "é😀",
     {"b": 1, "a": {"ü": None}}, [True, False], timezone.now(), uuid4(), "x" * 50_000],
)  # fmt: skip
def test_whatever_is_in_the_details_the_entry_can_be_stored_and_verifies(alice, value):
    audit.record(alice.actor, "thing.done", details={"value": value})

    assert audit.verify(alice.organization.id) == []


def test_texts_that_are_too_long_for_their_column_are_cut(alice):
    actor = Actor(kind="user", id=None, label="l" * 300, surface="rest", address="a" * 100)

    entry = audit.record(actor, "thing.done", "s" * 300)

    assert (len(entry.actor_label), len(entry.subject), len(entry.address)) == (200, 200, 45)
    assert audit.verify(PLATFORM_CHAIN) == []


def test_what_is_rolled_back_leaves_no_entry(alice):
    before = Entry.objects.count()

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Secret(organization_id=alice.organization.id, purpose="p", value="v").store()
        audit.record(alice.actor, "secret.kept")
        raise ZeroDivisionError

    assert (Secret.objects.count(), Entry.objects.count()) == (0, before)
    assert audit.verify() == []


def test_an_entry_that_cannot_be_written_takes_the_action_with_it(alice, monkeypatch):
    monkeypatch.setattr("apps.audit.services.entries.digest_of", lambda entry: 1 / 0)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Secret(organization_id=alice.organization.id, purpose="p", value="v").store()
        audit.record(alice.actor, "secret.kept")

    assert Secret.objects.count() == 0


def test_the_list_shows_the_newest_of_ones_own_organisation_only(alice, bob):
    audit.record(bob.actor, "bob.acted")
    for number in range(3):
        audit.record(alice.actor, "thing.done", f"thing:{number}")

    page = audit.list_entries(alice.actor, filters=LogFilters(action="thing.done"), page=PageQuery(page_size=2))

    assert ([entry.subject for entry in page.items], page.total) == (["thing:2", "thing:1"], 3)
    everything = audit.list_entries(alice.actor, filters=EVERYTHING, page=PageQuery(page_size=200))
    assert {entry.chain_id for entry in everything.items} == {alice.organization.id}


def test_filters_narrow_by_every_column(alice):
    audit.record(alice.actor, "server.registered", "server:weather")
    audit.record(system_actor(alice.organization.id), "server.checked", "server:weather")
    audit.record(alice.actor, "serverless.made", "server:clock")

    def found(**filters):
        page = audit.list_entries(alice.actor, filters=LogFilters(**filters), page=PageQuery(page_size=200))
        return [entry.action for entry in page.items if entry.action.startswith("server")]

    assert found(action="server.*") == ["server.checked", "server.registered"]
    assert found(action="server.registered") == ["server.registered"]
    assert found(actor="gatehouse") == ["server.checked"]
    assert found(actor=str(alice.user.id), subject="server:weather") == ["server.registered"]
    assert found(since=timezone.now() + timedelta(minutes=1)) == []
    assert len(found(until=timezone.now() + timedelta(minutes=1))) == 3


def test_only_those_with_the_permission_read_the_journal(victor, root):
    with pytest.raises(NotPermitted):
        audit.list_entries(victor.actor, filters=EVERYTHING, page=FIRST_PAGE)

    assert audit.list_entries(root.actor, filters=EVERYTHING, page=FIRST_PAGE).total == 0
