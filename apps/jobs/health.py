"""Whether background work gets done."""

from apps.core.schemas import Check
from apps.jobs import services

LONGEST_WAIT_SECONDS = 120


def check() -> list[Check]:
    """Not well when a job that is due has waited too long: no worker runs, or too few."""
    waited = services.oldest_waiting_seconds()
    if waited > LONGEST_WAIT_SECONDS:
        return [Check("jobs", ok=False, message=f"A job has waited for {waited:.0f} s. Is a worker running?")]
    return [Check("jobs", ok=True)]
