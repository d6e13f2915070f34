"""Rows that services give in pages, all of them: what an export writes, and what an import finds there already."""

from collections.abc import Callable, Iterator
from typing import Any

from apps.core.actor import Actor
from apps.core.schemas import Page, PageQuery
from apps.registry import services as registry
from apps.registry.schemas import CapabilityFilters


def every(page_of: Callable[[PageQuery], Page]) -> Iterator[Any]:
    """Every row of a list that a service gives in pages."""
    number, seen = 1, 0
    while True:
        page = page_of(PageQuery(page=number, page_size=200))
        yield from page.items
        seen += len(page.items)
        if not page.items or seen >= page.total:
            return
        number += 1


def capabilities_of(actor: Actor, server: Any, *, include_removed: bool = False) -> dict[tuple[str, str], Any]:
    """What a server offers, by kind and name; what it offers no longer only on request."""
    filters = CapabilityFilters(include_removed=include_removed)
    rows = every(lambda page: registry.list_capabilities(actor, server_id=server.pk, filters=filters, page=page))
    return {(row.kind, row.name): row for row in rows}
