"""Calls are counted off the hot path: none waits for it, and none is lost on a clean stop."""

import logging
import threading
import time

import pytest
from django.db import InterfaceError, OperationalError

from apps.core.logs import request_id
from apps.usage import services as usage
from apps.usage.models import UsageEvent
from apps.usage.services import writer
from tests.processes import run_python

CALL = {
    "endpoint": "/mcp",
    "method": "tools/call",
    "name": "time__now",
    "server": "time",
    "status": "ok",
    "latency_ms": 1.5,
}


def note(person, number=1, **changes):
    for _ in range(number):
        usage.record_call(person.actor, **{**CALL, **changes})


def stored():
    return UsageEvent.objects.count()


def wait_for(count, seconds=5):
    deadline = time.monotonic() + seconds
    while stored() < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return stored()


@pytest.mark.django_db
def test_an_event_says_who_called_what_and_how_it_went(alice):
    token = request_id.set("r-1")
    note(alice, error_code="NOT_PERMITTED", status="denied", bytes_in=3, bytes_out=5)
    request_id.reset(token)

    usage.flush()

    event = UsageEvent.objects.get()
    assert (event.endpoint, event.method, event.name, event.server) == ("/mcp", "tools/call", "time__now", "time")
    assert (event.status, event.error_code, event.latency_ms) == ("denied", "NOT_PERMITTED", 1.5)
    assert (event.bytes_in, event.bytes_out, event.request_id) == (3, 5, "r-1")
    assert (event.organization_id, event.user_id, event.actor_id) == (
        alice.organization.id,
        alice.user.id,
        alice.actor.id,
    )
    assert (event.actor_kind, event.surface) == ("user", "rest")


@pytest.mark.django_db
def test_a_call_outside_every_organisation_is_not_counted(root):
    note(root)
    usage.flush()

    assert stored() == 0


@pytest.mark.django_db
def test_odd_values_are_written_as_far_as_the_database_holds_them(alice):
    note(alice, name="n" * 500, endpoint="a\x00b", error_code="half \ud800", latency_ms=float("inf"))
    note(alice, latency_ms=float("nan"))

    usage.flush()

    event = UsageEvent.objects.order_by("id").first()
    assert (len(event.name), event.endpoint, event.latency_ms) == (200, "a\ufffdb", 0.0)
    assert stored() == 2


@pytest.mark.measured
@pytest.mark.django_db(transaction=True)
def test_events_are_written_within_half_a_second(alice):
    usage.start_writer()
    time.sleep(0.1)
    started = time.monotonic()

    note(alice, 3)

    assert wait_for(3) == 3
    assert time.monotonic() - started < 0.5 + 0.25  # the machine may be busy


@pytest.mark.django_db(transaction=True)
def test_a_clean_stop_loses_nothing(alice):
    usage.start_writer()

    note(alice, 3_000)
    usage.stop_writer()

    assert stored() == 3_000 and usage.backlog() == usage.Backlog(waiting=0, dropped=0)


@pytest.mark.django_db(transaction=True)
def test_many_threads_may_record_while_it_writes(alice):
    usage.start_writer()
    threads = [threading.Thread(target=note, args=(alice, 500)) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    usage.stop_writer()

    assert stored() == 4_000


@pytest.mark.django_db(transaction=True)
def test_starting_and_stopping_twice_is_the_same_as_once(alice):
    usage.start_writer()
    usage.start_writer()
    note(alice)
    usage.stop_writer()
    usage.stop_writer()
    usage.start_writer()
    note(alice)
    usage.stop_writer()

    assert stored() == 2
    assert [each for each in threading.enumerate() if each.name == "usage-writer"] == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [OperationalError("database is locked"), InterfaceError("connection is closed")])
def test_a_database_that_is_down_for_a_moment_loses_nothing_and_keeps_the_order(alice, monkeypatch, error):
    failures = [error, error]
    insert = writer._insert

    def fails_twice(batch):
        if failures:
            raise failures.pop()
        insert(batch)

    monkeypatch.setattr(writer, "_insert", fails_twice)
    usage.start_writer()
    for number in range(20):
        note(alice, name=f"tool-{number}")

    assert wait_for(20) == 20
    names = UsageEvent.objects.order_by("created_at", "id").values_list("name", flat=True)
    assert list(names) == [f"tool-{number}" for number in range(20)]


@pytest.mark.django_db(transaction=True)
def test_a_stop_tries_again_what_the_database_refused_a_moment_ago(alice, monkeypatch):
    failures, insert = [OperationalError("database is locked")], writer._insert
    monkeypatch.setattr(writer, "_insert", lambda batch: _raise(failures.pop()) if failures else insert(batch))
    usage.start_writer()

    note(alice, 5)
    usage.stop_writer()

    assert (failures, stored()) == ([], 5)


@pytest.mark.django_db(transaction=True)
def test_a_database_that_does_not_come_back_does_not_stop_the_stop(alice, monkeypatch, caplog):
    monkeypatch.setattr(writer, "_insert", _fail)
    monkeypatch.setattr(writer, "STOP_SECONDS", 0.5)
    usage.start_writer()
    note(alice, 7)

    started = time.monotonic()
    usage.stop_writer()

    assert time.monotonic() - started < 3
    assert "7 usage events are lost" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_one_event_that_the_database_refuses_does_not_take_the_others_with_it(alice, bob):
    note(alice, 5)
    note(bob)
    note(alice, 5)
    bob.organization.delete()

    usage.flush()

    assert stored() == 10
    assert usage.backlog() == usage.Backlog(waiting=0, dropped=1)


@pytest.mark.django_db
def test_a_full_queue_drops_the_newest_counts_them_and_says_so_once(alice, monkeypatch, caplog):
    monkeypatch.setattr(writer, "LARGEST_QUEUE", 100)

    with caplog.at_level(logging.ERROR):
        note(alice, 130)

    assert usage.backlog() == usage.Backlog(waiting=100, dropped=30)
    assert caplog.text.count("usage events are dropped") == 1
    usage.flush()
    note(alice)
    usage.flush()
    assert stored() == 101


@pytest.mark.django_db
def test_recording_costs_microseconds(alice):
    note(alice, 100)
    started = time.thread_time()

    note(alice, 5_000)

    assert (time.thread_time() - started) / 5_000 < 100e-6  # about 6 µs on an idle machine


@pytest.mark.slow_process
@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_a_process_that_ends_without_stopping_the_writer_loses_nothing(alice):
    run_python(
        """
import sys
from uuid import UUID
from apps.core.actor import system_actor
from apps.usage import services as usage

usage.start_writer()
for _ in range(1000):
    usage.record_call(system_actor(UUID(sys.argv[1])), endpoint="/mcp", method="tools/call", status="ok", latency_ms=1)
""",
        str(alice.organization.id),
    )

    assert stored() == 1_000


@pytest.mark.slow_process
@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_a_child_forked_while_its_parent_writes_counts_its_own_calls_only(alice):
    run_python(
        """
import os, sys
from uuid import UUID
from apps.core.actor import system_actor
from apps.usage import services as usage
from apps.usage.services import writer

def note():
    usage.record_call(system_actor(UUID(sys.argv[1])), endpoint="/mcp", method="tools/call", status="ok", latency_ms=1)

note()
writer._writer._writing.acquire()
child = os.fork()
if child:
    writer._writer._writing.release()
usage.start_writer()
note()
usage.stop_writer()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
""",
        str(alice.organization.id),
    )

    assert stored() == 3


def _fail(batch):
    raise OperationalError("down")


def _raise(error):
    raise error
