"""Celery's way to jobs."""

from celery import shared_task

from apps.jobs import services


@shared_task(name="jobs.requeue")
def requeue() -> None:
    """Send again what a broker or a worker has lost."""
    services.note_alive("jobs.requeue")
    services.requeue_stale()
