"""Putting jobs into the queue, and back into it when a broker or a worker has lost them.

The row is written first and is the truth. A message only says "look at this row"; it may come late, twice or never.
"""

import json
import logging
import time
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.core.actor import Actor
from apps.core.errors import InvalidInput
from apps.core.loader import load
from apps.core.logs import request_id
from apps.jobs.models import Job, State

logger = logging.getLogger(__name__)

RESEND_LEASES = 2
"""After how many times the lease a due job's message counts as lost."""
LEAVE_BROKER_SECONDS = 5.0
"""How long a broker that failed is not asked again: requests that start jobs must not wait for it one by one."""
BATCH = 1_000

_leave_broker_until = 0.0


def start(actor: Actor, kind: str, *, subject: str = "", **arguments: Any) -> Job:
    """Write a job's row and, once it is committed, hand its id to the task of this name.

    Arguments are ids and plain values, never secrets. A broker that is down loses nothing: the row waits.
    Whoever calls this has asked for the permission that the work needs.
    """
    if actor.organization_id is None:
        raise InvalidInput("Background work belongs to an organisation. Name one.")
    job = Job(
        organization_id=actor.organization_id,
        kind=kind,
        subject=subject,
        arguments=json.loads(json.dumps(arguments, default=str)),
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_label=actor.label,
        request_id=request_id.get(),
    ).store()
    transaction.on_commit(partial(send, job.id, kind), robust=True)
    return job


def send(job_id: UUID, kind: str) -> bool:
    """Give the broker the id of a job; one that does not take it is logged and left alone for a few seconds."""
    global _leave_broker_until  # noqa: PLW0603 - what this process knows of the broker
    if time.monotonic() >= _leave_broker_until:
        try:
            load(settings.TASK_APP).send_task(kind, args=[str(job_id)], retry=False)
            return True
        except Exception as error:  # each broker raises errors of its own; the row waits for the next round
            _leave_broker_until = time.monotonic() + LEAVE_BROKER_SECONDS
            logger.warning("the broker does not take jobs (%s); they wait in the database", error)
    Job.objects.filter(pk=job_id, state=State.PENDING).update(sent_at=None)
    return False


def requeue_stale() -> int:
    """Put back what a lost worker was running, and send what no broker has; returns how many were sent."""
    now = timezone.now()
    _take_back(now)
    lost_before = now - timedelta(seconds=RESEND_LEASES * settings.JOB_LEASE_SECONDS)
    sent = 0
    for job_id, kind in list(
        Job.objects.unsent(at=now, sent_before=lost_before).order_by("id").values_list("id", "kind")[:BATCH]
    ):
        # Several processes may see the same row; the one whose update counts sends it.
        mine = Job.objects.unsent(at=now, sent_before=lost_before).filter(pk=job_id).update(sent_at=timezone.now())
        if mine and not send(job_id, kind):
            break
        sent += mine
    return sent


def requeue_after_restart() -> int:
    """Send everything that waits: the broker inside this process begins empty. Returns how many were sent."""
    Job.objects.filter(state=State.PENDING).update(sent_at=None)
    return requeue_stale()


def send_held_back(organization_id: UUID) -> None:
    """One job of the organisation has ended: send the oldest of those that waited for its place."""
    for job in Job.objects.held_back(organization_id, at=timezone.now()).order_by("id")[:1]:
        if Job.objects.held_back(organization_id, at=timezone.now()).filter(pk=job.pk).update(sent_at=timezone.now()):
            send(job.pk, job.kind)


def oldest_waiting_seconds() -> float:
    """For how long the oldest due job has waited, in all organisations; 0 when none waits."""
    now = timezone.now()
    # allowed: it tells a time, of the whole platform
    due = Job.objects.waiting(at=now).order_by("run_after").values_list("run_after", flat=True).first()
    return (now - due).total_seconds() if due else 0.0


def _take_back(now: datetime) -> None:
    """Jobs whose worker is gone wait again at once, or fail when they have been tried often enough."""
    silent_since = now - timedelta(seconds=settings.JOB_LEASE_SECONDS)
    for job in Job.objects.silent(since=silent_since).order_by("id")[:BATCH]:
        still = Job.objects.silent(since=silent_since).filter(pk=job.pk, lease=job.lease)
        if job.attempts < job.max_attempts:
            found = still.update(state=State.PENDING, lease=None, run_after=now, sent_at=None, updated_at=now)
        else:
            error = {
                "code": "WORKER_LOST",
                "message": "Its worker died each time. Look at what it does, then repeat it.",
            }
            found = still.update(state=State.FAILED, lease=None, error=error, finished_at=now, updated_at=now)
        if found:
            logger.warning("job %s lost its worker in attempt %s", job.pk, job.attempts)
