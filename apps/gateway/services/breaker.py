"""Leaves a failing server alone: after some failures in a row its calls are refused at once, then one probes it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.conf import settings

from apps.core.errors import BackendDown, BackendError


class Breaker:
    """Counts the outages of one server. Closed: calls pass. Open: none does. Half-open: exactly one, the probe."""

    def __init__(
        self,
        server: str,
        *,
        is_outage: Callable[[BackendError], bool | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self.failures = 0
        self.opened_at: float | None = None
        self.on_change: Callable[[], None] = _nobody_minds
        self._is_probing = False
        self._is_outage = is_outage
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, but for a probe."""
        return self.opened_at is not None

    @property
    def is_half_open(self) -> bool:
        """Whether the next call, or one that is under way, probes the server."""
        return self.is_open and self.wait_seconds <= 0

    @property
    def wait_seconds(self) -> float:
        """How long calls are refused yet; not above 0 where the breaker is closed or half-open."""
        return 0.0 if self.opened_at is None else self.opened_at + settings.BREAKER_OPEN_SECONDS - self._clock()

    def check(self) -> None:
        """Raise BackendDown when a call would be refused now; changes nothing."""
        if self.is_open and (self.wait_seconds > 0 or self._is_probing):
            raise self.refusal()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Let one call through and watch how it ends; raises BackendDown instead while the breaker is open.

        Only outages count. A server that answers with an error is there (`is_outage` says False); a call that was
        cancelled, or refused before it was sent (None), says nothing.
        """
        self.check()
        is_probe = self._is_probing = self.is_open
        try:
            yield
        except BackendError as error:
            self._is_probing = self._is_probing and not is_probe
            outage = self._is_outage(error)
            if outage:
                self._count_failure(is_probe=is_probe)
            elif outage is not None:
                self._close()
            raise
        except BaseException:
            self._is_probing = self._is_probing and not is_probe
            raise
        else:
            self._close()

    def follow(self, wait_seconds: float) -> None:
        """Leave the server alone for so long, as another process does; 0: the next call probes."""
        self.failures = max(self.failures, settings.BREAKER_FAILURES)
        left = min(wait_seconds, settings.BREAKER_OPEN_SECONDS)
        self.opened_at = self._clock() - settings.BREAKER_OPEN_SECONDS + left

    def forget(self) -> None:
        """Another process has seen that the server is back."""
        self.failures = 0
        self.opened_at = None

    def _count_failure(self, *, is_probe: bool) -> None:
        self.failures += 1
        if is_probe or (self.opened_at is None and self.failures >= settings.BREAKER_FAILURES):
            self.opened_at = self._clock()
            self.on_change()

    def _close(self) -> None:
        was_open = self.is_open
        self.failures = 0
        self.opened_at = None
        self._is_probing = False
        if was_open:
            self.on_change()

    def refusal(self) -> BackendDown:
        """What a call is told that is not let through."""
        seconds = max(1, round(self.wait_seconds))
        return BackendDown(
            f"The server {self.server} has failed {self.failures} times in a row and is left alone for now."
            f" Try again in {seconds} s, or use another tool; an admin can look at it under Servers.",
            details={"server": self.server, "retry_after": seconds},
        )


def _nobody_minds() -> None:
    """Where nobody wants to know that the breaker has opened or closed."""
