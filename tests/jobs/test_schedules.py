"""Schedules are made once; what staff change in them stays."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import ClassVar

import pytest
from django.apps import apps
from django.db import OperationalError, connection
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_beat.schedulers import ModelEntry
from kombu import Producer

from apps.jobs import services as jobs
from apps.jobs.models import Firing
from config.beat import Scheduler
from config.celery import app

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("seconds", [15, 15.0, 0.5, 3600])
def test_a_schedule_runs_its_task_at_its_interval(seconds):
    made = jobs.ensure_schedule("requeue", "jobs.requeue", seconds)

    entry = ModelEntry(made, app=app)
    assert (entry.task, entry.schedule.run_every.total_seconds()) == ("jobs.requeue", seconds)
    assert entry.options["expires"] >= 1


def test_making_it_again_changes_nothing_that_staff_edited():
    made = jobs.ensure_schedule("requeue", "jobs.requeue", 15)
    made.interval = IntervalSchedule.objects.create(every=5, period="minutes")
    made.enabled = False
    made.save()

    again = jobs.ensure_schedule("requeue", "jobs.requeue", 15)

    assert (again.pk, again.enabled, str(again.interval)) == (made.pk, False, "every 5 minutes")
    assert PeriodicTask.objects.filter(name="requeue").count() == 1


@pytest.mark.django_db(transaction=True)
def test_processes_that_start_together_make_a_schedule_once():
    together = Barrier(4)

    def start(_):
        try:
            together.wait(30)
            return jobs.ensure_schedule("new", "jobs.requeue", 15).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(start, range(4)))

    assert made == set(PeriodicTask.objects.filter(name="new").values_list("pk", flat=True))
    assert len(made) == 1


def test_a_task_that_was_renamed_is_followed():
    jobs.ensure_schedule("requeue", "jobs.old_name", 15)

    assert jobs.ensure_schedule("requeue", "jobs.requeue", 15).task == "jobs.requeue"


def test_equal_intervals_share_a_row():
    for name in ("a", "b"):
        jobs.ensure_schedule(name, "jobs.requeue", 15)

    assert IntervalSchedule.objects.count() == 1


def test_every_scheduled_task_exists():
    app.loader.import_default_modules()

    named = {task for config in apps.get_app_configs() for task in getattr(config, "schedule", {})}
    assert "jobs.requeue" in named
    assert named - set(app.tasks) == set()


def test_a_worker_that_runs_the_schedule_gives_a_sign_of_life():
    assert jobs.last_alive("jobs.requeue") is None

    app.loader.import_default_modules()
    app.tasks["jobs.requeue"]()
    first = jobs.last_alive("jobs.requeue")
    app.tasks["jobs.requeue"]()

    assert first < jobs.last_alive("jobs.requeue") <= timezone.now()


def test_the_schedules_are_told_with_what_staff_decided():
    made = jobs.ensure_schedule("requeue", "jobs.requeue", 15)
    PeriodicTask.objects.filter(pk=made.pk).update(enabled=False)

    assert jobs.list_schedules() == [jobs.ScheduleState("requeue", is_enabled=False, started_at=None)]


class Counting(Producer):
    """Counts what beat sends, and sends nothing."""

    sent: ClassVar[list[str]] = []

    def publish(self, *args, **options):
        """Count it."""
        self.sent.append(options["headers"]["task"])


@pytest.mark.django_db(transaction=True)
def test_two_beats_start_a_schedule_once_each_time_and_one_goes_on_alone(monkeypatch):
    monkeypatch.setattr(Counting, "sent", [])
    made = jobs.ensure_schedule("requeue", "jobs.requeue", 10)
    one, two = ([Scheduler(app=app, lazy=True), ModelEntry(made, app=app)] for _ in range(2))

    def due(beat, at):
        monkeypatch.setattr(timezone, "now", lambda: at)
        scheduler, entry = beat
        scheduler.apply_entry(entry, producer=Counting(app.connection()))

    start = timezone.now()
    for seconds in (0, 10, 20):
        due(one, start + timedelta(seconds=seconds))
        due(two, start + timedelta(seconds=seconds + 3))
    assert len(Counting.sent) == 3

    for seconds in (33, 43):
        due(two, start + timedelta(seconds=seconds))
    assert len(Counting.sent) == 5


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_costs_a_schedule_one_turn_and_no_more(monkeypatch):
    monkeypatch.setattr(Counting, "sent", [])
    jobs.ensure_schedule("requeue", "jobs.requeue", 0.01)
    scheduler = Scheduler(app=app)
    monkeypatch.setattr(Scheduler, "producer", Counting(app.connection()))
    claim = jobs.claim_firing

    def be_away(*_, **__):
        raise OperationalError("the connection is closed")

    for answer in (be_away, claim):
        monkeypatch.setattr(jobs, "claim_firing", answer)
        time.sleep(0.02)
        scheduler.tick()
        time.sleep(0.02)
        scheduler.tick()
    scheduler.forget()

    assert Counting.sent


def test_a_clock_that_was_set_back_stops_no_schedule():
    now = timezone.now()
    assert jobs.claim_firing("requeue", every_seconds=15)
    Firing.objects.update(at=now + timedelta(hours=2))

    assert jobs.claim_firing("requeue", every_seconds=15)
    assert not jobs.claim_firing("requeue", every_seconds=15)


@pytest.mark.django_db(transaction=True)
def test_of_many_that_claim_the_first_start_at_once_one_is_told_yes():
    def claim(_):
        try:
            return jobs.claim_firing("requeue", every_seconds=15)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1
