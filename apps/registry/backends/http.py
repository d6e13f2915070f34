"""The client of servers over streamable HTTP, in both eras of the protocol.

Only these headers leave the house: content type, what we accept, the protocol's own, the server's configured
credentials and the request's id. Nothing of the caller travels.
"""

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from django.conf import settings

from apps.core import egress
from apps.core.errors import BackendDown, BackendError, BackendTimeout, ServiceError, TooLarge
from apps.registry.backends import masking, web, wire
from apps.registry.backends.base import Hello, Listener, ServerRoute, UpstreamError
from apps.registry.backends.hearing import Hearing, while_open
from apps.registry.backends.notices import Notices
from apps.registry.backends.responses import SentRequest, SessionOver
from apps.registry.backends.sessions import VISIBLE, Standing, Voice

FAREWELL_SECONDS = 2.0
ANSWER_SECONDS = 10.0
FIRST_STREAM_SECONDS = 1.0
MAX_REPLIES_AT_ONCE = 16


class StreamableHttp:
    """A client of one server over the shared pool of connections of its event loop.

    The route, the voice and what else has a public name here is there for `Notices`.
    """

    def __init__(
        self, route: ServerRoute, ours: wire.Introduction | None = None, listener: Listener | None = None
    ) -> None:
        self.route = route
        self._ours = ours or wire.introduction(None, None)
        self._listener = listener
        self._listeners: list[Listener] = []
        self.voice = self._voice_of("")
        self._is_open = False
        self.numbers = itertools.count(1)
        self._agreeing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._standing = Standing()
        self._side: egress.Pool | None = None
        self._telling: asyncio.Task[None] | None = None
        self.renewed, self.hears, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self._is_open

    @property
    def protocol_version(self) -> str:
        """The revision that is spoken."""
        return self.voice.version

    async def open(self) -> Hello:
        """Agree on a revision; without any request where the route knows that the server speaks the newest."""
        if self.route.protocol_version == wire.MODERN:
            self.voice = self._voice_of(wire.MODERN)
            self._is_open = True
            return Hello(wire.MODERN)
        async with self._agreeing:
            hello = await self._agree(self.route.protocol_version, _deadline(self.route.timeout_seconds))
        if self._listener is not None and self.voice.meta is None:
            await self._begin_to_hear()
        return hello

    async def _begin_to_hear(self) -> None:
        """Open the stream of what belongs to no request before any is made: many a server asks there, and only once."""
        self._telling = self._in_background(Notices(self).hear())
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_STREAM_SECONDS):
                await self.hears.wait()

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float,
        listener: Listener | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one request; a session that the server has forgotten is opened again, once."""
        if not self._is_open:
            raise BackendDown(f"The connection to {self.route.slug} is closed.")
        deadline, voice = _deadline(timeout_seconds), self.voice
        try:
            return await self._ask(method, params, voice, deadline, listener=listener, capabilities=capabilities)
        except SessionOver:
            pass
        except UpstreamError as error:
            if error.rpc_code != wire.UNSUPPORTED_VERSION:
                raise
        async with self._agreeing:
            if self.voice is voice:
                await self._agree("" if voice.version == wire.MODERN else voice.version, deadline)
        try:
            return await self._ask(method, params, self.voice, deadline, listener=listener, capabilities=capabilities)
        except SessionOver as over:
            raise BackendError(f"{self.route.slug} forgets its sessions at once. Restart that server.") from over

    async def listen(self, notices: Mapping[str, Any], listener: Listener) -> None:
        """Hear what the server says unasked, on a stream that takes no connection away from requests."""
        if not self._is_open:
            raise BackendDown(f"The connection to {self.route.slug} is closed.")
        await while_open(self._ended, self._listen(notices, listener))

    async def _listen(self, notices: Mapping[str, Any], listener: Listener) -> None:
        while True:
            if self.voice.meta is not None:
                await Notices(self, notices, listener).hear()
                continue
            self._listeners.append(listener)
            try:
                if self._telling is None or self._telling.done():
                    self._telling = self._in_background(Notices(self).hear())
                await asyncio.wait({self._telling})
                if not self._telling.cancelled() and (error := self._telling.exception()):
                    raise error
            finally:
                self._listeners.remove(listener)
                if not self._listeners and self._listener is None and self._telling is not None:
                    self._telling.cancel()

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification; the 2026 era has none over HTTP."""
        if self.voice.meta is None:
            await self._post_quietly(wire.encode_notification(method, params), self.voice)

    async def aclose(self) -> None:
        """End the session with the server. The connections stay in the pool for others."""
        if not self._is_open:
            return
        self._is_open = False
        self._ended.set()
        self.voice.hearing.close()
        for task in list(self._background):
            task.cancel()
        if self.voice.session_id:
            await self._send_quietly("DELETE", None, self.voice.headers)
        if self._side is not None:
            await self._side.close()

    # Revisions ---------------------------------------------------------------------------------------------------

    async def _agree(self, known: str, deadline: float) -> Hello:
        session_id = ""

        async def ask(method: str, params: Mapping[str, Any], *, version: str) -> dict[str, Any]:
            nonlocal session_id
            headers: dict[str, str] = {}
            result = await self._ask(method, params, self._voice_of(version), deadline, headers_out=headers)
            session_id = headers.get("Mcp-Session-Id", "") if method == "initialize" else ""
            return result

        hello = await wire.agree(ask, self._ours, known)
        if session_id and not VISIBLE.match(session_id):
            raise BackendError(f"{self.route.slug} gave a session id that no header can carry.")
        voice = self._voice_of(hello.protocol_version, session_id)
        if voice.meta is None:
            await self._post_quietly(wire.encode_notification("notifications/initialized", None), voice)
        self.voice.hearing.close()
        self.voice = voice
        self.renewed.set()
        self.renewed = asyncio.Event()
        if voice.meta is None:
            self._in_background(self._set_up_again(voice))
        self._is_open = True
        return hello

    def _voice_of(self, version: str, session_id: str = "") -> Voice:
        headers = {
            **self.route.headers,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **({"MCP-Protocol-Version": version} if version else {}),
            **({"Mcp-Session-Id": session_id} if session_id else {}),
        }
        meta = wire.modern_meta(self._ours) if version == wire.MODERN else None
        hearing = Hearing(
            self.route.slug,
            self.route.organization_id,
            self._known_secrets,
            reply=partial(self._reply, headers),
            answer=partial(self._answer, headers),
            listener=self._listener,
            may_ask=meta is None,
            is_shared=False,
            standing=self._listeners,
        )
        return Voice(version, session_id, meta, headers, hearing)

    async def _set_up_again(self, voice: Voice) -> None:
        for method, params in self._standing:
            with suppress(ServiceError, SessionOver):
                await self._ask(method, params, voice, _deadline(self.route.timeout_seconds))

    # One exchange ------------------------------------------------------------------------------------------------

    async def _ask(
        self, method: str, params: Mapping[str, Any] | None, voice: Voice, deadline: float, *,
        listener: Listener | None = None, capabilities: Mapping[str, Any] | None = None,
        headers_out: dict[str, str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        number, limit = next(self.numbers), asyncio.timeout_at(deadline)
        body = wire.encode_request(number, method, params, voice.meta_for(capabilities), with_progress=bool(listener))
        exchange = voice.hearing.begin(number, listener, params, limit, deadline) if listener else None
        headers = self._headers_of(method, params, voice)
        try:
            async with egress.request(
                "POST", self.route.url, headers=headers, body=body, timeout_seconds=_remaining(deadline), limit=limit
            ) as response:
                message = await SentRequest(self.route, number, voice, exchange).answer_in(response)
                if headers_out is not None:
                    headers_out["Mcp-Session-Id"] = response.headers.get("Mcp-Session-Id", "")
        except asyncio.CancelledError:
            self._tell_cancelled(number, voice)
            raise
        except BackendTimeout:
            self._tell_cancelled(number, voice)
            if exchange is not None:
                exchange.check_answered()
            raise
        except TooLarge as error:
            raise BackendError(
                f"{self.route.slug} answered with more than {settings.UPSTREAM_MAX_RESULT_BYTES} bytes. Ask for less."
            ) from error
        finally:
            if exchange is not None:
                voice.hearing.end(exchange)
        is_modern = voice.meta is not None
        result = wire.result_of(
            self._unleaked(method, message), may_ask=is_modern and exchange is not None,
            may_defer=is_modern and wire.may_defer(method, capabilities),
        )  # fmt: skip
        if method in Standing.METHODS:
            self._standing.keep(method, params or {})
        return result

    def _unleaked(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        """The answer without our own credentials. The result of a tool is left to the road, which reads it anyway."""
        if method == "tools/call" and wire.is_complete(message):
            return message
        found: dict[str, Any] = masking.without_secrets(message, self._known_secrets())
        return found

    def _known_secrets(self) -> Sequence[str]:
        return masking.secrets_of(self.route)

    def _headers_of(self, method: str, params: Mapping[str, Any] | None, voice: Voice) -> dict[str, str]:
        headers = {**voice.headers, **web.request_id_header()}
        if voice.meta is not None:
            headers["Mcp-Method"] = method
            name = (params or {}).get(wire.NAMED_BY.get(method, ""))
            if isinstance(name, str):
                headers["Mcp-Name"] = wire.encode_header(name)
                if method == "tools/call" and (declared := self.route.param_headers.get(name)):
                    headers.update(wire.param_headers(declared, (params or {}).get("arguments")))
        return headers

    # Beside the exchange -----------------------------------------------------------------------------------------

    def _reply(self, headers: Mapping[str, str], body: bytes) -> None:
        if len(self._background) < MAX_REPLIES_AT_ONCE:
            self._in_background(self._send_quietly("POST", body, headers))

    async def _answer(self, headers: Mapping[str, str], body: bytes) -> None:
        """Send what a listener says. Not over the shared pool: all of its connections may wait for just that."""
        if self._side is None:
            self._side = egress.new_session()
        with suppress(ServiceError):
            async with egress.request(
                "POST", self.route.url, headers=headers, body=body, session=self._side, timeout_seconds=ANSWER_SECONDS
            ):
                pass

    def _tell_cancelled(self, number: int, voice: Voice) -> None:
        """The 2026 era is told by the closed connection, the one before by a notification."""
        if self._is_open and voice.meta is None and voice.version:
            params = {"requestId": number, "reason": "The caller went away or the time was up."}
            self._in_background(self._post_quietly(wire.encode_notification("notifications/cancelled", params), voice))

    async def _post_quietly(self, body: bytes, voice: Voice) -> None:
        await self._send_quietly("POST", body, voice.headers)

    async def _send_quietly(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        with suppress(ServiceError):
            async with egress.request(
                method, self.route.url, headers=headers, body=body, timeout_seconds=FAREWELL_SECONDS
            ):
                pass

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _remaining(deadline: float) -> float:
    return max(round(deadline - asyncio.get_running_loop().time(), 3), 0.001)
