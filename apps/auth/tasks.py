"""Celery's way to the clean-up."""

from celery import shared_task

from apps.auth import services


@shared_task(name="auth.forget_ended")
def forget_ended() -> None:
    """Forget sessions and failed logins that mean nothing any more."""
    services.forget_ended()
