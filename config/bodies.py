"""Reads the bodies of requests, and no more of them than they may have."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from django.conf import settings

from apps.core.errors import Malformed, TooLarge

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

LINGER_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 0.5


async def read_body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body; raises TooLarge without keeping what is longer than MAX_BODY_BYTES."""
    limit: int = settings.MAX_BODY_BYTES
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit:
        raise await _too_large(limit, headers, receive)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("The body ended too early.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise await _too_large(limit, headers, receive)
        if not message.get("more_body"):
            return b"".join(parts)


async def _too_large(limit: int, headers: Mapping[bytes, bytes], receive: Receive) -> TooLarge:
    """The refusal, after what is under way has been thrown away.

    To close on a client that is still sending would reset the connection and take the answer away from it. Whoever
    asked first whether to send (`Expect`) is told at once, and nobody is listened to for long.
    """
    if b"expect" not in headers:
        with suppress(TimeoutError):
            await _throw_away(receive)
    return TooLarge(f"The body may have at most {limit} bytes.")


async def _throw_away(receive: Receive) -> None:
    left = LINGER_BYTES
    while left > 0:
        message = await asyncio.wait_for(receive(), LINGER_SECONDS)
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return
