"""What web processes tell each other about a server that fails: until when it is left alone, and who probes it.

With Redis, what one process has learnt holds in all of them within a second, and after a restart; of all together one
sends the probe. It is best effort: a Redis that does not answer is not asked for some seconds, and meanwhile each
process goes by what it has seen itself. Processes of stdio servers belong to one web process each: nothing is told of
those.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from django.conf import settings
from django.core.cache import cache

from apps.core.threads import in_thread
from apps.gateway.services.breaker import Breaker
from apps.registry import services as registry

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
BEGIN_SECONDS = 0.5
"""How long the first call to a server waits to hear what others have learnt."""
SILENCE_SECONDS = 5.0
REMEMBERED_SECONDS = 3600
MILLISECONDS = 1000
Start = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]

_silent_until = 0.0


class Agreement:
    """What this process says and hears of one server's outage."""

    def __init__(self, route: registry.ServerRoute, breaker: Breaker, start: Start) -> None:
        self._key = f"breaker:{route.id}:{hashlib.sha256(str(route.url).encode()).hexdigest()[:16]}"
        self._breaker = breaker
        self._start = start
        self._is_kept = route.transport != "stdio" and _is_shared()
        self._probe_seconds = route.timeout_seconds + SILENCE_SECONDS
        self._read_at = -READ_SECONDS
        self._changes = 0
        self._is_known = False
        self._is_claiming = False
        breaker.on_change = self._tell

    def look(self) -> None:
        """Hear what others have learnt, soon; asks once a second at most."""
        if self._is_kept and time.monotonic() - self._read_at >= READ_SECONDS:
            self._read_at = time.monotonic()
            self._start(self._read())

    async def begin(self) -> None:
        """Hear what others have learnt before the first call."""
        if self._is_kept:
            self._read_at = time.monotonic()
            await asyncio.wait({self._start(self._read())}, timeout=BEGIN_SECONDS)

    async def claim(self) -> None:
        """Be the one of all processes that probes; raises BackendDown where another one does."""
        if not self._is_kept or _is_silent():
            return
        if self._is_claiming:
            raise self._breaker.refusal()
        self._is_claiming = True
        try:
            is_ours, until = await in_thread(_quietly, self._take_probe, (True, None))
        finally:
            self._is_claiming = False
        if not is_ours:
            raise self._breaker.refusal()
        if until is not None and until > _now():
            self._breaker.follow((until - _now()) / MILLISECONDS)
            self._start(in_thread(_quietly, self._give_probe_back, None))
            raise self._breaker.refusal()

    def release(self, changes: int) -> None:
        """The probe has ended; where it changed nothing since, another may go."""
        if self._is_kept and changes == self._changes:
            self._start(in_thread(_quietly, self._give_probe_back, None))

    @property
    def changes(self) -> int:
        """How often the breaker has opened or closed here."""
        return self._changes

    def withdraw(self) -> None:
        """The way to the server is another one now: nothing is known of it."""
        if self._is_kept:
            self._changes += 1
            self._start(in_thread(_quietly, self._say_closed, None))

    def _tell(self) -> None:
        """The breaker has opened or closed here."""
        self._changes += 1
        if not self._is_kept:
            return
        wait = self._breaker.wait_seconds
        until = _now() + int(wait * MILLISECONDS)
        say = (lambda: self._say_open(until)) if self._breaker.is_open else self._say_closed
        self._start(in_thread(_quietly, say, None))

    async def _read(self) -> None:
        changes = self._changes
        until = await in_thread(_quietly, lambda: cache.get(self._key, 0), None)
        if until is None or changes != self._changes:
            return  # nobody answered, or it is older than what has happened here
        if until:
            self._is_known = True
            self._breaker.follow(max(0.0, (until - _now()) / MILLISECONDS))
        elif self._is_known:
            self._is_known = False
            self._breaker.forget()

    # In a thread

    def _say_open(self, until: int) -> None:
        cache.set(self._key, until, timeout=REMEMBERED_SECONDS)
        cache.delete(f"{self._key}:probe")
        self._is_known = True

    def _say_closed(self) -> None:
        cache.delete_many([self._key, f"{self._key}:probe"])
        self._is_known = False

    def _take_probe(self) -> tuple[bool, int | None]:
        is_ours = cache.add(f"{self._key}:probe", 1, timeout=self._probe_seconds)
        return is_ours, cache.get(self._key) if is_ours else None

    def _give_probe_back(self) -> None:
        cache.delete(f"{self._key}:probe")


def _is_shared() -> bool:
    return str(settings.CACHES["default"]["BACKEND"]).endswith("RedisCache")


def _now() -> int:
    """In milliseconds, by a clock that other processes have too."""
    return int(time.time() * MILLISECONDS)


def _is_silent() -> bool:
    return time.monotonic() < _silent_until


def _quietly(ask: Callable[[], Any], otherwise: Any) -> Any:
    """The answer of Redis, or this where there is none."""
    global _silent_until  # noqa: PLW0603 - one Redis for all
    if _is_silent():
        return otherwise
    try:
        return ask()
    except Exception as error:  # the cache's own kinds of errors, whatever it is
        _silent_until = time.monotonic() + SILENCE_SECONDS
        logger.warning("Outages of servers are not shared with other processes just now: %s", error)
        return otherwise
