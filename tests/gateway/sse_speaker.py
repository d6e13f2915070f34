"""A client of HTTP+SSE that speaks exactly one revision: one stream brings all that it is told, its POSTs nothing.

The stream is read by whoever waits for something on it. With several doors it may come through one of them, and what
is said go through another.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urljoin

from tests.gateway.speaker import PATIENCE_SECONDS, Heard, Message, Speaker
from tests.live import Answer, Client


@dataclass
class SseSpeaker(Speaker):
    """One client with a key and a stream."""

    path: str = "/mcp/sse"
    listens_at: int = 0
    address: str = ""
    stream: HTTPResponse | None = None
    early: list[Message] = field(default_factory=list)
    """What came before anybody waited for it."""

    @property
    def is_modern(self) -> bool:
        """Never: this transport is older."""
        return False

    def begin(self) -> Message:
        """Open the stream and shake hands."""
        self.open()
        return super().begin()

    def open(self) -> "SseSpeaker":
        """Open the stream, whose first event names the address to post to."""
        self._wire = self._connection(self.listens_at)
        headers = {"Authorization": f"Bearer {self.key}", "Accept": "text/event-stream"}
        self._wire.request("GET", self.path, headers=headers)
        self.stream = self._wire.getresponse()
        assert self.stream.status == 200, (self.stream.status, self.stream.read())
        assert self.stream.headers.get_content_type() == "text/event-stream"
        name, told = next(self.events())
        assert name == "endpoint"
        self.address = urljoin(self.path, told)
        return self

    def end(self) -> None:
        """Leave, which is the end of the session."""
        if self.stream is not None:
            self.stream.close()
            self._wire.close()

    def events(self) -> Iterator[tuple[str, str]]:
        """The events of the stream as they come, comments among them under the name of nothing, until its end."""
        assert self.stream is not None
        name = ""
        while line := self.stream.readline().decode():
            field_name, _, value = line.rstrip("\n").partition(": ")
            if field_name == "event":
                name = value
            elif field_name == "data":
                yield name, value
            elif line.startswith(":"):
                yield "", line

    def messages(self) -> Iterator[Message]:
        """The messages of the stream as they come; where none comes for long, that fails the test."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for name, said in self.events():
            assert time.monotonic() < deadline, "only comments come"
            if name:
                deadline = time.monotonic() + PATIENCE_SECONDS
                assert name == "message"
                yield json.loads(said)

    def post(self, message: Message | list[Message], *, key: str = "", address: str = "", **headers: str) -> Answer:
        """One POST, as it is, and what HTTP says to it."""
        sent = {"Authorization": f"Bearer {key or self.key}", **headers}
        return Client(self.doors[self.asks_at], sent).post(address or self.address, message)

    def send(self, method: str, params: Message | None = None) -> int:
        """Make a request and wait for nothing; its number."""
        number: int = next(self.numbers)
        answer = self.post({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
        assert (answer.status, answer.body) == (202, b""), answer.text
        return number

    def wait_for(self, number: int, heard: Heard | None = None) -> Heard:
        """The answer to a request that was made, and what was said and asked before."""
        heard = heard or Heard()
        for each in self.messages():
            if "method" not in each and each["id"] == number:
                heard.answer = each
                return heard
            if "method" in each and "id" in each:
                self._tell({"jsonrpc": "2.0", "id": each["id"], "result": self._answer(heard, each)})
            elif "method" in each:
                heard.notices.append(each)
            else:
                self.early.append(each)
        raise AssertionError("The stream has ended.")

    def _round(self, heard: Heard, door: int, method: str, params: Message) -> None:
        self.wait_for(self.send(method, params), heard)
        heard.status = 200

    def _tell(self, message: Message) -> None:
        before, self.asks_at = self.asks_at, self.answers_at
        assert self.post(message).status == 202
        self.asks_at = before


@contextmanager
def speaking(
    doors: tuple[str, ...], key: str, revision: str, capabilities: Message | None = None, **more: Any
) -> Iterator[SseSpeaker]:
    """A client that has shaken hands, until it leaves."""
    made = SseSpeaker(doors, key, revision, capabilities or {}, **more)
    try:
        said = made.begin()
        assert said["protocolVersion"] == revision
        yield made
    finally:
        made.end()
