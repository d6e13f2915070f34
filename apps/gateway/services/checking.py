"""Holds tools of servers to their schemas: arguments before they are sent, structured results before they pass.

A tool's checkers are made once for each definition. A schema of which none can be made is not enforced; discovery has
put a warning at the tool (apps/registry/services/definitions.py).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from apps.core.errors import InvalidInput
from apps.core.json_schema import Checker, Exhausted, Fault, NotEnforced
from apps.core.threads import in_thread
from apps.gateway.services.outages import without_secrets
from apps.gateway.services.results import wrong
from apps.registry import services as registry

MOST_KEPT = 2000
STEPS_AT_ONCE = 20_000
"""What takes more steps than this, some milliseconds, is checked in a thread: nobody else waits for it."""
TOO_LARGE: Fault = ("", "is too large to be checked against the schema")


@dataclass(frozen=True, slots=True)
class Checks:
    """What one tool's schemas demand."""

    definition: Mapping[str, Any]
    arguments: Checker | None
    result: Checker | None

    async def check_arguments(self, name: str, arguments: dict[str, Any]) -> None:
        """Raise InvalidInput, which names the field, for what the tool does not take."""
        fault = await _fault_of(self.arguments, arguments)
        if fault is not None:
            place, why = fault
            raise InvalidInput(
                f"{name} was not called: its arguments do not fit its schema.",
                details={"fields": {place or "arguments": [f"{why[:1].upper()}{why[1:]}."]}},
            )

    async def check_result(self, result: Mapping[str, Any], route: registry.ServerRoute) -> None:
        """Raise BackendError, which names the server, for structured content that the tool has not promised."""
        if self.result is None or "structuredContent" not in result or result.get("isError"):
            return
        fault = await _fault_of(self.result, result["structuredContent"])
        if fault is not None:
            place, why = fault
            named = f" at {without_secrets(place, route)}" if place else ""
            raise wrong(route, f"its structuredContent breaks the outputSchema of the tool{named}: it {why}")


_kept: "OrderedDict[UUID, Checks]" = OrderedDict()


async def checks_of(item: registry.CatalogueItem) -> Checks:
    """What the tool's schemas demand; from memory, mostly."""
    kept = _kept.get(item.id)
    if kept is None or (kept.definition is not item.definition and kept.definition != item.definition):
        kept = _kept[item.id] = await in_thread(_compile, item.definition)
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    return kept


def _compile(definition: Mapping[str, Any]) -> Checks:
    return Checks(definition, _checker(definition.get("inputSchema")), _checker(definition.get("outputSchema")))


def _checker(schema: Any) -> Checker | None:
    try:
        return None if schema is None else Checker(schema)
    except NotEnforced:
        return None


async def _fault_of(checker: Checker | None, value: Any) -> Fault | None:
    if checker is None:
        return None
    try:
        return checker.fault_of(value, STEPS_AT_ONCE)
    except Exhausted:
        return await in_thread(_fault_in_the_end, checker, value)


def _fault_in_the_end(checker: Checker, value: Any) -> Fault | None:
    try:
        return checker.fault_of(value)
    except Exhausted:
        return TOO_LARGE
