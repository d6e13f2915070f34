"""REST: metered calls."""

from ninja import Query, Router

from apps.core.doors import ActorRequest
from apps.core.schemas import PageOut, PageQuery
from apps.usage import services
from apps.usage.schemas import EventFilters, EventOut

router = Router(tags=["Usage"])


@router.get("/events", response=PageOut[EventOut], operation_id="list_events")
def list_events(request: ActorRequest, filters: Query[EventFilters], page: Query[PageQuery]) -> object:
    """The newest calls of the organisation, allowed or denied."""
    return services.list_events(request.actor, filters=filters, page=page)
