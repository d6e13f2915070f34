"""Holds the bytes of an answer until they are on their way: large ones leave in pieces, as fast as the caller reads.

The server keeps what a caller has not read yet, so a large answer that is sent at once would be held for as long as its
caller pleases, and counted by nobody. It would also keep what it holds when it closes the connection of somebody who
does not read, and wait: such a connection is cut.
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
LONGEST_END_SECONDS = 1.0
"""How long a stream that is over waits for its caller to take the end of it."""
CUT = "gatehouse.cut"
"""Names in a scope what cuts the connection of a request: its caller sees an answer without an end, which is none."""


async def no_cut() -> None:
    """Leave it to the server, which closes a connection whose answer has no end."""


class Paced:
    """A `send` that gives large bodies in pieces, each when the one before has left; who reads too slowly is left.

    The parts of a stream are pieces too: a large result may wait behind them.
    """

    def __init__(self, send: Send, cut: Callable[[], Awaitable[None]] = no_cut) -> None:
        self._send = send
        self._cut = cut
        self._is_stream = False
        self._is_between = False
        self._is_over = False
        self.is_left = False
        """Whether nothing is sent any more, and the connection has been cut."""

    async def __call__(self, message: Message) -> None:
        """Send a message; returns when its last piece has left, or the caller was left."""
        if self.is_left:
            return
        has_more = bool(message.get("more_body"))
        self._is_stream, self._is_between = self._is_stream or has_more, False
        if not self._is_stream and len(message.get("body", b"")) <= PIECE_BYTES:
            await self._send(message)  # the server takes a small answer at once
        elif not await self._send_pieces(message, has_more=has_more):
            return
        self._is_over = message["type"] == "http.response.body" and not has_more
        self._is_between = not self._is_over

    async def _send_pieces(self, message: Message, *, has_more: bool) -> bool:
        """Whether the caller has taken it all; else it was left."""
        body: bytes = message.get("body", b"")
        starts = range(0, len(body) or 1, PIECE_BYTES)
        for start in starts:
            more = has_more or start != starts[-1]
            try:
                async with asyncio.timeout(LONGEST_PIECE_SECONDS):
                    await self._send({**message, "body": body[start : start + PIECE_BYTES], "more_body": more})
            except TimeoutError:
                logger.info("a caller did not read an answer of %s bytes, and was left", len(body))
                await self.cut()
                return False
        return True

    async def end(self) -> None:
        """End a stream where it stands: properly for a caller who reads, else by cutting the connection."""
        if self._is_over or self.is_left:
            return
        if self._is_between:
            try:
                async with asyncio.timeout(LONGEST_END_SECONDS):
                    await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                self._is_over = True
                return
            except TimeoutError:
                logger.info("a caller did not read its stream to the end, and was left")
        await self.cut()

    async def cut(self) -> None:
        """Send nothing any more, and cut the connection."""
        self.is_left = True
        await self._cut()
