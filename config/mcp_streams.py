"""Answers over HTTP: JSON where the result is all there is to say, else an event stream that begins when it must.

A stream within a session keeps its last events under numbers, so that a client whose connection broke reads on from
where it was. What nobody reads is bounded: notices that no longer fit are dropped, results and questions never.
"""

import asyncio
import contextvars
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from apps.core.errors import ServiceError
from config.mcp_rights import CHECK_SECONDS, Check

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WATCH_AFTER_SECONDS = 0.5
"""From when on, or up to twice as late, somebody watches whether the caller is there; most answers are out by then."""
PING_SECONDS = 10.0
"""How long a caller hears nothing. SDKs give up after thirty seconds without a byte, which is when we give up too."""
RESUME_SECONDS = 30.0
"""How long the work for a caller goes on whose connection has broken and who may come back."""
KEPT_EVENTS = 256
KEPT_BYTES = 1_048_576
MOST_WAITING_BYTES = 8_388_608
_PLACE = re.compile(r"([0-9a-z]{1,20})-([0-9]{1,12})")

JSON_HEADERS = [(b"content-type", b"application/json")]
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]  # fmt: skip


def place_of(last_event_id: str) -> tuple[str, int] | None:
    """The stream and the event that a `Last-Event-ID` names; None for an id that is not ours."""
    found = _PLACE.fullmatch(last_event_id)
    return (found[1], int(found[2])) if found else None


class Stream:
    """A sequence of messages that is written as it happens and read by whoever holds the connection."""

    def __init__(
        self, name: str = "", *, opening: bytes = b"", ended: "Callable[[Stream], None] | None" = None
    ) -> None:
        self.name = name
        self._opening = opening
        self._tell_ended = ended
        self.readers = 0
        self._newest_reader = 0
        self.is_ended = False
        self._first = 1
        self._events: deque[bytes] = deque()
        self._size = 0
        self._read_to = 0
        self._news = asyncio.Event()

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Add a message; False where it was dropped, for nobody reads and too much waits already."""
        if self.is_ended or (may_be_dropped and self._waiting_bytes() + len(message) > KEPT_BYTES):
            return False
        self._events.append(message)
        self._size += len(message)
        self._forget()
        self._news.set()
        return True

    @property
    def is_read(self) -> bool:
        """Whether everything has been sent."""
        return not self._waiting_bytes()

    @property
    def size(self) -> int:
        """How many bytes it keeps."""
        return self._size

    def end(self) -> None:
        """Nothing follows."""
        if not self.is_ended and self._tell_ended is not None:
            self._tell_ended(self)
        self.is_ended = True
        self._news.set()

    async def copy(self, send: Send, after: int = 0) -> None:
        """Send every message after this one, and those to come, until the end; a comment where it stays quiet.

        It has one reader: whoever reads on takes the place of the one before, whose connection may only look alive.
        """
        at = max(after + 1, self._first)
        self.readers += 1
        self._newest_reader = reader = self._newest_reader + 1
        self._news.set()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            if self._opening and not after:
                await _send_part(send, self._opening)
            while True:
                self._news.clear()
                while at < self._first + len(self._events) and reader == self._newest_reader:
                    at = max(at, self._first)
                    await _send_part(send, self._event(at))
                    at += 1
                    self._read_to = max(self._read_to, at - 1)
                    self._forget()
                if reader != self._newest_reader or (self.is_ended and at >= self._first + len(self._events)):
                    break
                if not await self._changes_within(PING_SECONDS):
                    await _send_part(send, b": still here\n\n")
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.readers -= 1

    async def _changes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return self._news.is_set()
        return True

    def _event(self, number: int) -> bytes:
        message = self._events[number - self._first]
        mark = f"id: {self.name}-{number}\n".encode() if self.name else b""
        return b"".join((b"event: message\n", mark, b"data: ", message, b"\n\n"))

    def _waiting_bytes(self) -> int:
        waiting = self._first + len(self._events) - 1 - self._read_to
        return 0 if waiting <= 0 else sum(map(len, list(self._events)[-waiting:]))

    def _forget(self) -> None:
        """Keep what may be read again, and what was not read yet up to a bound that ends the keeping of anything.

        The last message, which is the result in the end, is kept however long it is: that it was sent does not say that
        it has arrived.
        """
        while self._events and self._first <= self._read_to and (not self.name or self._is_over()):
            if self.name and len(self._events) == 1:
                break
            self._drop()
        while self._size > MOST_WAITING_BYTES and len(self._events) > 1:
            self._drop()

    def _is_over(self) -> bool:
        return len(self._events) > KEPT_EVENTS or self._size > KEPT_BYTES

    def _drop(self) -> None:
        self._size -= len(self._events.popleft())
        self._first += 1


class Reply:
    """The answer to one POST. It becomes an event stream with the first message before the result, or after a while."""

    def __init__(
        self, send: Send, receive: Receive, *, can_stream: bool, stream: Callable[[], Stream] = Stream,
        check: Check | None = None,
    ) -> None:  # fmt: skip
        self.can_stream = can_stream
        self.has_left = False
        self.is_cancelled = False
        self.refusal: ServiceError | None = None
        """Why it was cancelled, where its caller may not have it answered any more."""
        self._check = check
        self._send = send
        self._receive = receive
        self._new_stream = stream
        self._stream: Stream | None = None
        self._writing: asyncio.Task[None] | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._work = asyncio.current_task()
        self._is_over = False
        _watcher().add(self)

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Send a message before the result; False where this caller takes none."""
        if not self.can_stream or self._is_over:
            return False
        return self._begin().put(message, may_be_dropped=may_be_dropped)

    async def finish(self, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Send the result, which is the end."""
        self.stop()
        if self._stream is not None and self._writing is not None:
            self._stream.put(body)
            self._stream.end()
            await asyncio.wait({self._writing})
            return
        sent = [*JSON_HEADERS, (b"content-length", str(len(body)).encode()), *(headers or ())]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})
        await self._send({"type": "http.response.body", "body": body})

    async def drop(self) -> None:
        """End without a result: the caller has left, or has cancelled its request."""
        self.stop()
        if self._stream is not None and self._writing is not None:
            self._stream.end()
            if self.has_left:
                self._writing.cancel()
            await asyncio.wait({self._writing})
        elif not self.has_left:
            await self._send({"type": "http.response.start", "status": 202, "headers": []})
            await self._send({"type": "http.response.body", "body": b""})

    def cancel(self) -> None:
        """Give up the work: its caller has left, or wants no answer any more; one on its way is not taken back."""
        if self._work is not None and not self.is_cancelled and not self._is_over:
            self.is_cancelled = True
            self._work.cancel()

    def stop(self) -> None:
        """Watch the caller no more."""
        self._is_over = True
        _watcher().drop(self)
        for watching in self._watching:
            watching.cancel()

    def _begin(self) -> Stream:
        if self._stream is None:
            self._stream = self._new_stream()
            self._writing = asyncio.get_running_loop().create_task(self._stream.copy(self._send))
        return self._stream

    def start_watching(self) -> None:
        """See from now on whether the caller is still there, and may still have this."""
        loop = asyncio.get_running_loop()
        self._watching.append(loop.create_task(self._watch()))
        if self._check is not None:
            self._watching.append(loop.create_task(self._guard(self._check)))

    @property
    def has_begun(self) -> bool:
        """Whether its caller has got the first bytes."""
        return self._stream is not None

    async def _guard(self, check: Check) -> None:
        """Cancel the work when its caller would not be let in any more."""
        while not self.is_cancelled:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await check()
            except ServiceError as refusal:
                if not self.is_cancelled:
                    self.refusal = refusal
                    self.cancel()

    async def _watch(self) -> None:
        """Cancel the work when the caller leaves; begin the stream where nothing was heard for long: so it stays."""
        leaving = asyncio.ensure_future(self._left())
        try:
            await asyncio.wait({leaving}, timeout=PING_SECONDS)
            if self.can_stream and not leaving.done():
                self._begin()
            await leaving
            self.has_left = True
            if self._stream is not None and self._stream.name:
                await self._wait_for_return(self._stream)
            self.cancel()
        finally:
            leaving.cancel()

    async def _wait_for_return(self, stream: Stream) -> None:
        """The connection broke, which is no cancelling where the revision has sessions: give the client some time."""
        if self._writing is not None:
            self._writing.cancel()
        left = RESUME_SECONDS
        while left > 0 or stream.readers:
            left = RESUME_SECONDS if stream.readers else left - 1
            await asyncio.sleep(1)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Watcher:
    """Lets replies that take longer be watched: one timer for all of them, since nearly all are out before it ends."""

    def __init__(self) -> None:
        self._young: dict[Reply, None] = {}
        self._next: dict[Reply, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reply: Reply) -> None:
        """A reply has begun."""
        self._young[reply] = None
        if self._timer is None:
            self._again()

    def drop(self, reply: Reply) -> None:
        """It is out, or watched."""
        self._young.pop(reply, None)
        self._next.pop(reply, None)

    def _again(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self._look, context=contextvars.Context())

    def _look(self) -> None:
        """Watch what has been there for a whole turn; what came in this one is looked at after the next."""
        self._timer = None
        old, self._next, self._young = self._next, self._young, {}
        for reply in old:
            reply.start_watching()
        if self._next:
            self._again()


_watchers: dict[asyncio.AbstractEventLoop, _Watcher] = {}


def _watcher() -> _Watcher:
    """That of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _watchers.get(loop)
    if found is None:
        for over in [known for known in _watchers if known.is_closed()]:
            del _watchers[over]
        found = _watchers[loop] = _Watcher()
    return found


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})
