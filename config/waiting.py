"""Waiting, at the start and for a bounded time, for what runs elsewhere and may only just be starting too."""

import time
from collections.abc import Callable, Iterator

from django.conf import settings
from django.core.management.base import CommandError
from django.db import close_old_connections, connection

from config.doctor import parts
from config.doctor.findings import Finding

PAUSE_SECONDS = 0.5

Look = Callable[[], Finding]


def wait_for_parts(role: str, say: Callable[[str], object]) -> None:
    """Return when everything that this role cannot do without answers; raises CommandError after a while.

    What it can do without, it starts without: a web process takes requests while Redis or the broker is away.
    """
    for look, is_needed in _parts(role):
        finding = _wait(look, settings.ENV.start_seconds if is_needed else 0.0, say)
        if finding.ok:
            continue
        if is_needed:
            waited = f"Waited {settings.ENV.start_seconds:.0f} s. " if finding.may_pass else ""
            raise CommandError(f"Gatehouse cannot start: {finding.why}\n{waited}Cure: {finding.cure}")
        say(f"Started without it, and waiting for it: {finding.why}")


def _parts(role: str) -> Iterator[tuple[Look, bool]]:
    if connection.vendor == "postgresql":
        yield parts.examine_database, True
    if settings.ENV.redis_url:
        yield parts.examine_cache, False
    if settings.ENV.broker_url:
        yield parts.examine_broker, role in ("worker", "beat")


def _wait(look: Look, seconds: float, say: Callable[[str], object]) -> Finding:
    deadline, has_said = time.monotonic() + seconds, False
    while not (finding := look()).ok and finding.may_pass and time.monotonic() < deadline:
        if not has_said:
            say(f"Waiting up to {seconds:.0f} s: {finding.why}")
            has_said = True
        close_old_connections()
        time.sleep(PAUSE_SECONDS)
    return finding
