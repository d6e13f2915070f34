"""Identifiers: UUIDs of version 7, whose order is the order of their creation."""

import os
import threading
import time
from uuid import UUID

_MILLISECOND = 1_000_000
_PARTS = 4_096
_RANDOM_BITS = 62

_lock = threading.Lock()
_last = 0


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, 12 bits of their parts, 62 random bits.

    Within a process each id is greater than the one before, even when the clock is set back (section 6.2, method 3).
    """
    global _last  # noqa: PLW0603 - one order per process
    with _lock:
        _last = moment = max(time.time_ns() * _PARTS // _MILLISECOND, _last + 1)
    milliseconds, part = divmod(moment, _PARTS)
    random = int.from_bytes(os.urandom(8), "big") >> (64 - _RANDOM_BITS)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | part << 64 | 0x2 << _RANDOM_BITS | random)
