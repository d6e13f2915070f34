"""Whether the servers that the operator calls critical can be used."""

from apps.core.schemas import Check
from apps.registry import services


def check() -> list[Check]:
    """Not well when the last check of a critical server failed."""
    failing = services.failing_critical_servers()
    if failing:
        return [Check("servers", ok=False, message=f"Critical servers fail: {', '.join(failing[:20])}.")]
    return [Check("servers", ok=True)]
