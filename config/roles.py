"""The roles of a grown installation that serve no web: a worker, and the schedule."""

import os
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connections

ROLES = ("web", "worker", "beat")


def check_addresses(role: str) -> None:
    """Refuse a role that could reach none of the others."""
    if not settings.ENV.broker_url:
        raise CommandError(
            f"The role {role} needs BROKER_URL: jobs go from one process to another through RabbitMQ or Redis."
            " Without it, `manage.py up` runs everything in one process."
        )


def run(role: str, out: Any) -> None:
    """Work in a role until SIGINT or SIGTERM."""
    connections.close_all()  # what the start has opened: a child process must not inherit it
    {"worker": run_worker, "beat": run_beat}[role](out)


def run_worker(out: Any) -> None:
    """Run jobs in child processes. On SIGTERM those that run are finished and no new one is taken."""
    from celery.signals import worker_ready

    from config.celery import app

    worker_ready.connect(lambda **_: say(out, "worker"), weak=False)
    # Celery would run all of Django's system checks here, each start anew.
    os.environ["CELERY_SKIP_CHECKS"] = "1"
    app.worker_main([
        "--quiet", "worker", "--pool=prefork", f"--concurrency={settings.ENV.worker_processes}", "--loglevel=WARNING",
        "--without-gossip", "--without-mingle", f"--hostname=gatehouse-{os.getpid()}@%h",
    ])  # fmt: skip


def run_beat(out: Any) -> None:
    """Start what is due. Several may run: the database decides which of them starts a schedule."""
    from config.background import ensure_schedules
    from config.beat import keep_schedule

    ensure_schedules()
    say(out, "beat")
    keep_schedule(threading.Event())


def say(out: Any, role: str) -> None:
    """Tell whoever started us that the work begins."""
    out.write(f"Gatehouse {settings.VERSION}: the {role} is ready.")
    out.flush()
