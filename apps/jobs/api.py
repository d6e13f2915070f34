"""REST: background jobs."""

from uuid import UUID

from ninja import Query, Router, Status

from apps.core.doors import ActorRequest
from apps.core.schemas import PageOut, PageQuery
from apps.jobs import services
from apps.jobs.schemas import JobFilters, JobOut

router = Router(tags=["Jobs"])


@router.get("", response=PageOut[JobOut], operation_id="list_jobs")
def list_jobs(request: ActorRequest, filters: Query[JobFilters], page: Query[PageQuery]) -> object:
    """The newest background jobs of the organisation."""
    return services.list_jobs(request.actor, filters=filters, page=page)


@router.get("/{job_id}", response=JobOut, operation_id="get_job")
def get_job(request: ActorRequest, job_id: UUID) -> object:
    """One background job: where it stands, its result or its error."""
    return services.get_job(request.actor, job_id=job_id)


@router.post("/{job_id}/cancel", response=JobOut, operation_id="cancel_job")
def cancel_job(request: ActorRequest, job_id: UUID) -> object:
    """End a job that has not ended."""
    return services.cancel_job(request.actor, job_id=job_id)


@router.post("/{job_id}/repeat", response={202: JobOut}, operation_id="repeat_job")
def repeat_job(request: ActorRequest, job_id: UUID) -> object:
    """Start a job that has ended once more, in the name of whoever asks."""
    return Status(202, services.repeat_job(request.actor, job_id=job_id))
