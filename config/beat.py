"""The schedule: starts what is due, once, however many processes do the same."""

import logging
import threading
from typing import Any

from django.db import DatabaseError, InterfaceError, close_old_connections
from django_celery_beat.schedulers import DatabaseScheduler

from apps.jobs import services as jobs

logger = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
SHORTEST_CRON_SECONDS = 60.0
"""What is given as times of the day comes at most once a minute."""


class Scheduler(DatabaseScheduler):  # type: ignore[misc]
    """Celery's scheduler over the schedules that staff edit; the database decides which beat starts each of them.

    There is no leader to elect and none to lose: every beat counts for itself and claims a start before it makes it.
    A beat that was frozen and goes on finds its claims taken.
    """

    def forget(self) -> None:
        """Give up: write nothing at the end of the process, as Celery has it registered."""
        self._finalize.cancel()

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Start a schedule, unless another beat has done so.

        Nothing may be raised here: Celery has taken the entry out of its heap and would not put it back.
        """
        try:
            is_mine = jobs.claim_firing(entry.name, every_seconds=_interval_of(entry))
        except (DatabaseError, InterfaceError) as error:
            logger.warning("%s waits for its next turn: the database failed (%s)", entry.name, error)
            close_old_connections()
            return
        if is_mine:
            super().apply_entry(entry, producer=producer)


def _interval_of(entry: Any) -> float:
    run_every = getattr(entry.schedule, "run_every", None)
    return float(run_every.total_seconds()) if run_every is not None else SHORTEST_CRON_SECONDS


def keep_schedule(stopping: threading.Event) -> None:
    """Start what is due until told to stop."""
    from config.celery import app

    scheduler: Scheduler | None = None
    pause = 0.0
    while not stopping.wait(pause):
        try:
            scheduler = scheduler or Scheduler(app=app)
            pause = float(scheduler.tick())
        except (DatabaseError, InterfaceError) as error:  # a busy database is no reason to stop for good
            logger.warning("The schedule could not be read (%s); trying again.", error)
            close_old_connections()
            if scheduler is not None:
                scheduler.forget()  # it may have read half of it
            scheduler, pause = None, RETRY_SECONDS
    if scheduler is not None:
        scheduler.close()
    close_old_connections()
