"""Pages over tables that grow without end."""

from typing import Any

from django.core.paginator import Paginator
from django.utils.functional import cached_property

COUNTED_AT_MOST = 10_001


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than 10,001 rows: beyond that, a filter serves better than a page number."""

    template_name = "staff/capped_pagination.html"

    @cached_property
    def count(self) -> int:
        """How many rows there are, or 10,001 for "more than ten thousand"."""
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNTED_AT_MOST].count())

    @property
    def is_capped(self) -> bool:
        """Whether there are more rows than were counted."""
        return self.count == COUNTED_AT_MOST
