"""How long a new connection is tried for, so that a restart passes unnoticed and an outage does not pile up.

In the first seconds in which the server refuses connections everybody tries again. Then it is down: one caller at a
time tries, a few times a second, and all others are told so at once, for a thread that waits serves nobody.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from psycopg import OperationalError

T = TypeVar("T")

PATIENCE_SECONDS = 2.0
PAUSE_SECONDS = 0.1
_PASSING = (
    "starting up", "shutting down", "not yet accepting", "recovery mode", "too many clients", "connection slots",
)  # fmt: skip


class Patience:
    """What this process knows about whether the server takes connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed_at: float | None = None
        self._tried_at = 0.0
        self._scouts = 0
        self._error = ""

    def connect(self, attempt: Callable[[], T]) -> T:
        """The connection that the attempt makes; raises its OperationalError once patience is at its end."""
        while True:
            self._enter()
            try:
                made = attempt()
            except OperationalError as error:
                if not self._leave(error):
                    raise
            except BaseException:
                self._leave(None)
                raise
            else:
                self._leave(None)
                return made
            time.sleep(PAUSE_SECONDS)

    def _enter(self) -> None:
        """Begin an attempt; raises where the server is known to be down and somebody else is looking."""
        with self._lock:
            now = time.monotonic()
            if self._is_down(now) and (self._scouts or now - self._tried_at < PAUSE_SECONDS):
                raise OperationalError(self._error)
            self._tried_at = now
            self._scouts += 1

    def _leave(self, error: OperationalError | None) -> bool:
        """End an attempt; whether it failed in a way that is worth trying again at once."""
        with self._lock:
            self._scouts -= 1
            if error is None or not is_passing(error):
                self._failed_at = None
                return False
            now = self._tried_at = time.monotonic()
            self._failed_at, self._error = self._failed_at or now, str(error)
            return not self._is_down(now)

    def _is_down(self, now: float) -> bool:
        return self._failed_at is not None and now - self._failed_at >= PATIENCE_SECONDS


def is_passing(error: OperationalError) -> bool:
    """Whether the server may take a connection soon; a wrong password or name is refused for good."""
    text = str(error)
    return "FATAL" not in text or any(each in text for each in _PASSING)
