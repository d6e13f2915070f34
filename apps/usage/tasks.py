"""Celery's way to the roll-ups."""

from celery import shared_task

from apps.usage import services


@shared_task(name="usage.reconcile")
def reconcile() -> None:
    """Make roll-ups anew that do not count all calls."""
    services.reconcile()
