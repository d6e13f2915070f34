"""A secret is written and used; it is never shown, and opens only where it belongs."""

import json
import os

import pytest
from django.core.management import call_command
from django.db import connection

from apps.audit.models import Entry
from apps.core.errors import BackendError, InvalidInput, NotFound
from apps.core.ids import new_id
from apps.core.loader import backend
from apps.secrets import services as secrets
from apps.secrets.backends.base import SecretStore
from apps.secrets.models import Secret

pytestmark = pytest.mark.django_db
PLAIN = "canary-correct-horse-ü"


@pytest.fixture
def secret(alice):
    return secrets.keep(alice.actor, purpose="server:weather", plain=PLAIN)


def open_it(secret, person):
    return secrets.open_secret(secret.id, organization_id=person.organization.id)


def entries(person):
    rows = Entry.objects.for_org(person.organization.id).filter(action__startswith="secret.").order_by("sequence")
    return list(rows.values_list("action", "subject"))


def test_a_secret_opens_for_its_organisation(secret, alice):
    assert open_it(secret, alice) == PLAIN
    assert entries(alice) == [("secret.kept", "secret:server:weather")]


def test_a_secret_of_another_organisation_is_not_found(secret, bob):
    for attempt in (
        lambda: open_it(secret, bob),
        lambda: secrets.replace(bob.actor, secret_id=secret.id, plain="x"),
        lambda: secrets.forget(bob.actor, secret_id=secret.id),
    ):
        with pytest.raises(NotFound):
            attempt()

    assert Secret.objects.get(pk=secret.pk).value == secret.value


def test_a_value_moved_to_another_row_does_not_open(secret, alice):
    other = secrets.keep(alice.actor, purpose="server:clock", plain="other")

    Secret.objects.filter(pk=other.pk).update(value=secret.value)

    with pytest.raises(BackendError, match="changed"):
        open_it(other, alice)


def test_a_row_moved_to_another_organisation_does_not_open(secret, bob):
    Secret.objects.filter(pk=secret.pk).update(organization_id=bob.organization.id)

    with pytest.raises(BackendError):
        open_it(secret, bob)


def test_a_value_under_another_id_does_not_open(secret, alice):
    copy = new_id()

    Secret.objects.filter(pk=secret.pk).update(id=copy)

    with pytest.raises(BackendError):
        secrets.open_secret(copy, organization_id=alice.organization.id)


def test_the_database_without_the_keys_is_of_no_use(secret, alice, settings, tmp_path):
    dump = tmp_path / "dump.json"
    call_command("dumpdata", output=str(dump), verbosity=0)
    settings.SEALING_KEYS = {number: os.urandom(32) for number in settings.SEALING_KEYS}

    text = dump.read_text()
    assert secret.value in text
    for form in (PLAIN, json.dumps(PLAIN).strip('"'), PLAIN.encode().hex(), "Y2FuYXJ5LWNvcnJlY3Q"):
        assert form not in text
    with pytest.raises(BackendError):
        open_it(secret, alice)


@pytest.mark.django_db(transaction=True)
@pytest.mark.sqlite_only
def test_the_database_file_holds_no_plain_text(alice):
    secrets.keep(alice.actor, purpose="server:weather", plain=PLAIN)

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    name = connection.settings_dict["NAME"]
    with open(name, "rb") as file:  # noqa: PTH123 - the whole file, as an attacker finds it
        content = file.read()
    assert b"server:weather" in content and PLAIN.encode() not in content


def test_a_secret_shows_its_purpose_and_nothing_else(secret):
    assert PLAIN not in str(secret) + repr(secret)


def test_a_replaced_secret_opens_with_its_new_value(secret, alice):
    before = secret.value

    secrets.replace(alice.actor, secret_id=secret.id, plain="new one")

    assert open_it(secret, alice) == "new one"
    assert Secret.objects.get(pk=secret.pk).value != before
    assert entries(alice)[-1] == ("secret.replaced", "secret:server:weather")


def test_a_forgotten_secret_is_gone(secret, alice):
    secrets.forget(alice.actor, secret_id=secret.id)

    with pytest.raises(NotFound):
        open_it(secret, alice)
    assert entries(alice)[-1] == ("secret.forgotten", "secret:server:weather")


@pytest.mark.parametrize("plain", ["", "x" * (secrets.LONGEST_BYTES + 1), "ü" * secrets.LONGEST_BYTES])
def test_an_empty_or_endless_secret_is_refused(alice, plain):
    with pytest.raises(InvalidInput) as refused:
        secrets.keep(alice.actor, purpose="p", plain=plain)

    assert list(refused.value.details["fields"]) == ["secret"]
    assert Secret.objects.count() == 0


def test_a_secret_needs_an_organisation(root):
    with pytest.raises(InvalidInput):
        secrets.keep(root.actor, purpose="p", plain="x")


def test_the_journal_never_holds_the_value(secret, alice):
    secrets.replace(alice.actor, secret_id=secret.id, plain=PLAIN + "2")

    assert PLAIN not in json.dumps(list(Entry.objects.values()), default=str, ensure_ascii=False)


@pytest.mark.parametrize("name", ["sealed"])
def test_every_store_gives_back_what_it_was_given_and_only_there(name):
    store: SecretStore = backend("secret_store", name)
    acme, globex, row, other = (new_id() for _ in range(4))

    value = store.put(PLAIN, organization_id=acme, secret_id=row)

    assert store.get(value, organization_id=acme, secret_id=row) == PLAIN and PLAIN not in value
    for organization_id, secret_id in ((globex, row), (acme, other)):
        with pytest.raises(BackendError):
            store.get(value, organization_id=organization_id, secret_id=secret_id)
    store.forget(value, organization_id=acme, secret_id=row)
