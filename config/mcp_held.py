"""Holds the bytes of an answer until they are on their way: large ones leave in pieces, as fast as the caller reads.

The server keeps what a caller has not read yet, so a large answer that is sent at once would be held for as long as its
caller pleases, and counted by nobody.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from apps.core import budget

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

PIECE_BYTES = budget.FREE_BYTES
LONGEST_PIECE_SECONDS = 30.0


class Paced:
    """A `send` that gives large bodies in pieces, each when the one before has left; who reads too slowly is left.

    The parts of a stream are pieces too: a large result may wait behind them.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_stream = False
        self.is_left = False
        """Whether nothing is sent any more: a stream is best ended then, so that its connection is closed."""

    async def __call__(self, message: Message) -> None:
        """Send a message; returns when its last piece has left, or the caller was left."""
        body: bytes = message.get("body", b"")
        if self.is_left:
            return
        self._is_stream = self._is_stream or bool(message.get("more_body"))
        if len(body) <= PIECE_BYTES and not self._is_stream:
            await self._send(message)  # the server takes a small answer at once
            return
        starts = range(0, len(body) or 1, PIECE_BYTES)
        for start in starts:
            more = bool(message.get("more_body")) or start != starts[-1]
            try:
                async with asyncio.timeout(LONGEST_PIECE_SECONDS):
                    await self._send({**message, "body": body[start : start + PIECE_BYTES], "more_body": more})
            except TimeoutError:
                # Nothing is sent any more: the server closes a connection whose answer was not brought to its end.
                logger.info("a caller did not read an answer of %s bytes, and was left", len(body))
                self.is_left = True
                return
