"""REST: the journal."""

from ninja import Query, Router

from apps.audit import services
from apps.audit.schemas import EntryOut, LogFilters
from apps.core.doors import ActorRequest
from apps.core.schemas import PageOut, PageQuery

router = Router(tags=["Journal"])


@router.get("/logs", response=PageOut[EntryOut], operation_id="list_logs")
def list_logs(request: ActorRequest, filters: Query[LogFilters], page: Query[PageQuery]) -> object:
    """The newest entries of the organisation's journal."""
    return services.list_entries(request.actor, filters=filters, page=page)
