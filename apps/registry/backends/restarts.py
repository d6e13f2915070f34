"""Keeps a process that ends by itself from being started again and again: a few times a minute, and no more.

Whoever starts it, calls, checks, discovery or the test of a connection, each process of Gatehouse counts what it has
seen. A server whose command or variables were changed begins anew: that may have been the repair.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from apps.core.errors import BackendDown
from apps.registry.backends.base import ServerRoute

MOST_A_MINUTE = 10
MINUTE_SECONDS = 60.0
Key = tuple[object, ...]


@dataclass(slots=True)
class _Crashes:
    """When processes of one server ended by themselves, and what was said of the last one."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_A_MINUTE))
    ending: str = ""


class Restarts:
    """The crashes of the last minute, by server. Threads may share it: each step is a single one on a dict or deque."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._crashes: dict[Key, _Crashes] = {}

    def count(self, route: ServerRoute, ending: str) -> None:
        """Remember that a process ended by itself."""
        self._forget_old()
        crashes = self._crashes.setdefault(_key(route), _Crashes())
        crashes.times.append(self._clock())
        crashes.ending = ending

    def check(self, route: ServerRoute) -> None:
        """Raise BackendDown while the server's processes have ended by themselves too often to start another."""
        crashes = self._crashes.get(_key(route))
        if crashes is None or len(crashes.times) < MOST_A_MINUTE:
            return
        wait = crashes.times[0] + MINUTE_SECONDS - self._clock()
        if wait > 0:
            raise BackendDown(
                f"The process of {route.slug} ended by itself {MOST_A_MINUTE} times within a minute, and is not started"
                f" for {math.ceil(wait)} s. {crashes.ending}"
            )

    def _forget_old(self) -> None:
        before = self._clock() - MINUTE_SECONDS
        for key, crashes in list(self._crashes.items()):
            if crashes.times[-1] < before:
                self._crashes.pop(key, None)


def _key(route: ServerRoute) -> Key:
    return route.id, route.command, hash(frozenset(route.env.items()))


restarts = Restarts()
"""Those of this process."""
