"""Schedules: rows of django-celery-beat, made once and then edited by staff."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from apps.jobs.models import Firing, Heartbeat

_MICROSECONDS = 1_000_000
EARLY = 0.1
"""The share of its interval by which a schedule may come early: a beat's own clock ticks are not exact."""


def ensure_schedule(name: str, task: str, every_seconds: float) -> PeriodicTask:
    """Make the schedule of a task if there is none yet; what staff changed in it stays.

    A run that no worker has taken when the next one is due is dropped, so that a stopped worker finds no pile.
    """
    periodic = PeriodicTask.objects.filter(name=name).first()
    if periodic is None:
        periodic = _make(name, task, every_seconds)
    if periodic.task != task:
        periodic.task = task
        periodic.save()
    return periodic


def _make(name: str, task: str, every_seconds: float) -> PeriodicTask:
    expires = max(1, round(every_seconds))
    try:
        with transaction.atomic():
            return PeriodicTask.objects.create(
                name=name, task=task, interval=_interval(every_seconds), expire_seconds=expires
            )
    except (ValidationError, IntegrityError):
        # Another process that starts at the same time was quicker: it is the model or the database that sees it first.
        return PeriodicTask.objects.get(name=name)


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """One schedule: whether staff let it run, and when beat last started it (it writes that down only now and then)."""

    name: str
    is_enabled: bool
    started_at: datetime | None


def list_schedules() -> list[ScheduleState]:
    """Every schedule of the platform, by name."""
    rows = PeriodicTask.objects.order_by("name").values_list("name", "enabled", "last_run_at")
    return [ScheduleState(*row) for row in rows]


def claim_firing(name: str, *, every_seconds: float) -> bool:
    """Whether the caller is the one to start this schedule now: with several beats each asks, and one is told yes.

    A firing in the future means that a clock was set back; it counts as none.
    """
    now = timezone.now()
    interval = timedelta(seconds=every_seconds)
    due = Q(at__lte=now - interval * (1 - EARLY)) | Q(at__gt=now + interval)
    if Firing.objects.filter(due, pk=name).update(at=now):
        return True
    if Firing.objects.filter(pk=name).exists():
        return False
    # Two may find no row; the database lets one of them in.
    return Firing.objects.get_or_create(pk=name, defaults={"at": now})[1]


def note_alive(name: str) -> None:
    """Write down that a worker runs the task of this name now."""
    now = timezone.now()
    if not Heartbeat.objects.filter(pk=name).update(at=now):
        Heartbeat.objects.bulk_create([Heartbeat(name=name, at=now)], ignore_conflicts=True)


def last_alive(name: str) -> datetime | None:
    """When a worker last ran the task of this name; None where none ever did."""
    return Heartbeat.objects.filter(pk=name).values_list("at", flat=True).first()


def _interval(every_seconds: float) -> IntervalSchedule:
    """The one row for this interval; beat counts in whole units."""
    is_whole = float(every_seconds).is_integer()
    every = int(every_seconds) if is_whole else round(every_seconds * _MICROSECONDS)
    period = IntervalSchedule.SECONDS if is_whole else IntervalSchedule.MICROSECONDS
    found = IntervalSchedule.objects.filter(every=every, period=period).first()
    return found or IntervalSchedule.objects.create(every=every, period=period)
