"""The worker and the beat as threads of the web process, for `manage.py up`.

Grown installations run both as processes of their own (the roles `worker` and `beat`, see roles.py). Here a memory
broker carries the ids of jobs; the rows in the database are the truth, so that nothing is lost with the process.
"""

import logging
import os
import threading
from typing import Any

from django.apps import apps
from django.conf import settings

from apps.jobs import services as jobs
from config.beat import keep_schedule

WORKER_THREADS = 4


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
        if not settings.ENV.broker_url:
            jobs.requeue_after_restart()
        worker.start()

    def _beat(self) -> None:
        keep_schedule(self._stopping)
