"""Celery's way to servers."""

from celery import shared_task

from apps.jobs import services as jobs
from apps.registry import services


@shared_task(name="registry.discover")
def discover(job_id: str) -> None:
    """Read what a server offers."""
    jobs.run(job_id, services.discover_server)


@shared_task(name="registry.check_due")
def check_due() -> None:
    """Look at the servers whose time has come."""
    services.check_due_servers()
