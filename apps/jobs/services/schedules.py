"""Schedules: rows of django-celery-beat, made once and then edited by staff."""

from django_celery_beat.models import IntervalSchedule, PeriodicTask

_MICROSECONDS = 1_000_000


def ensure_schedule(name: str, task: str, every_seconds: float) -> PeriodicTask:
    """Make the schedule of a task if there is none yet; what staff changed in it stays.

    A run that no worker has taken when the next one is due is dropped, so that a stopped worker finds no pile.
    """
    periodic = PeriodicTask.objects.filter(name=name).first()
    if periodic is None:
        periodic, _ = PeriodicTask.objects.get_or_create(
            name=name,
            defaults={
                "task": task,
                "interval": _interval(every_seconds),
                "expire_seconds": max(1, round(every_seconds)),
            },
        )
    if periodic.task != task:
        periodic.task = task
        periodic.save()
    return periodic


def _interval(every_seconds: float) -> IntervalSchedule:
    """The one row for this interval; beat counts in whole units."""
    is_whole = float(every_seconds).is_integer()
    every = int(every_seconds) if is_whole else round(every_seconds * _MICROSECONDS)
    period = IntervalSchedule.SECONDS if is_whole else IntervalSchedule.MICROSECONDS
    found = IntervalSchedule.objects.filter(every=every, period=period).first()
    return found or IntervalSchedule.objects.create(every=every, period=period)
