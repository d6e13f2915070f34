"""Sealing keys change, and wrong ones are refused at the start (K06, K09); under traffic: journeys/test_two_webs."""

import os
import time
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from apps.audit.models import Entry
from apps.core.actor import system_actor
from apps.core.errors import Conflict, NotPermitted
from apps.core.keyfiles import KeyFile, KeyFileMapping, new_sealing_key, parse_sealing_keys
from apps.core.sealing import key_number
from apps.secrets import services as secrets
from apps.secrets.apps import check_sealing_keys
from apps.secrets.models import KeyProbe, Secret
from tests.journeys.platform import Platform

pytestmark = pytest.mark.django_db
OPERATOR = system_actor(surface="command")


@pytest.fixture
def kept(tmp_path, settings):
    """A file of sealing keys of this test's own."""
    path = tmp_path / "gatehouse_sealing_keys"
    path.write_text(new_sealing_key(1))
    settings.SEALING_KEYS = KeyFileMapping(KeyFile(path, parse_sealing_keys))
    return path


def make_secrets(person, count):
    return [secrets.keep(person.actor, purpose=f"server:{n}", plain=f"plain {n}") for n in range(count)]


def opened(rows):
    return [secrets.open_secret(row.id, organization_id=row.organization_id) for row in rows]


def numbers():
    return sorted(key_number(value) for value in Secret.objects.values_list("value", flat=True))


def settle(path):
    """Let the file look as if its last key were older."""
    before = time.time() - 3600
    os.utime(path, (before, before))


def said_by(*command):
    output = StringIO()
    call_command(*command, stdout=output, stderr=output)
    return output.getvalue()


# Rotating ---------------------------------------------------------------------------------------------------------


def test_a_new_key_seals_and_old_ones_go_on_opening(kept, alice):
    (before,) = make_secrets(alice, 1)

    said_by("sealing_key_rotate")

    (after,) = make_secrets(alice, 1)
    assert (key_number(before.value), key_number(after.value)) == (1, 2)
    assert opened([before, after]) == ["plain 0", "plain 0"]


def test_rekeying_leaves_nothing_under_the_old_key_which_is_then_thrown_away(kept, alice, bob):
    rows = make_secrets(alice, 5) + make_secrets(bob, 2)
    plain, stamps = opened(rows), list(Secret.objects.order_by("pk").values_list("updated_at", flat=True))
    secrets.rotate_sealing_key(OPERATOR)

    told = said_by("secrets_rekey")
    settle(kept)
    dropped = said_by("sealing_key_rotate", "--drop-old")

    assert "7 secrets were sealed anew" in told and "7 secrets are sealed by key 2 (newest)" in told
    assert "Thrown away: 1" in dropped
    assert numbers() == [2] * 7 and list(parse_sealing_keys(kept.read_text())) == [2]
    assert opened(rows) == plain
    assert list(Secret.objects.order_by("pk").values_list("updated_at", flat=True)) == stamps
    assert secrets.find_sealing_faults() == []


def test_the_old_key_stays_while_a_secret_needs_it_and_while_it_is_young(kept, alice):
    make_secrets(alice, 1)
    secrets.rotate_sealing_key(OPERATOR)

    with pytest.raises(CommandError, match="1 secrets are sealed under older keys"):
        call_command("sealing_key_rotate", "--drop-old")
    said_by("secrets_rekey")
    with pytest.raises(CommandError, match="has just been made"):
        call_command("sealing_key_rotate", "--drop-old")
    assert len(parse_sealing_keys(kept.read_text())) == 2


def test_looking_changes_nothing(kept, alice):
    make_secrets(alice, 3)
    secrets.rotate_sealing_key(OPERATOR)

    told = said_by("secrets_rekey", "--check")

    assert "3 secrets are sealed by key 1." in told and "0 secrets are sealed by key 2 (newest)." in told
    assert numbers() == [1, 1, 1]


def test_interrupted_it_goes_on_where_it_was(kept, alice):
    rows = make_secrets(alice, 5)
    secrets.rotate_sealing_key(OPERATOR)

    assert next(secrets.rekey_secrets(OPERATOR, batch_size=2)).resealed == 2
    assert numbers() == [1, 1, 1, 2, 2] and len(opened(rows)) == 5
    assert [batch.resealed for batch in secrets.rekey_secrets(OPERATOR, batch_size=2)] == [2, 1]
    assert numbers() == [2] * 5


def test_what_somebody_replaces_meanwhile_is_left_as_they_made_it(kept, alice, monkeypatch):
    (row,) = make_secrets(alice, 1)
    secrets.rotate_sealing_key(OPERATOR)
    from apps.secrets.backends.sealed import SealedStore

    put = SealedStore.put

    def slow_put(store, plain, **place):
        sealed = put(store, plain, **place)
        monkeypatch.setattr(SealedStore, "put", put)
        secrets.replace(alice.actor, secret_id=row.id, plain="theirs")
        return sealed

    monkeypatch.setattr(SealedStore, "put", slow_put)
    said_by("secrets_rekey")

    assert opened([row]) == ["theirs"]


def test_a_secret_that_no_key_opens_is_named_and_the_others_are_done(kept, alice):
    rows = make_secrets(alice, 3)
    Secret.objects.filter(pk=rows[1].pk).update(value=rows[0].value)
    secrets.rotate_sealing_key(OPERATOR)

    errors = StringIO()
    with pytest.raises(CommandError, match="1 secrets still use older keys"):
        call_command("secrets_rekey", stdout=StringIO(), stderr=errors)

    assert "server:1" in errors.getvalue() and numbers() == [1, 2, 2]


def test_only_platform_admins_do_it_and_the_journal_says_so(kept, alice):
    make_secrets(alice, 1)
    for forbidden in (secrets.rotate_sealing_key, secrets.drop_older_keys, lambda a: list(secrets.rekey_secrets(a))):
        with pytest.raises(NotPermitted):
            forbidden(alice.actor)

    secrets.rotate_sealing_key(OPERATOR)
    said_by("secrets_rekey")
    settle(kept)
    secrets.drop_older_keys(OPERATOR)

    actions = ["sealing_key.rotated", "secrets.rekeyed", "sealing_key.dropped"]
    kept_entries = Entry.objects.filter(action__in=actions).order_by("sequence")
    assert [entry.action for entry in kept_entries] == actions


def test_given_keys_are_rekeyed_but_not_changed(alice, settings):
    settings.SEALING_KEYS = parse_sealing_keys(new_sealing_key(1))
    rows = make_secrets(alice, 2)
    settings.SEALING_KEYS = {**settings.SEALING_KEYS, **parse_sealing_keys(new_sealing_key(7))}

    said_by("secrets_rekey")

    assert numbers() == [7, 7] and opened(rows) == ["plain 0", "plain 1"]
    for options in ([], ["--drop-old"]):
        with pytest.raises(CommandError, match="given by the environment"):
            call_command("sealing_key_rotate", *options)


# K09: wrong or missing keys ---------------------------------------------------------------------------------------


def test_right_keys_are_no_fault_and_are_noted(kept, alice):
    make_secrets(alice, 1)
    secrets.check_sealing_keys()
    secrets.check_sealing_keys()

    assert list(KeyProbe.objects.values_list("number", flat=True)) == [1]
    assert secrets.find_sealing_faults() == check_sealing_keys(None) == []


@pytest.mark.parametrize("is_noted", [True, False])
def test_another_key_of_the_same_number_is_a_fault_named_with_its_cure(kept, alice, is_noted):
    if is_noted:
        secrets.check_sealing_keys()
    else:
        make_secrets(alice, 1)
    kept.write_text(new_sealing_key(1))

    (fault,) = check_sealing_keys(None)
    assert "key number 1 is not the one" in fault.msg and str(kept) in fault.msg
    with pytest.raises(Conflict, match="key number 1"):
        secrets.check_sealing_keys()


def test_a_missing_key_is_a_fault_while_a_secret_needs_it(kept, alice):
    make_secrets(alice, 2)
    secrets.check_sealing_keys()
    first = kept.read_text()
    kept.write_text(new_sealing_key(2))

    (fault,) = secrets.find_sealing_faults()
    assert "2 secrets" in fault and "missing" in fault

    Secret.objects.all().delete()
    assert secrets.find_sealing_faults() == []
    kept.write_text(f"{first},{kept.read_text()}")
    secrets.check_sealing_keys()


def test_a_spoilt_secret_alone_does_not_keep_the_house_shut(kept, alice):
    rows = make_secrets(alice, 2)
    Secret.objects.filter(pk=rows[0].pk).update(value=rows[1].value)

    assert secrets.find_sealing_faults() == []


@pytest.mark.slow_process
def test_with_another_key_up_and_check_refuse_in_clear_text(tmp_path):
    data = tmp_path / "data"
    with Platform(data, "--no-demo"):
        pass
    kept = data / "secrets" / "gatehouse_sealing_keys"
    right = kept.read_text()

    for spoil in (lambda: kept.write_text(new_sealing_key(1)), kept.unlink):
        spoil()
        again = Platform(data, "--no-demo")
        for command in (["up", "--no-demo"], ["check"], ["provision", "--org", "x"], ["mcp", "stdio"]):
            said = again.manage(*command)
            assert said.returncode == 1
            assert "key number 1 is not the one that sealed this database's secrets" in said.stderr
            assert "Traceback" not in said.stderr and right not in said.stderr

    kept.write_text(right)
    with Platform(data, "--no-demo") as running:
        assert running.manage("check").returncode == 0
