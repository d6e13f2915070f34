"""The worker and the beat as threads of the web process, for `manage.py up`.

Grown installations run both as processes of their own (the roles `worker` and `beat` of the image). Here a memory
broker carries the ids of jobs; the rows in the database are the truth, so that nothing is lost with the process.
"""

import logging
import os
import threading
from typing import Any

from django.apps import apps
from django.db import DatabaseError, close_old_connections

from apps.jobs import services as jobs

logger = logging.getLogger(__name__)
WORKER_THREADS = 2
RETRY_SECONDS = 5.0


def ensure_schedules() -> None:
    """Write what the apps want done regularly where beat reads it; what staff changed there stays."""
    for config in apps.get_app_configs():
        for task, seconds in getattr(config, "schedule", {}).items():
            jobs.ensure_schedule(task, task, seconds)


class Background:
    """A Celery worker and a beat, each in a thread; `stop` asks both to end and waits no longer than it is told."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name="worker", daemon=True),
            threading.Thread(target=self._beat, name="beat", daemon=True),
        ]
        self._worker: Any = None

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def ask_to_stop(self) -> None:
        """Fetch no new job and fire no schedule any more; returns at once."""
        from celery.worker import state

        state.should_stop = os.EX_OK  # type: ignore[assignment]
        self._stopping.set()

    def stop(self, *, seconds: float) -> bool:
        """Wait for what runs to end; whether it did. A job that is cut off is run again at the next start."""
        self.ask_to_stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        from celery.worker import WorkController

        from config.celery import app

        # Celery would run all of Django's system checks here, each start anew.
        os.environ["CELERY_SKIP_CHECKS"] = "1"
        worker = WorkController(
            app=app, pool_cls="threads", concurrency=WORKER_THREADS, loglevel=logging.WARNING,
            without_gossip=True, without_mingle=True, without_heartbeat=True,
        )  # fmt: skip
        worker.start()

    def _beat(self) -> None:
        from django_celery_beat.schedulers import DatabaseScheduler

        from config.celery import app

        scheduler = DatabaseScheduler(app=app)
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = _tick(scheduler)
        scheduler.close()
        close_old_connections()


def _tick(scheduler: Any) -> float:
    """Fire what is due; the seconds until the next look. A busy database is no reason to stop for good."""
    try:
        return float(scheduler.tick())
    except DatabaseError:
        logger.exception("The schedule could not be read; trying again.")
        close_old_connections()
        return RETRY_SECONDS
