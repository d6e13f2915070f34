"""The client of servers over HTTP+SSE, the transport of 2024: two addresses, and one stream for all answers.

A GET opens a stream of events; its first event names the address to which messages are posted, and all answers come
back on the stream. The stream is the session: closing it ends both. Only the older era of the protocol is spoken here.

The stream keeps a connection for as long as it is open, so it has a pool of its own: those that wait for a connection
of the shared one must not wait for other people's sessions.
"""

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

from django.conf import settings

from apps.core import egress
from apps.core.errors import BackendDown, BackendError, BackendTimeout, InvalidInput, ServiceError, TooLarge
from apps.registry.backends import masking, web, wire
from apps.registry.backends.answers import Answers
from apps.registry.backends.base import Hello, HttpRefusal, Listener, ServerRoute
from apps.registry.backends.hearing import Hearing

FAREWELL_SECONDS = 2.0
ANSWER_SECONDS = 10.0
MAX_REPLIES_AT_ONCE = 16
_PORTS = {"http": 80, "https": 443}
_OK, _BAD_REQUEST = 200, 400
_SESSION_UNKNOWN = (400, 404, 410)
"""What reference servers answer to a message for a session that they do not know."""


class Sse:
    """A client of one server. Requests share its stream; answers are told apart by their ids."""

    def __init__(
        self, route: ServerRoute, ours: wire.Introduction | None = None, listener: Listener | None = None
    ) -> None:
        self._route = route
        self._ours = ours or wire.introduction(None, None)
        self._version = ""
        self._trouble: BackendError | None = None
        self._numbers = itertools.count(1)
        self._answers = Answers()
        self._hearing = Hearing(
            route.slug,
            route.organization_id,
            self._known_secrets,
            reply=self._reply,
            answer=self._post_answer,
            listener=listener,
        )
        self._ended = asyncio.Event()
        self._unasked_bytes = 0
        self._session: egress.Pool | None = None
        self._endpoint: asyncio.Future[str] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be made: the stream is there and has not been given up."""
        return self._is_open and self._trouble is None

    @property
    def protocol_version(self) -> str:
        """The revision that is spoken."""
        return self._version

    async def open(self) -> Hello:
        """Open the stream, learn where messages go, and agree on a revision."""
        try:
            return await self._open()
        except BaseException:
            await self.aclose()
            raise

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float,
        listener: Listener | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one request; others may be under way. What the caller can do was said when the session began."""
        if not self.is_open:
            raise self._closed()
        return await self._ask(method, params, timeout_seconds, listener)

    async def listen(self, notices: Mapping[str, Any], listener: Listener) -> None:
        """Hear what the server says unasked, which it says on its stream anyway."""
        if not self.is_open:
            raise self._closed()
        self._hearing.standing.append(listener)
        try:
            await self._ended.wait()
        finally:
            self._hearing.standing.remove(listener)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        await self._post_quietly(wire.encode_notification(method, params))

    async def aclose(self) -> None:
        """Close the stream, and with it the session."""
        self._is_open = False
        self._hearing.close()
        ending = [*self._background, *([self._listening] if self._listening else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._give_up(BackendDown(f"The connection to {self._route.slug} is closed."))
        if self._session is not None:
            await self._session.close()

    # Opening -----------------------------------------------------------------------------------------------------

    async def _open(self) -> Hello:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._route.timeout_seconds
        self._session, self._endpoint = egress.new_session(), loop.create_future()
        # The stream outlives the request that opened it, so it is nobody's: an empty context.
        self._listening = loop.create_task(self._listen(self._endpoint), context=contextvars.Context())
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._endpoint)
        except TimeoutError as error:
            raise BackendTimeout(
                f"{self._route.slug} did not name the address for messages within {self._route.timeout_seconds:g}"
                " seconds. Is this the address of its event stream?"
            ) from error
        self._is_open = True

        async def ask(method: str, params: Mapping[str, Any], *, version: str) -> dict[str, Any]:
            return await self._ask(method, params, max(deadline - loop.time(), 0.001))

        hello = await wire.initialize(ask, self._ours)
        self._version = hello.protocol_version
        await self.notify("notifications/initialized")
        return hello

    def _endpoint_of(self, said: str) -> str:
        """The address for messages. It has to be of the stream's own origin: our credentials go there too."""
        try:
            address = urljoin(self._route.url, said)
            is_ours = _origin(address) == _origin(self._route.url)
            if is_ours:
                egress.check_url(address)
        except (ValueError, InvalidInput) as error:
            raise BackendError(f"{self._route.slug} names an address for messages that is none.") from error
        if not is_ours:
            raise BackendError(
                f"{self._route.slug} wants our messages, and our credentials, at another origin. That is refused."
            )
        return address

    # One exchange ------------------------------------------------------------------------------------------------

    async def _ask(
        self, method: str, params: Mapping[str, Any] | None, seconds: float, listener: Listener | None = None
    ) -> dict[str, Any]:
        number, deadline = next(self._numbers), asyncio.get_running_loop().time() + seconds
        limit = asyncio.timeout_at(deadline)
        body = wire.encode_request(number, method, params, None, with_progress=bool(listener))
        exchange = self._hearing.begin(number, listener, params, limit, deadline) if listener else None
        answer = self._answers.expect(number)
        # The answer may come before the post has been acknowledged; some servers acknowledge only after answering.
        self._in_background(self._post_for(number, body, seconds))
        try:
            async with limit:
                message = (await answer).counted()
        except TimeoutError as error:
            self._tell_cancelled(number, method)
            if exchange is not None:
                exchange.check_answered()
            raise BackendTimeout(f"{self._route.slug} did not answer within {seconds:g} seconds.") from error
        except asyncio.CancelledError:
            self._tell_cancelled(number, method)
            raise
        finally:
            self._answers.forget(number)
            if exchange is not None:
                self._hearing.end(exchange)
        is_left = method == "tools/call" and wire.is_complete(message)
        return wire.result_of(message if is_left else self._unleaked(message))

    async def _post_for(self, number: int, body: bytes, seconds: float) -> None:
        """Post a request; where that fails, so does the request."""
        try:
            await self._post(body, seconds)
        except ServiceError as error:
            self._answer(number, _as_failure(error))

    async def _post(self, body: bytes, seconds: float, session: egress.Pool | None = None) -> None:
        if self._endpoint is None or not self._endpoint.done():
            raise self._closed()
        headers = {**self._headers(), **web.request_id_header()}
        async with egress.request(
            "POST", self._endpoint.result(), headers=headers, body=body, session=session,
            timeout_seconds=max(round(seconds, 3), 0.001),
        ) as response:  # fmt: skip
            status = response.status
        if _OK <= status < 300:  # noqa: PLR2004 - the class of answers that accept
            return
        refusal = HttpRefusal(status, f"{self._route.slug} {web.refusal_text(status)}")
        if status in _SESSION_UNKNOWN:
            self._give_up(refusal)
        raise refusal

    def _headers(self) -> dict[str, str]:
        version = {"MCP-Protocol-Version": self._version} if self._version else {}
        return {
            **self._route.headers,
            **version,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }

    # The stream --------------------------------------------------------------------------------------------------

    async def _listen(self, endpoint: "asyncio.Future[str]") -> None:
        """Read the stream to its end, which is the end of everything that waits for it."""
        trouble: BackendError = BackendDown(f"{self._route.slug} has closed its event stream. Was it restarted?")
        headers = {**self._route.headers, "Accept": "text/event-stream"}
        try:
            async with egress.request(
                "GET",
                self._route.url,
                headers=headers,
                session=self._session,
                timeout_seconds=web.LONGEST_STREAM_SECONDS,
            ) as response:
                self._check_stream(response)
                await self._read(response, endpoint)
        except TooLarge as error:
            limit = settings.UPSTREAM_MAX_RESULT_BYTES
            trouble = BackendError(f"{self._route.slug} answered with more than {limit} bytes. Ask for less.")
            trouble.__cause__ = error
        except ServiceError as error:
            trouble = _as_failure(error)
        finally:
            self._give_up(trouble)

    def _check_stream(self, response: egress.Response) -> None:
        if response.status != _OK:
            raise HttpRefusal(response.status, f"{self._route.slug} {web.refusal_text(response.status)}")
        kind = web.media_type(response)
        if kind != "text/event-stream":
            raise BackendError(
                f"{self._route.slug} answers with {kind or 'no content type'} instead of an event stream."
                " Check the URL; a server of today speaks streamable HTTP."
            )

    async def _read(self, response: egress.Response, endpoint: "asyncio.Future[str]") -> None:
        chunks = self._counted(response.content.iter_any())
        async with aclosing(web.events(chunks, limit_bytes=settings.UPSTREAM_MAX_RESULT_BYTES)) as stream:
            async for event in stream:
                text = b"\n".join(event.data)
                if event.kind == "endpoint" and not endpoint.done():
                    endpoint.set_result(self._endpoint_of(text.decode("utf-8", "replace")))
                elif event.kind == "message" and text:
                    for message in wire.decode_all(text, self._version):
                        self._hear(message, len(text))

    def _hear(self, message: dict[str, Any], size: int) -> None:
        if wire.is_response(message):
            self._answer(message.get("id"), wire.Heard(message, size))
        elif self._hearing.hear(message, size):
            self._unasked_bytes = max(0, self._unasked_bytes - size)

    def _answer(self, number: Any, outcome: wire.Heard | BackendError) -> None:
        if self._answers.give(number, outcome):
            self._hearing.answered(number)
            self._unasked_bytes = 0

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Give up on a stream that goes on without ever answering; an answer sets the count back."""
        async for chunk in chunks:
            self._unasked_bytes += len(chunk)
            if self._unasked_bytes > 2 * settings.UPSTREAM_MAX_RESULT_BYTES:
                raise BackendError(f"{self._route.slug} sends without end what nobody asked for, and was disconnected.")
            yield chunk

    # End ---------------------------------------------------------------------------------------------------------

    def _give_up(self, trouble: BackendError) -> None:
        """No request can succeed any more: say so to those who wait."""
        self._trouble = self._trouble or trouble
        self._ended.set()
        self._hearing.close()
        for number in self._answers.awaited:
            self._answer(number, self._trouble)
        if self._endpoint is not None and not self._endpoint.done():
            self._endpoint.set_exception(self._trouble)
            self._endpoint.exception()  # marks it as seen where nobody waits any more
        if self._listening is not None and self._listening is not asyncio.current_task():
            self._listening.cancel()

    def _closed(self) -> BackendError:
        return BackendDown(self._trouble.message if self._trouble else f"{self._route.slug} is not connected.")

    def _unleaked(self, said: Any) -> Any:
        """What the server said, without our own credentials."""
        return masking.without_secrets(said, self._known_secrets())

    def _known_secrets(self) -> Sequence[str]:
        return masking.secrets_of(self._route)

    # Beside the exchange -----------------------------------------------------------------------------------------

    def _tell_cancelled(self, number: int, method: str) -> None:
        if self.is_open and method != "initialize":
            params = {"requestId": number, "reason": "The caller went away or the time was up."}
            self._in_background(self._post_quietly(wire.encode_notification("notifications/cancelled", params)))

    def _reply(self, body: bytes) -> None:
        if len(self._background) < MAX_REPLIES_AT_ONCE:
            self._in_background(self._post_quietly(body))

    async def _post_answer(self, body: bytes) -> None:
        """Send what a listener says. Not over the shared pool: all of its connections may wait for just that."""
        with suppress(ServiceError):
            await self._post(body, ANSWER_SECONDS, self._session)

    async def _post_quietly(self, body: bytes) -> None:
        with suppress(ServiceError):
            await self._post(body, FAREWELL_SECONDS)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _as_failure(error: ServiceError) -> BackendError:
    """An address that may not be called any more counts as a server that is down."""
    return error if isinstance(error, BackendError) else BackendDown(error.message)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme)
