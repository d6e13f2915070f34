"""Whether the servers that the operator calls critical can be used."""

from apps.core.schemas import Check
from apps.registry import services


def check() -> list[Check]:
    """Not well when the last check of a critical server failed. Anybody reads this, so it names nobody's server."""
    failing = services.count_failing_critical_servers()
    if failing:
        which = "Staff see under Servers which."
        return [Check("servers", ok=False, message=f"The last check of {failing} critical server(s) failed. {which}")]
    return [Check("servers", ok=True)]
