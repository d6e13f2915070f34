"""An answer on its way from one web process to another: in numbered parts, and at once no more of them than a window.

Redis carries a message at most once and tells nobody what it has dropped. So parts are numbered, and where one is
missing the answer breaks off: it is never handed on as if it were whole. Who asks acknowledges how many bytes it has
sent on in all, so that the next acknowledgement makes good for a lost one. Who answers waits for that, and sees a slow
reader there as it sees one of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from apps.core.budget import Share

Message = MutableMapping[str, Any]
Told = dict[str, Any]
Tell = Callable[[Told, bytes], Awaitable[bool]]

WINDOW_BYTES = 1_048_576
"""How many bytes of an answer may be under way, or wait for a slow reader; the last part may exceed it."""
PART_BYTES = 1024
"""What a part costs beside its body: very many small ones fill a window too."""
ACKNOWLEDGED_BYTES = 262_144
"""How many bytes are acknowledged together: as many as a reader has thirty seconds for. A small answer is not."""
GONE = "The process that this session lived in is gone. Open another session."
BROKEN = "The answer was lost on its way between two of our processes. The request may have been carried out."


class Lost(Exception):
    """Something of an answer has not come, and will not come any more."""


class Incoming:
    """An answer as it comes in, for the process that was asked by a caller; what it holds of it counts."""

    def __init__(self, share: Share) -> None:
        self.has_started = False
        self.is_complete = False
        self.sent_on = 0
        """How many bytes the caller has taken, in all."""
        self._share = share
        self._heard: asyncio.Queue[tuple[Told, bytes]] = asyncio.Queue()
        self._expected = 1
        self._acknowledged = 0

    def hear(self, told: Told, body: bytes) -> None:
        """Keep what the answering process says until it is sent on; never waits."""
        self._share.take(len(body))
        self._heard.put_nowait((told, body))

    async def next(self, leaving: "asyncio.Future[None]", seconds: float) -> tuple[Told, bytes] | None:
        """What was said next; nothing where that takes too long, or the caller leaves."""
        heard = asyncio.ensure_future(self._heard.get())
        either: set[asyncio.Future[Any]] = {heard, leaving}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
            return heard.result() if heard.done() else None
        finally:
            heard.cancel()

    def part(self, told: Told, body: bytes) -> Message | None:
        """The part of the answer that this is; nothing where it is none. Raises Lost where one before it is missing."""
        if told["kind"] == "alive" and told["parts"] < self._expected:
            return None
        if told["kind"] != "part" or told["number"] > self._expected:
            raise Lost(BROKEN)
        if told["number"] < self._expected:
            self._give_back(len(body))  # somebody has copied it
            return None
        self._expected += 1
        self.has_started = True
        return _message(told["message"], body)

    def passed_on(self, part: Message) -> bool:
        """Hold a part no more, for the caller has it; whether that should be acknowledged now."""
        self._give_back(len(part.get("body", b"")))
        self.sent_on += _weight(part)
        self.is_complete = _is_end(part)
        if self.is_complete or self.sent_on - self._acknowledged < ACKNOWLEDGED_BYTES:
            return False
        self._acknowledged = self.sent_on
        return True

    def _give_back(self, size: int) -> None:
        self._share.back_to(self._share.size - size)


class Outgoing:
    """An answer as it goes out, for the process that a request was relayed to: to the application it is the server."""

    def __init__(self, tell: Tell, body: bytes) -> None:
        self.parts = 0
        """How many parts Redis has taken."""
        self.is_complete = False
        self._tell = tell
        self._pending = [body]
        self._number = 0
        self._sent = 0
        self._sent_on = 0
        self._left = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def is_left(self) -> bool:
        """Whether nobody waits for more of it."""
        return self._left.is_set()

    async def receive(self) -> Message:
        """The request, and then that the caller has left."""
        if self._pending:
            return {"type": "http.request", "body": self._pending.pop(), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a part as soon as the window has room; who cannot be reached has left, and gets nothing any more."""
        while self._sent - self._sent_on >= WINDOW_BYTES and not self.is_left:
            self._news.clear()
            await self._news.wait()
        if self.is_left:
            return
        self._number += 1
        self._sent += _weight(message)
        told = {"kind": "part", "number": self._number, "message": _plain_message(message)}
        if not await self._tell(told, message.get("body", b"")):
            self.leave()
            return
        self.parts = self._number
        self.is_complete = _is_end(message)

    def acknowledge(self, sent_on: int) -> None:
        """The caller has taken so many bytes in all."""
        self._sent_on = max(self._sent_on, sent_on)
        self._news.set()

    def leave(self) -> None:
        """The caller has left, or cannot be reached."""
        self._left.set()
        self._news.set()

    async def cut(self) -> None:
        """Send nothing any more; the asking process is told at the end that this answer has none."""
        self.leave()


def _weight(message: Message) -> int:
    return PART_BYTES + len(message.get("body", b""))


def _is_end(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body")


def _plain_message(message: Message) -> Told:
    """A part of an answer as JSON, without its body."""
    plain = {name: value for name, value in message.items() if name != "body"}
    if "headers" in plain:
        plain["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in plain["headers"]]
    return plain


def _message(plain: Told, body: bytes) -> Message:
    """A part of an answer again, without the id that every answer gets here."""
    if plain["type"] != "http.response.start":
        return {**plain, "body": body}
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plain["headers"]]
    return {**plain, "headers": [(name, value) for name, value in headers if name != b"x-request-id"]}
