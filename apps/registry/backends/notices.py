"""The stream on which a server over streamable HTTP says what nobody asked, in both eras of the protocol.

Before 2026 that is the answer to a GET, resumed where it broke off; a session has one, which all who listen share.
Since then it is the answer to `subscriptions/listen`, which everybody asks for themselves, and cannot be resumed. The
stream keeps a connection for as long as it is heard, so it has a pool of its own.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from django.conf import settings

from apps.core import egress
from apps.core.errors import ServiceError
from apps.registry.backends import web, wire
from apps.registry.backends.base import Listener, UpstreamError
from apps.registry.backends.hearing import NOTICES_PER_SECOND, Pauses
from apps.registry.backends.responses import SentRequest
from apps.registry.backends.sessions import Place, Voice

if TYPE_CHECKING:
    from apps.registry.backends.http import StreamableHttp

logger = logging.getLogger(__name__)

LISTEN = "subscriptions/listen"
_OK = 200
_NOT_OFFERED = (405, 501)
_PERHAPS_OVER = (400, 404)


class Notices:
    """What is heard of one server, through its restarts; without a listener, by whoever listens to the connection."""

    def __init__(
        self, upstream: "StreamableHttp", notices: Mapping[str, Any] | None = None, listener: Listener | None = None
    ) -> None:
        self._upstream = upstream
        self._notices = notices
        self._listener = listener
        self._place = Place()
        self._pauses = Pauses()

    async def hear(self) -> None:
        """Keep a stream open, until cancelled or until the server speaks another era."""
        upstream, voice = self._upstream, self._upstream.voice
        session = egress.new_session()
        try:
            while True:
                renewed = upstream.renewed
                if (upstream.voice.meta is None) != (voice.meta is None):
                    return
                if upstream.voice is not voice:
                    voice, self._place = upstream.voice, Place()
                try:
                    is_offered = await self._hear_one(session, voice)
                except ServiceError as error:
                    is_offered = True
                    upstream.hears.set()
                    logger.info("The notices of %s broke off: %s", upstream.route.slug, error.message)
                if not is_offered and upstream.voice is voice:
                    await renewed.wait()
                self._pauses.shortest = self._place.retry_seconds
                await self._pauses.wait()
        finally:
            await session.close()

    async def _hear_one(self, session: egress.Pool, voice: Voice) -> bool:
        """Hear one stream to its end; False where the server has none to offer."""
        number, code = next(self._upstream.numbers), 0
        method, headers, body = self._asked_for(voice, number)
        async with egress.request(
            method,
            self._upstream.route.url,
            headers=headers,
            body=body,
            session=session,
            timeout_seconds=web.LONGEST_STREAM_SECONDS,
        ) as response:
            self._upstream.hears.set()
            status = response.status
            if status == _OK and web.media_type(response) == "text/event-stream":
                await self._read(response, voice)
                return True
            if voice.meta is not None:
                try:
                    wire.result_of(await SentRequest(self._upstream.route, number, voice).answer_in(response))
                except UpstreamError as error:
                    code = error.rpc_code
        if status in _NOT_OFFERED or code == wire.METHOD_NOT_FOUND:
            return False
        return status not in _PERHAPS_OVER or await self._ask_whether_over(voice)

    def _asked_for(self, voice: Voice, number: int) -> tuple[str, dict[str, str], bytes | None]:
        """The request whose answer is the stream."""
        if voice.meta is not None:
            body = wire.encode_request(number, LISTEN, self._notices, voice.meta)
            return "POST", {**voice.headers, "Mcp-Method": LISTEN}, body
        headers = {**voice.headers, "Accept": "text/event-stream"}
        if self._place.can_be_resumed:
            headers["Last-Event-ID"] = self._place.last_id
        return "GET", headers, None

    async def _ask_whether_over(self, voice: Voice) -> bool:
        """Perhaps the session is over, or the era: asking anything finds that out, and begins again where it is so."""
        upstream = self._upstream
        with suppress(UpstreamError):
            asked = "ping" if voice.meta is None else "server/discover"
            await upstream.request(asked, {}, timeout_seconds=upstream.route.timeout_seconds)
        return upstream.voice is not voice

    async def _read(self, response: egress.Response, voice: Voice) -> None:
        limit = settings.UPSTREAM_MAX_RESULT_BYTES
        async with aclosing(web.events(response.content.iter_any(), limit_bytes=limit)) as stream:
            async for event in stream:
                self._pauses.reset()
                self._place.move(event.id, event.retry)
                text = b"\n".join(event.data)
                for message in wire.decode_all(text, voice.version) if text and event.kind == "message" else ():
                    if wire.is_response(message):
                        return
                    if not voice.hearing.hear(message, len(text), listener=self._listener):
                        await asyncio.sleep(1 / NOTICES_PER_SECOND)  # whoever says more waits in the network
