"""Narrow lanes: work that takes long holds only a few of the threads that all requests share.

Hashing a password takes a tenth of a second of a processor, looking at somebody's server up to half a minute. Without a
lane, eight callers at once would keep everybody else waiting. Who waits does so in the event loop, where it costs
little; who finds a long queue is told to come back.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from apps.core.errors import RateLimited, TooLarge

WIDTH = 2
LONGEST_QUEUE = 128
MOST_OF_ONE_ADDRESS = 64
LONGEST_WAIT_SECONDS = 20.0
LARGEST_BODY_BYTES = 65_536
RETRY_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Lane:
    """Which POSTs share the slots."""

    name: str
    path: re.Pattern[str]


LANES = (
    Lane("sign-in", re.compile(r"/api/v1/auth/(?:login|invitations/accept)\Z|/admin/login/\Z|/invitation\Z")),
    Lane(
        "servers",
        re.compile(
            r"/api/v1/mcp/servers/[^/]+/(?:check|test-connection)\Z"
            r"|/admin/registry/server/(?:\Z|[^/]+/do/(?:check_now|test_connection)/\Z)"
        ),
    ),
)


@dataclass(slots=True)
class _Queue:
    """A lane in one event loop."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WIDTH))
    present: Counter[str] = field(default_factory=Counter)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Queue]] = WeakKeyDictionary()


@asynccontextmanager
async def in_lane(scope: MutableMapping[str, Any], body: bytes) -> AsyncIterator[None]:
    """Let a request that has a lane wait for its turn; raises RateLimited, or TooLarge for what nobody sends there."""
    lane = next((each for each in LANES if scope["method"] == "POST" and each.path.match(scope["path"])), None)
    if lane is None:
        yield
        return
    if len(body) > LARGEST_BODY_BYTES:
        raise TooLarge(f"The body may have at most {LARGEST_BODY_BYTES} bytes here.")
    queue = _queue(lane)
    address: str = scope["gatehouse.address"]
    if queue.present.total() >= LONGEST_QUEUE or queue.present[address] >= MOST_OF_ONE_ADDRESS:
        raise _refusal()
    queue.present[address] += 1
    try:
        async with _slot(queue):
            yield
    finally:
        queue.present[address] -= 1
        queue.present += Counter()  # forgets who is gone


def _queue(lane: Lane) -> _Queue:
    queues = _queues.setdefault(asyncio.get_running_loop(), {})
    return queues.setdefault(lane.name, _Queue())


@asynccontextmanager
async def _slot(queue: _Queue) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await queue.slots.acquire()
    except TimeoutError as error:
        raise _refusal() from error
    try:
        yield
    finally:
        queue.slots.release()


def _refusal() -> RateLimited:
    return RateLimited(
        "Too many ask for this at the same time. Try again in a moment.", details={"retry_after": RETRY_SECONDS}
    )
