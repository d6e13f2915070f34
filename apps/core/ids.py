"""Identifiers: UUIDs of version 7, whose order is the order of their creation."""

import os
import time
from uuid import UUID

_MILLISECONDS = 1_000_000


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // _MILLISECONDS
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)
