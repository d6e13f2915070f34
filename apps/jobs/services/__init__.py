"""The verbs of jobs: start, run, watch, cancel, repeat, re-queue, schedule."""

from apps.jobs.services.queue import oldest_waiting_seconds, requeue_after_restart, requeue_stale, start
from apps.jobs.services.schedules import (
    ScheduleState,
    claim_firing,
    ensure_schedule,
    last_alive,
    list_schedules,
    note_alive,
)
from apps.jobs.services.visible import cancel_job, get_job, list_jobs, repeat_job
from apps.jobs.services.work import Stopped, confirm, current_job_id, run, set_progress, settle

__all__ = [
    "ScheduleState",
    "Stopped",
    "cancel_job",
    "claim_firing",
    "confirm",
    "current_job_id",
    "ensure_schedule",
    "get_job",
    "last_alive",
    "list_jobs",
    "list_schedules",
    "note_alive",
    "oldest_waiting_seconds",
    "repeat_job",
    "requeue_after_restart",
    "requeue_stale",
    "run",
    "set_progress",
    "settle",
    "start",
]
