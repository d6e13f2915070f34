"""The journal shows every change that is made behind its back."""

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from apps.audit import services as audit
from apps.audit.models import PLATFORM_CHAIN, ChainHead, Entry
from apps.audit.services.chain import digest_of
from apps.core.actor import system_actor
from tests.processes import run_python

CHAIN = PLATFORM_CHAIN


def record(number=5):
    for each in range(number):
        audit.record(system_actor(), "thing.done", f"thing:{each}", details={"number": each})


@pytest.fixture
def unguarded(db):
    """An attacker with all rights on the database, and five entries."""
    record()
    audit.drop_guard(connection)
    yield
    audit.make_guard(connection)


def sql(statement, *values):
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def broken():
    return [(found.sequence, found.why) for found in audit.verify(CHAIN)]


def test_an_honest_journal_is_whole(db):
    record()

    assert audit.verify() == []


@pytest.mark.parametrize(
    "change",
    ["action = 'thing.undone'", "outcome = 'refused'", "actor_kind = 'key'", "actor_id = 'x'", "actor_label = 'eve'",
     "surface = 'mcp'", "address = '10.0.0.1'", "subject = 'thing:9'", "details = '{\"number\": 9}'",
     "request_id = 'x'", "subject_id = 'x'", "at = '2020-01-01 00:00:00'"],
)  # fmt: skip
def test_an_edited_field_is_named(unguarded, change):
    sql(f"UPDATE audit_entry SET {change} WHERE sequence = 3")  # noqa: S608 - the changes above

    assert broken() == [(3, "This entry was changed.")]


def test_an_entry_taken_out_of_the_middle_is_missed(unguarded):
    sql("DELETE FROM audit_entry WHERE sequence IN (3, 4)")

    assert broken() == [(3, "Entries are missing: 3 to 4.")]


def test_the_end_cut_off_is_missed(unguarded):
    sql("DELETE FROM audit_entry WHERE sequence > 3")

    assert broken() == [(4, "The last entries are missing: 4 to 5.")]


def test_everything_taken_away_is_missed(unguarded):
    sql("DELETE FROM audit_entry")

    assert broken() == [(1, "The last entries are missing: 1 to 5.")]


def test_a_closed_gap_is_seen(unguarded):
    sql("DELETE FROM audit_entry WHERE sequence = 3")
    sql("UPDATE audit_entry SET sequence = sequence - 1 WHERE sequence = 4")
    sql("UPDATE audit_entry SET sequence = sequence - 1 WHERE sequence = 5")

    assert broken() == [(3, "This entry was changed.")]


def test_an_entry_put_in_without_the_key_is_seen(unguarded, settings):
    head = ChainHead.objects.get(pk=CHAIN)
    real, settings.JOURNAL_KEY = settings.JOURNAL_KEY, "guessed" * 8

    audit.record(system_actor(), "thing.invented")
    settings.JOURNAL_KEY = real

    assert broken() == [(head.sequence + 1, "This entry was changed.")]


def test_a_chain_computed_anew_without_the_key_is_seen(unguarded, settings):
    sql("DELETE FROM audit_entry")
    sql("DELETE FROM audit_chainhead")
    real, settings.JOURNAL_KEY = settings.JOURNAL_KEY, "guessed" * 8

    record()
    settings.JOURNAL_KEY = real

    assert broken() == [(1, "This entry was changed.")]


def test_entries_swapped_are_seen(unguarded):
    sql("UPDATE audit_entry SET sequence = 99 WHERE sequence = 2")
    sql("UPDATE audit_entry SET sequence = 2 WHERE sequence = 3")
    sql("UPDATE audit_entry SET sequence = 3 WHERE sequence = 99")

    assert broken() == [(2, "This entry was changed.")]


def test_an_entry_moved_to_another_chain_is_seen(unguarded, alice):
    other = audit.record(alice.actor, "thing.done")
    sql("DELETE FROM audit_entry WHERE sequence = 5 AND chain_id = %s", _id(CHAIN))
    sql("UPDATE audit_entry SET chain_id = %s, sequence = 5 WHERE id = %s", _id(CHAIN), _id(other.id))

    assert broken() == [(5, "This entry was changed.")]


def test_an_old_head_put_back_is_seen(unguarded):
    sql("UPDATE audit_chainhead SET sequence = 3 WHERE chain_id = %s", _id(CHAIN))

    assert broken() == [(3, "This entry is not the one that was written last.")]


def test_entries_behind_a_head_set_back_with_its_digest_are_seen(unguarded):
    third = Entry.objects.get(chain_id=CHAIN, sequence=3)
    sql("UPDATE audit_chainhead SET sequence = 3, digest = %s WHERE chain_id = %s", third.digest, _id(CHAIN))

    assert broken() == [(4, "This entry was not written by the journal.")]


def test_an_entry_that_follows_another_than_the_one_before_it_is_seen(unguarded):
    entry = Entry.objects.get(chain_id=CHAIN, sequence=3)
    entry.previous_digest = Entry.objects.get(chain_id=CHAIN, sequence=1).digest

    sql(
        "UPDATE audit_entry SET previous_digest = %s, digest = %s WHERE sequence = 3",
        entry.previous_digest,
        digest_of(entry),
    )

    assert broken() == [(3, "This entry does not follow the one before it.")]


def test_one_broken_chain_does_not_hide_another(unguarded, alice):
    audit.record(alice.actor, "thing.done")
    sql("UPDATE audit_entry SET action = 'x' WHERE sequence = 1")

    assert {found.chain_id for found in audit.verify()} == {CHAIN, alice.organization.id}


def test_the_command_names_the_broken_entry_and_ends_with_1(unguarded, alice, capsys):
    audit.record(alice.actor, "thing.done")
    sql("UPDATE audit_entry SET action = 'x' WHERE sequence = 2 AND chain_id = %s", _id(CHAIN))

    with pytest.raises(SystemExit) as ended:
        call_command("audit_verify")

    assert ended.value.code == 1
    assert "the platform itself: entry 2 is broken. This entry was changed." in capsys.readouterr().out
    call_command("audit_verify", org="acme")
    assert "The journal is whole: 1 chain checked." in capsys.readouterr().out


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_entry SET action = 'x'", "UPDATE audit_entry SET digest = digest", "DELETE FROM audit_entry",
     "DELETE FROM audit_entry WHERE sequence = 5", "DELETE FROM audit_chainhead",
     "UPDATE audit_chainhead SET sequence = 3"],
)  # fmt: skip
def test_the_database_refuses_to_change_the_journal(db, statement):
    record()
    before = list(Entry.objects.order_by("id").values())

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        sql(statement)

    assert list(Entry.objects.order_by("id").values()) == before


@pytest.mark.postgres_only
@pytest.mark.parametrize(
    "statement",
    ["TRUNCATE audit_entry", "TRUNCATE audit_chainhead", "TRUNCATE audit_entry, audit_chainhead CASCADE",
     "INSERT INTO audit_entry SELECT * FROM audit_entry ON CONFLICT (id) DO UPDATE SET action = 'x'"],
)  # fmt: skip
def test_postgresql_refuses_to_truncate_and_upsert_the_journal(db, statement):
    record()

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        sql(statement)


@pytest.mark.sqlite_only
@pytest.mark.parametrize("table", ["audit_entry", "audit_chainhead"])
def test_sqlite_refuses_to_replace_a_row_of_the_journal(db, table):
    record()

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        sql(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} WHERE sequence = 5")  # noqa: S608


def test_the_guard_goes_and_comes_with_the_migration(transactional_db):
    call_command("migrate", "audit", "zero", verbosity=0)
    call_command("migrate", "audit", verbosity=0)
    record(1)

    with pytest.raises(DatabaseError, match="append-only"):
        sql("DELETE FROM audit_entry")


def test_the_guard_can_be_made_twice(db):
    audit.make_guard(connection)
    audit.make_guard(connection)


WRITERS = """
import os, sys
from uuid import UUID
from apps.audit import services as audit
from apps.core.actor import system_actor

actor = system_actor(UUID(sys.argv[1]))
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        for number in range(100):
            audit.record(actor, "thing.done", f"thing:{number}")
        os._exit(0)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.mark.slow_process
@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_eight_processes_write_one_chain_without_fork_or_gap(alice):
    written = Entry.objects.for_org(alice.organization.id).count()

    output = run_python(WRITERS, str(alice.organization.id))

    assert output.strip() == str([0] * 8)
    sequences = Entry.objects.for_org(alice.organization.id).order_by("sequence").values_list("sequence", flat=True)
    assert list(sequences) == list(range(1, written + 801))
    assert audit.verify() == []


def _id(value):
    return value.hex if connection.vendor == "sqlite" else value
