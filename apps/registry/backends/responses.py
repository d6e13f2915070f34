"""The answer to one request, out of the HTTP response that holds it: as JSON, as a stream of events, or refused."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from apps.core import budget, egress
from apps.core.errors import BackendError, TooLarge
from apps.registry.backends import web, wire
from apps.registry.backends.base import HttpRefusal, ServerRoute
from apps.registry.backends.hearing import Exchange
from apps.registry.backends.sessions import Place, Voice

MAX_REFUSAL_BYTES = 65_536
# Reference servers answer 400, not the 404 of the specification, to a session that they do not know.
_SESSION_UNKNOWN = re.compile(rb"session|not initialized", re.IGNORECASE)
_OK, _BAD_REQUEST, _NOT_FOUND = 200, 400, 404


class SessionOver(Exception):
    """The server has forgotten our session: it did not do what was asked."""


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A request that was sent: whose answer is looked for, and who hears what the server says before it."""

    route: ServerRoute
    number: int
    voice: Voice
    exchange: Exchange | None = None

    async def answer_in(self, response: egress.Response) -> dict[str, Any]:
        """The response to a request, out of the HTTP answer; raises HttpRefusal or BackendError where there is none."""
        if response.status != _OK:
            return await self._refusal(response)
        kind = web.media_type(response)
        if kind == "application/json":
            text = await egress.read_limited(response, limit_bytes=settings.UPSTREAM_MAX_RESULT_BYTES)
            message = self._answer_among(wire.decode_all(text, self.voice.version), len(text))
            if message is None:
                raise BackendError("The server's answer has neither a result nor an error.")
            return message
        if kind == "text/event-stream":
            return await self._streamed(response)
        raise BackendError(
            f"{self.route.slug} answers with {kind or 'no content type'} instead of JSON."
            " Check that the URL is that of its MCP endpoint."
        )

    def _answer_among(self, messages: Sequence[dict[str, Any]], size: int) -> dict[str, Any] | None:
        """The answer among messages that came together; what was said before it is heard."""
        for message in messages:
            if wire.is_response(message):
                wire.check_id(message, self.number)
                return message
            self.voice.hearing.hear(message, size, exchange=self.exchange)
        return None

    async def _refusal(self, response: egress.Response) -> dict[str, Any]:
        """The JSON-RPC error of an answer other than 200; raises HttpRefusal where there is none.

        Whoever refuses the very request for its parameters, or has failed over it, knows the session: it may speak of
        sessions of its own, and what it was asked is not asked again.
        """
        status: int = response.status
        if self.voice.session_id and status == _NOT_FOUND:
            raise SessionOver
        if status >= _BAD_REQUEST and status not in web.CREDENTIALS_REFUSED:
            with suppress(TooLarge, BackendError):
                body = await egress.read_limited(response, limit_bytes=MAX_REFUSAL_BYTES)
                is_unknown = self.voice.session_id and status == _BAD_REQUEST and _SESSION_UNKNOWN.search(body)
                if is_unknown and not wire.is_about_the_request(body, self.number):
                    raise SessionOver
                message = wire.decode(body)
                if isinstance(message.get("error"), dict) and "result" not in message:
                    return message
        raise HttpRefusal(status, f"{self.route.slug} {web.refusal_text(status)}")

    async def _streamed(self, response: egress.Response) -> dict[str, Any]:
        """The answer out of an event stream; a stream that ends early is resumed where the server offers it.

        The time limit of the request, which is around all this, is the one that holds.
        """
        place = Place()
        message = await self._read_stream(response, place)
        while message is None:
            if self.voice.meta is not None or not place.can_be_resumed:
                raise BackendError(f"{self.route.slug} ended its answer without a result.")
            await asyncio.sleep(place.retry_seconds)
            headers = {**self.voice.headers, "Accept": "text/event-stream", "Last-Event-ID": place.last_id}
            async with egress.request(
                "GET", self.route.url, headers=headers, timeout_seconds=web.LONGEST_STREAM_SECONDS
            ) as resumed:
                if resumed.status != _OK:
                    raise BackendError(f"{self.route.slug} ended its answer without a result.")
                message = await self._read_stream(resumed, place)
        return message

    async def _read_stream(self, response: egress.Response, place: Place) -> dict[str, Any] | None:
        chunks, share = egress.counted(response.content.iter_any()), budget.current()
        held = share.size if share else 0
        async with aclosing(web.events(chunks, limit_bytes=settings.UPSTREAM_MAX_RESULT_BYTES)) as stream:
            async for event in stream:
                place.move(event.id, event.retry)
                text = b"\n".join(event.data)
                messages = wire.decode_all(text, self.voice.version) if text and event.kind == "message" else ()
                answer = self._answer_among(messages, len(text))
                if answer is not None:
                    return answer
                if share is not None:
                    share.back_to(held)
        return None
