"""The client of servers over streamable HTTP, in both eras of the protocol.

Only these headers leave the house: content type, what we accept, the protocol's own, the server's configured
credentials and the request's id. Nothing of the caller travels.
"""

import asyncio
import itertools
import re
from collections.abc import Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from apps.core import budget, egress
from apps.core.errors import BackendDown, BackendError, BackendTimeout, ServiceError, TooLarge
from apps.registry.backends import masking, web, wire
from apps.registry.backends.base import Hello, HttpRefusal, ServerRoute, UpstreamError

FAREWELL_SECONDS = 2.0
MAX_REFUSAL_BYTES = 65_536
MAX_REPLIES_AT_ONCE = 16
SHORTEST_RESUME_SECONDS = 0.1
_VISIBLE = re.compile(r"[\x21-\x7e]{1,1024}\Z", re.ASCII)
_MILLISECONDS = re.compile(r"[0-9]{1,6}\Z", re.ASCII)
# Reference servers answer 400, not the 404 of the specification, to a session that they do not know.
_SESSION_UNKNOWN = re.compile(rb"session|not initialized", re.IGNORECASE)
_OK, _BAD_REQUEST, _NOT_FOUND = 200, 400, 404


class _SessionOver(Exception):
    """The server has forgotten our session: it did not do what was asked."""


@dataclass(frozen=True, slots=True)
class _Voice:
    """How we speak to the server: the revision, the session, and the headers that all requests of both share."""

    version: str
    session_id: str
    meta: dict[str, Any] | None
    headers: dict[str, str]


@dataclass(slots=True)
class _Place:
    """How far an event stream was read."""

    last_id: str = ""
    retry_seconds: float = 1.0


class StreamableHttp:
    """A client of one server over the shared pool of connections of its event loop."""

    def __init__(self, route: ServerRoute) -> None:
        self._route = route
        self._voice = _voice(route, "")
        self._is_open = False
        self._numbers = itertools.count(1)
        self._agreeing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self._is_open

    @property
    def protocol_version(self) -> str:
        """The revision that is spoken."""
        return self._voice.version

    async def open(self) -> Hello:
        """Agree on a revision; without any request where the route knows that the server speaks the newest."""
        if self._route.protocol_version == wire.MODERN:
            self._voice = _voice(self._route, wire.MODERN)
            self._is_open = True
            return Hello(wire.MODERN)
        async with self._agreeing:
            return await self._agree(self._route.protocol_version, _deadline(self._route.timeout_seconds))

    async def request(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_seconds: float
    ) -> dict[str, Any]:
        """Make one request; a session that the server has forgotten is opened again, once."""
        if not self._is_open:
            raise BackendDown(f"The connection to {self._route.slug} is closed.")
        deadline, voice = _deadline(timeout_seconds), self._voice
        try:
            return await self._ask(method, params, voice, deadline)
        except _SessionOver:
            pass
        except UpstreamError as error:
            if error.rpc_code != wire.UNSUPPORTED_VERSION:
                raise
        async with self._agreeing:
            if self._voice is voice:
                await self._agree("" if voice.version == wire.MODERN else voice.version, deadline)
        try:
            return await self._ask(method, params, self._voice, deadline)
        except _SessionOver as over:
            raise BackendError(f"{self._route.slug} forgets its sessions at once. Restart that server.") from over

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification; the 2026 era has none over HTTP."""
        if self._voice.meta is None:
            await self._post_quietly(wire.encode_notification(method, params), self._voice)

    async def aclose(self) -> None:
        """End the session with the server. The connections stay in the pool for others."""
        if not self._is_open:
            return
        self._is_open = False
        for task in list(self._background):
            task.cancel()
        if self._voice.session_id:
            await self._send_quietly("DELETE", None, self._voice)

    # Revisions ---------------------------------------------------------------------------------------------------

    async def _agree(self, known: str, deadline: float) -> Hello:
        session_id = ""

        async def ask(method: str, params: Mapping[str, Any], *, version: str) -> dict[str, Any]:
            nonlocal session_id
            headers: dict[str, str] = {}
            result = await self._ask(method, params, _voice(self._route, version), deadline, headers)
            session_id = headers.get("Mcp-Session-Id", "") if method == "initialize" else ""
            return result

        hello = await wire.agree(ask, known)
        if session_id and not _VISIBLE.match(session_id):
            raise BackendError(f"{self._route.slug} gave a session id that no header can carry.")
        voice = _voice(self._route, hello.protocol_version, session_id)
        if voice.meta is None:
            await self._post_quietly(wire.encode_notification("notifications/initialized", None), voice)
        self._voice = voice
        self._is_open = True
        return hello

    # One exchange ------------------------------------------------------------------------------------------------

    async def _ask(
        self, method: str, params: Mapping[str, Any] | None, voice: _Voice, deadline: float,
        headers_out: dict[str, str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        number = next(self._numbers)
        body = wire.encode_request(number, method, params, voice.meta)
        headers = self._headers_of(method, params, voice)
        try:
            async with egress.request(
                "POST", self._route.url, headers=headers, body=body, timeout_seconds=_remaining(deadline)
            ) as response:
                message = await self._message(response, number, voice, deadline)
                if headers_out is not None:
                    headers_out["Mcp-Session-Id"] = response.headers.get("Mcp-Session-Id", "")
        except (BackendTimeout, asyncio.CancelledError):
            self._tell_cancelled(number, voice)
            raise
        except TooLarge as error:
            raise BackendError(
                f"{self._route.slug} answered with more than {settings.UPSTREAM_MAX_RESULT_BYTES} bytes. Ask for less."
            ) from error
        return wire.result_of(self._unleaked(method, message))

    def _unleaked(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        """The answer without our own credentials. The result of a tool is left to the road, which reads it anyway."""
        if method == "tools/call" and "error" not in message:
            return message
        found: dict[str, Any] = masking.without_secrets(message, masking.secrets_of(self._route))
        return found

    def _headers_of(self, method: str, params: Mapping[str, Any] | None, voice: _Voice) -> dict[str, str]:
        headers = {**voice.headers, **web.request_id_header()}
        if voice.meta is not None:
            headers["Mcp-Method"] = method
            name = (params or {}).get(wire.NAMED_BY.get(method, ""))
            if isinstance(name, str):
                headers["Mcp-Name"] = wire.encode_header(name)
                if declared := self._route.param_headers.get(name):
                    headers.update(wire.param_headers(declared, (params or {}).get("arguments")))
        return headers

    async def _message(self, response: Any, number: int, voice: _Voice, deadline: float) -> dict[str, Any]:
        if response.status != _OK:
            return await self._refusal(response, voice)
        kind = web.media_type(response)
        if kind == "application/json":
            message = wire.decode(await egress.read_limited(response, limit_bytes=settings.UPSTREAM_MAX_RESULT_BYTES))
            wire.check_id(message, number)
            return message
        if kind == "text/event-stream":
            return await self._streamed(response, number, voice, deadline)
        raise BackendError(
            f"{self._route.slug} answers with {kind or 'no content type'} instead of JSON."
            " Check that the URL is that of its MCP endpoint."
        )

    async def _refusal(self, response: Any, voice: _Voice) -> dict[str, Any]:
        """The JSON-RPC error of an answer other than 200; raises HttpRefusal where there is none."""
        status: int = response.status
        if voice.session_id and status == _NOT_FOUND:
            raise _SessionOver
        if status >= _BAD_REQUEST and status not in web.CREDENTIALS_REFUSED:
            with suppress(TooLarge, BackendError):
                body = await egress.read_limited(response, limit_bytes=MAX_REFUSAL_BYTES)
                if voice.session_id and status == _BAD_REQUEST and _SESSION_UNKNOWN.search(body):
                    raise _SessionOver
                message = wire.decode(body)
                if isinstance(message.get("error"), dict) and "result" not in message:
                    return message
        raise HttpRefusal(status, f"{self._route.slug} {web.refusal_text(status)}")

    # Streams -----------------------------------------------------------------------------------------------------

    async def _streamed(self, response: Any, number: int, voice: _Voice, deadline: float) -> dict[str, Any]:
        """The answer out of an event stream; a stream that ends early is resumed where the server offers it."""
        place = _Place()
        message = await self._read_stream(response, number, place)
        while message is None:
            if voice.meta is not None or not _VISIBLE.match(place.last_id):
                raise BackendError(f"{self._route.slug} ended its answer without a result.")
            await asyncio.sleep(place.retry_seconds)
            headers = {**voice.headers, "Accept": "text/event-stream", "Last-Event-ID": place.last_id}
            async with egress.request(
                "GET", self._route.url, headers=headers, timeout_seconds=_remaining(deadline)
            ) as resumed:
                if resumed.status != _OK:
                    raise BackendError(f"{self._route.slug} ended its answer without a result.")
                message = await self._read_stream(resumed, number, place)
        return message

    async def _read_stream(self, response: Any, number: int, place: _Place) -> dict[str, Any] | None:
        chunks, share = egress.counted(response.content.iter_any()), budget.current()
        held = share.size if share else 0
        async with aclosing(web.events(chunks, limit_bytes=settings.UPSTREAM_MAX_RESULT_BYTES)) as stream:
            async for event in stream:
                place.last_id = place.last_id if event.id is None else event.id
                place.retry_seconds = _seconds(event.retry, place.retry_seconds)
                text = b"\n".join(event.data)
                message = wire.decode(text) if text and event.kind == "message" else {}
                if wire.is_request(message):
                    self._reply(message)
                if wire.is_response(message):
                    wire.check_id(message, number)
                    return message
                if share is not None:
                    share.back_to(held)
        return None

    # Beside the exchange -----------------------------------------------------------------------------------------

    def _reply(self, request: Mapping[str, Any]) -> None:
        if len(self._background) < MAX_REPLIES_AT_ONCE:
            self._in_background(self._post_quietly(wire.encode_reply(request), self._voice))

    def _tell_cancelled(self, number: int, voice: _Voice) -> None:
        """The 2026 era is told by the closed connection, the one before by a notification."""
        if self._is_open and voice.meta is None and voice.version:
            params = {"requestId": number, "reason": "The caller went away or the time was up."}
            self._in_background(self._post_quietly(wire.encode_notification("notifications/cancelled", params), voice))

    async def _post_quietly(self, body: bytes, voice: _Voice) -> None:
        await self._send_quietly("POST", body, voice)

    async def _send_quietly(self, method: str, body: bytes | None, voice: _Voice) -> None:
        with suppress(ServiceError):
            async with egress.request(
                method, self._route.url, headers=voice.headers, body=body, timeout_seconds=FAREWELL_SECONDS
            ):
                pass

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _voice(route: ServerRoute, version: str, session_id: str = "") -> _Voice:
    headers = {
        **route.headers,
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **({"MCP-Protocol-Version": version} if version else {}),
        **({"Mcp-Session-Id": session_id} if session_id else {}),
    }
    return _Voice(version, session_id, wire.modern_meta() if version == wire.MODERN else None, headers)


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _remaining(deadline: float) -> float:
    return max(round(deadline - asyncio.get_running_loop().time(), 3), 0.001)


def _seconds(milliseconds: str | None, default: float) -> float:
    if milliseconds is None or not _MILLISECONDS.match(milliseconds):
        return default
    return max(int(milliseconds) / 1000, SHORTEST_RESUME_SECONDS)
