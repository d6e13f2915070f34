"""Running a job: one lease at a time, a sign of life while it lasts, one end.

A worker holds a job by its lease, a random id in the row. Every change of the row names the lease, so that a worker
that was thought dead and comes back changes nothing.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from django.db.models import F
from django.db.models.functions import Coalesce
from django.utils import timezone

from apps.auth import services as auth
from apps.core import logs
from apps.core.actor import Actor
from apps.core.errors import BackendError, ServiceError
from apps.jobs.models import Job, State
from apps.jobs.services import queue

logger = logging.getLogger(__name__)

HEARTBEATS = 6
"""How many signs of life a worker gives within a lease."""
LONGEST_RUN_SECONDS = 3_600.0
"""After this a running job gives no more signs of life and is taken from its worker."""
FIRST_RETRY_SECONDS = 60
OUT_OF_MEMORY = "It needed more memory than its worker may use. Give workers more, then repeat it."


class Stopped(Exception):
    """The job was cancelled or given to another worker; whatever is still doing its work must end."""


@dataclass(frozen=True, slots=True)
class _Lease:
    job_id: UUID
    number: UUID

    def update(self, **values: Any) -> bool:
        """Change the row if it is still ours."""
        held = Job.objects.filter(pk=self.job_id, lease=self.number, state=State.RUNNING)
        return bool(held.update(updated_at=timezone.now(), **values))


_current: ContextVar[_Lease | None] = ContextVar("current_lease", default=None)


def run(job_id: str | UUID, function: Callable[..., dict[str, Any] | None]) -> None:
    """What a task does: claim the job, call `function(actor, **arguments)`, keep its result or its error.

    A message that comes twice, early or late finds nothing to claim and does nothing.
    """
    lease = _Lease(UUID(str(job_id)), uuid4())
    job = _claim(lease)
    if job is None:
        return
    _work(job, lease, function)
    queue.send_held_back(job.organization_id)


def _work(job: Job, lease: _Lease, function: Callable[..., dict[str, Any] | None]) -> None:
    with _identity(job, lease), _heartbeat(lease):
        try:
            result = function(_actor_of(job), **job.arguments)
        except Stopped:
            logger.info("job %s was taken away from this worker", job.pk)
        except ServiceError as error:
            _fail(lease, job, error)
        except Exception as error:
            logger.exception("job %s failed", job.pk)
            _fail(lease, job, error)
        except BaseException:  # the worker is told to end: another one goes on
            lease.update(state=State.PENDING, lease=None, sent_at=None, attempts=F("attempts") - 1)
            raise
        else:
            _complete(lease, result)


def current_job_id() -> UUID | None:
    """The job that the calling code runs for, if any."""
    held = _current.get()
    return held.job_id if held else None


def set_progress(job_id: str | UUID, percent: int) -> None:
    """Show how far a job has come; raises Stopped in a worker that has lost the job."""
    held = _current.get()
    if held is None or held.job_id != UUID(str(job_id)):
        raise Stopped
    if not held.update(progress=max(0, min(100, percent))):
        raise Stopped


def confirm() -> None:
    """Hold the running job until the end of the transaction that writes what it did, where that is not its end.

    Outside a job it does nothing. Raises Stopped, which rolls the work back, in a worker that has lost the job.
    """
    held = _current.get()
    if held is not None and not held.update(heartbeat_at=timezone.now()):
        raise Stopped


def settle(result: dict[str, Any] | None = None) -> None:
    """Complete the running job inside the transaction that writes what it did, so that both happen once or not at all.

    Outside a job it does nothing. Raises Stopped, which rolls the work back, in a worker that has lost the job.
    """
    held = _current.get()
    if held is not None and not held.update(**_completed(result)):
        raise Stopped


def _claim(lease: _Lease) -> Job | None:
    now = timezone.now()
    due = Job.objects.waiting(at=now).filter(pk=lease.job_id)
    job: Job | None = due.first()
    if job is None:
        return None
    if not _has_place(job.organization_id, now):
        due.update(sent_at=None)
        return None
    claimed = due.update(
        state=State.RUNNING,
        lease=lease.number,
        attempts=F("attempts") + 1,
        started_at=Coalesce("started_at", now),
        heartbeat_at=now,
        updated_at=now,
    )
    # allowed: the job's own worker has just claimed it
    return Job.objects.get(pk=lease.job_id) if claimed else None


def _has_place(organization_id: UUID, now: datetime) -> bool:
    """Whether the organisation runs fewer jobs than it may: jobs that hang must leave workers to the others.

    Two workers that look at the same moment may both see the last place. We allow the overshoot, at most one job for
    each worker: a lock would make every organisation's jobs wait for each other. What a dead worker ran counts no more
    after half a lease without a sign of life.
    """
    since = now - timedelta(seconds=settings.JOB_LEASE_SECONDS / 2)
    running = Job.objects.for_org(organization_id).alive(since=since).count()
    return running < settings.JOBS_PER_ORGANIZATION


def _actor_of(job: Job) -> Actor:
    """The actor, with the rights of now; raises a ServiceError when there is nobody any more."""
    actor = auth.actor_for_job(job.actor_kind, job.actor_id, job.organization_id)
    logs.current_actor.set(actor)
    return actor


def _complete(lease: _Lease, result: dict[str, Any] | None) -> None:
    if not lease.update(**_completed(result)) and not _has_settled(lease):
        logger.warning("job %s ended after it was taken away; its result is dropped", lease.job_id)


def _completed(result: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "state": State.COMPLETED,
        "result": json.loads(json.dumps(logs.redact(result or {}), default=str)),
        "error": None,
        "progress": 100,
        "finished_at": timezone.now(),
    }


def _has_settled(lease: _Lease) -> bool:
    return Job.objects.filter(pk=lease.job_id, lease=lease.number, state=State.COMPLETED).exists()


def _fail(lease: _Lease, job: Job, error: Exception) -> None:
    """Try again later what may have been bad luck; end what would fail again, or has failed too often."""
    known = error if isinstance(error, ServiceError) else ServiceError(_what_broke(error))
    may_pass = isinstance(error, BackendError) or not isinstance(error, ServiceError)
    content = {"code": known.code, "message": known.message, "details": known.details}
    values: dict[str, Any] = {"error": json.loads(json.dumps(logs.redact(content), default=str))}
    if may_pass and job.attempts < job.max_attempts:
        values.update(state=State.PENDING, lease=None, sent_at=None, run_after=_retry_at(job.attempts))
    else:
        values.update(state=State.FAILED, finished_at=timezone.now())
    lease.update(**values)


def _what_broke(error: Exception) -> str:
    """What may be told about an error that is nobody's refusal: nothing of its inside."""
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else ""


def _retry_at(attempts: int) -> datetime:
    """60 s after the first failure, then twice as long each time."""
    return timezone.now() + timedelta(seconds=FIRST_RETRY_SECONDS * 2 ** (attempts - 1))


@contextmanager
def _identity(job: Job, lease: _Lease) -> Iterator[None]:
    """Log under the request that asked for the job."""
    tokens = logs.request_id.set(job.request_id), logs.current_actor.set(None), _current.set(lease)
    try:
        yield
    finally:
        logs.request_id.reset(tokens[0])
        logs.current_actor.reset(tokens[1])
        _current.reset(tokens[2])


@contextmanager
def _heartbeat(lease: _Lease) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(lease, ended), name=f"heartbeat-{lease.job_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(lease: _Lease, ended: threading.Event) -> None:
    """Give a sign of life until the job ends, is taken away, or has lasted too long."""
    pause, latest = settings.JOB_LEASE_SECONDS / HEARTBEATS, time.monotonic() + LONGEST_RUN_SECONDS
    try:
        while not ended.wait(pause) and time.monotonic() < latest:
            try:
                close_old_connections()
                if not lease.update(heartbeat_at=timezone.now()):
                    return
            except DatabaseError:
                logger.warning("job %s could not give a sign of life", lease.job_id, exc_info=True)
    finally:
        connection.close()
