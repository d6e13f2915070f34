"""What both transports over HTTP share: event streams, refusals in words, and the headers of every request."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from apps.core import logs
from apps.core.errors import TooLarge
from apps.registry.backends.lines import Lines, LongLine

CREDENTIALS_REFUSED = (401, 403)
LONGEST_STREAM_SECONDS = 7 * 86_400.0
_ACCEPTED = 202
_REDIRECTS = (301, 302, 303, 307, 308)
_NO_ENDPOINT = (404, 405)
_BUSY_OR_DOWN = (429, 502, 503, 504)
_MEDIA_TYPE = re.compile(r"(?:application|audio|image|multipart|text|video)/[a-z0-9.+-]{1,40}\Z", re.ASCII)
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}\Z", re.ASCII)


@dataclass(slots=True)
class Event:
    """One event of a stream."""

    kind: str = "message"
    id: str | None = None
    retry: str | None = None
    data: list[bytes] = field(default_factory=list)


async def events(chunks: AsyncIterator[bytes], *, limit_bytes: int) -> AsyncGenerator[Event, None]:
    """The events of a `text/event-stream`; raises TooLarge as soon as one is longer than the limit."""
    lines = Lines(limit_bytes)
    event, size = Event(), 0
    async for chunk in chunks:
        for line in lines.feed(chunk):
            size += 1 if isinstance(line, LongLine) else len(line) + 1
            if isinstance(line, LongLine) or size > limit_bytes:
                raise TooLarge("An event of the stream is too long.")
            if line:
                _add_field(event, line)
                continue
            yield event
            event, size = Event(), 0
        if lines.is_too_long:
            raise TooLarge("An event of the stream is too long.")


def _add_field(event: Event, line: bytes) -> None:
    name, _, value = line.partition(b":")
    value = value.removeprefix(b" ")
    if name == b"data":
        event.data.append(value)
    elif name == b"event":
        event.kind = value.decode("utf-8", "replace")
    elif name == b"id":
        event.id = value.decode("utf-8", "replace")
    elif name == b"retry":
        event.retry = value.decode("utf-8", "replace")


def refusal_text(status: int) -> str:
    """What an HTTP status without a message means, and what to do; goes on after the server's name."""
    if status in CREDENTIALS_REFUSED:
        return f"refuses our credentials (HTTP {status}). Add or replace the credential of this server."
    if status in _REDIRECTS:
        return f"redirects to another address (HTTP {status}), which is not followed. Register its final URL."
    if status in _NO_ENDPOINT:
        return f"has no MCP endpoint at this URL (HTTP {status}). Check the path of the URL."
    if status in _BUSY_OR_DOWN:
        return f"is busy or down (HTTP {status}). Try again in a moment."
    if status == _ACCEPTED:
        return "accepted a request and gave no answer."
    return f"answered with HTTP {status}."


def media_type(response: Any) -> str:
    """The kind of content that an answer says it has; empty where it names none that can be repeated safely."""
    kind: str = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind if _MEDIA_TYPE.match(kind) else ""


def request_id_header() -> dict[str, str]:
    """The id of the request that is being served, for the logs of the server."""
    request_id = logs.request_id.get()
    return {"X-Request-Id": request_id} if request_id and _REQUEST_ID.match(request_id) else {}
