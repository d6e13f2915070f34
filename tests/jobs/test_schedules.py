"""Schedules are made once; what staff change in them stays."""

import pytest
from django.apps import apps
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from apps.jobs import services as jobs
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
