"""Whether calls are being counted."""

from apps.core.schemas import Check
from apps.usage import services

LARGEST_BACKLOG = 10_000


def check() -> list[Check]:
    """Not well while events pile up in this process: the database does not take them."""
    backlog = services.backlog()
    if backlog.waiting > LARGEST_BACKLOG:
        return [Check("usage", ok=False, message=f"{backlog.waiting} usage events wait to be written.")]
    return [Check("usage", ok=True, message=f"{backlog.dropped} dropped" if backlog.dropped else "")]
