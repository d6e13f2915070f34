"""What people see of jobs and do to them."""

from uuid import UUID

from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import Conflict, NotFound
from apps.core.schemas import Page, PageQuery, page_of
from apps.jobs.models import Job, State
from apps.jobs.schemas import JobFilters
from apps.jobs.services.queue import start


def get_job(actor: Actor, *, job_id: UUID) -> Job:
    """One job of the actor's organisation; raises NotFound for any other."""
    actor.require("job.read")
    job: Job | None = Job.objects.for_org(actor.organization_id).filter(pk=job_id).first()
    if job is None:
        raise NotFound("There is no such job.")
    return job


def list_jobs(actor: Actor, *, filters: JobFilters, page: PageQuery) -> Page:
    """The newest jobs of the actor's organisation."""
    actor.require("job.read")
    given = filters.model_dump(exclude_none=True)
    return page_of(Job.objects.for_org(actor.organization_id).filter(**given).order_by("-id"), page)


def cancel_job(actor: Actor, *, job_id: UUID) -> Job:
    """End a job that has not ended; what its worker still does is thrown away. Raises Conflict when it has ended."""
    job = get_job(actor, job_id=job_id)
    actor.require("job.write")
    with transaction.atomic():
        now = timezone.now()
        ended = Job.objects.open().filter(pk=job.pk).update(
            state=State.CANCELLED, lease=None, finished_at=now, updated_at=now
        )  # fmt: skip
        if not ended:
            raise Conflict("This job has ended already. Repeat it to run it again.")
        audit.record(actor, "job.cancelled", f"job:{job.pk}", details={"kind": job.kind, "subject": job.subject})
    job.refresh_from_db()
    return job


def repeat_job(actor: Actor, *, job_id: UUID) -> Job:
    """Start a job that has ended once more, now in the name of the actor; raises Conflict while it has not ended."""
    job = get_job(actor, job_id=job_id)
    actor.require("job.write")
    if job.state in (State.PENDING, State.RUNNING):
        raise Conflict("This job has not ended yet. Wait for its end, or cancel it.")
    with transaction.atomic():
        again = start(actor, job.kind, subject=job.subject, **job.arguments)
        audit.record(actor, "job.repeated", f"job:{job.pk}", details={"kind": job.kind, "new_job": str(again.pk)})
    return again
