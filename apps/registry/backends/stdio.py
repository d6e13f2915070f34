"""The client of servers that run as a child process and speak over its standard streams; child.py has the process."""

import asyncio
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings

from apps.core.errors import BackendDown, BackendError, BackendTimeout, TooLarge
from apps.registry.backends import masking, wire
from apps.registry.backends.answers import Answers
from apps.registry.backends.base import Hello, Listener, ServerRoute, UpstreamError
from apps.registry.backends.child import Child
from apps.registry.backends.hearing import Hearing, Pauses, while_open
from apps.registry.backends.lines import Lines, LongLine
from apps.registry.backends.restarts import restarts

logger = logging.getLogger(__name__)

PROBE_SECONDS = 10.0
MAX_UNREAD_BYTES = 8_388_608
MAX_GARBAGE_LINES = 1000
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})')


class Stdio:
    """A client of one server process. Requests share it; answers are told apart by their ids."""

    def __init__(
        self, route: ServerRoute, ours: wire.Introduction | None = None, listener: Listener | None = None
    ) -> None:
        self._route = route
        self._ours = ours or wire.introduction(None, None)
        self._listener = listener
        self._version = ""
        self._meta: dict[str, Any] | None = None
        self._child: Child | None = None
        self._trouble = ""
        self._numbers = itertools.count(1)
        self._answers = Answers()
        self._hearing = self._new_hearing()
        self._ended = asyncio.Event()
        self._garbage_lines = 0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be made: the process lives and has not been given up."""
        return self._is_open and not self._trouble and self._child is not None and self._child.is_running

    @property
    def protocol_version(self) -> str:
        """The revision that is spoken."""
        return self._version

    async def open(self) -> Hello:
        """Start the process and agree on a revision; no request is made where the newest is known to be spoken."""
        try:
            hello = await self._start_and_agree(self._route.protocol_version)
        except BaseException:
            await self.aclose()
            raise
        self._speak(hello.protocol_version)
        if self._meta is None:
            await self.notify("notifications/initialized")
        return hello

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float,
        listener: Listener | None = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make one request; others may be under way."""
        number, deadline = next(self._numbers), asyncio.get_running_loop().time() + timeout_seconds
        limit = asyncio.timeout_at(deadline)
        body = wire.encode_request(number, method, params, self._meta_for(capabilities), with_progress=bool(listener))
        exchange = self._hearing.begin(number, listener, params, limit, deadline) if listener else None
        answer = self._answers.expect(number)
        try:
            async with limit:
                await self._write(body)
                message = (await answer).counted()
        except TimeoutError as error:
            self._tell_cancelled(number, method)
            self._check_reading()
            if exchange is not None:
                exchange.check_answered()
            raise BackendTimeout(f"{self._route.slug} did not answer within {timeout_seconds:g} seconds.") from error
        except asyncio.CancelledError:
            self._tell_cancelled(number, method)
            raise
        finally:
            self._answers.forget(number)
            if exchange is not None:
                self._hearing.end(exchange)
        is_left, is_modern = method == "tools/call" and wire.is_complete(message), self._meta is not None
        return wire.result_of(
            message if is_left else self._unleaked(message), may_ask=is_modern and exchange is not None,
            may_defer=is_modern and wire.may_defer(method, capabilities),
        )  # fmt: skip

    async def listen(self, notices: Mapping[str, Any], listener: Listener) -> None:
        """Hear what the server says unasked; in the older era it says all of that anyway."""
        if not self.is_open:
            raise BackendDown(self._ending())
        if self._meta is not None:
            await while_open(self._ended, self._subscribe(notices, listener))
            return
        self._hearing.standing.append(listener)
        try:
            await self._ended.wait()
        finally:
            self._hearing.standing.remove(listener)

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        self._write_quietly(wire.encode_notification(method, params))

    async def aclose(self) -> None:
        """End the process and all its descendants; takes at most about five seconds, and is not cut short."""
        self._is_open = False
        self._ended.set()
        self._hearing.close()
        if self._child is not None:
            await self._child.end()

    # Start -------------------------------------------------------------------------------------------------------

    async def _start_and_agree(self, known: str) -> Hello:
        await self._start()
        if known == wire.MODERN:
            return Hello(wire.MODERN)
        try:
            return await self._agree(known)
        except BackendDown:
            if known or not self._trouble:
                raise
        # Some servers of the older era end when the first thing they hear is not `initialize`.
        await self.aclose()
        self._trouble, self._ended, self._hearing = "", asyncio.Event(), self._new_hearing()
        await self._start()
        return await self._agree(wire.LEGACY)

    async def _start(self) -> None:
        restarts.check(self._route)
        self._child = await Child.start(self._route, heard=self._hear, ended=self._has_ended)
        self._garbage_lines = 0
        self._is_open = True

    async def _agree(self, known: str) -> Hello:
        async def ask(method: str, params: Mapping[str, Any], *, version: str) -> dict[str, Any]:
            self._speak(version)
            limit = self._route.timeout_seconds
            if method == "server/discover":
                limit = min(PROBE_SECONDS, limit / 2)
            return await self.request(method, params, timeout_seconds=limit)

        return await wire.agree(ask, self._ours, known)

    def _speak(self, version: str) -> None:
        self._version = version
        self._meta = wire.modern_meta(self._ours) if version == wire.MODERN else None
        self._hearing.may_ask = self._meta is None

    def _meta_for(self, capabilities: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if capabilities is None or self._meta is None:
            return self._meta
        return {**self._meta, wire.CAPABILITIES: dict(capabilities)}

    # Notices and questions ---------------------------------------------------------------------------------------

    def _new_hearing(self) -> Hearing:
        return Hearing(
            self._route.slug,
            self._route.organization_id,
            self._known_secrets,
            reply=self._write_quietly,
            answer=self._write_answer,
            listener=self._listener,
        )

    async def _write_answer(self, body: bytes) -> None:
        self._write_quietly(body)

    async def _subscribe(self, notices: Mapping[str, Any], listener: Listener) -> None:
        """Keep a subscription open, which is a request that is answered when it ends."""
        pauses = Pauses()
        while self.is_open:
            number = next(self._numbers)
            answer = self._answers.expect(number)
            self._hearing.subscriptions[number] = listener
            try:
                await self._write(wire.encode_request(number, "subscriptions/listen", notices, self._meta))
                wire.result_of((await answer).message)
            except asyncio.CancelledError:
                self._tell_cancelled(number, "subscriptions/listen")
                raise
            except UpstreamError as error:
                if error.rpc_code == wire.METHOD_NOT_FOUND:
                    await self._ended.wait()
            except BackendDown:
                return
            except BackendError:
                logger.info("%s refuses to say what changes.", self._route.slug)
            finally:
                self._answers.forget(number)
                del self._hearing.subscriptions[number]
            await pauses.wait()

    # Writing -----------------------------------------------------------------------------------------------------

    async def _write(self, body: bytes) -> None:
        child = self._open_child()
        try:
            child.write(body)
            await child.drain()
        except (ConnectionError, RuntimeError) as error:
            raise BackendDown(self._ending()) from error

    def _write_quietly(self, body: bytes) -> None:
        with suppress(BackendError, ConnectionError, RuntimeError):
            self._open_child().write(body)

    def _open_child(self) -> Child:
        """The process, where it may be written to; raises BackendDown."""
        if not self.is_open or self._child is None:
            raise BackendDown(self._ending())
        self._check_reading(MAX_UNREAD_BYTES)
        if self._trouble:
            raise BackendDown(self._trouble)
        return self._child

    def _check_reading(self, allowed_bytes: int = 0) -> None:
        """Give up on a process that leaves unread what it was sent: the pipe is full, and more is waiting here."""
        if self._child is not None and self._child.unread_bytes > allowed_bytes:
            self._give_up(f"{self._route.slug} does not read what it is sent, and is stopped.")

    def _tell_cancelled(self, number: int, method: str) -> None:
        if method not in ("initialize", "server/discover"):
            params = {"requestId": number, "reason": "The caller went away or the time was up."}
            self._write_quietly(wire.encode_notification("notifications/cancelled", params))

    # Reading -----------------------------------------------------------------------------------------------------

    def _hear(self, line: bytes | LongLine) -> None:
        if isinstance(line, LongLine):
            self._refuse_long(line)
            return
        if not line.strip():
            return
        if wire.is_too_much(line):
            self._refuse_long(Lines.cut(line))
            return
        try:
            messages = wire.decode_all(line, self._version)
        except BackendError:
            self._count_garbage()
            return
        self._garbage_lines = 0
        for message in messages:
            if wire.is_response(message):
                self._answer(message.get("id"), wire.Heard(message, len(line)))
            else:
                self._hearing.hear(message, len(line))

    def _answer(self, number: Any, outcome: wire.Heard | BackendError) -> None:
        if self._answers.give(number, outcome):
            self._hearing.answered(number)

    def _refuse_long(self, line: LongLine) -> None:
        """Fail the request that the line answers, which its beginning or its end may tell; else all of them."""
        named = {int(found) for found in _ID.findall(line.ends)} & set(self._answers.awaited)
        limit = settings.UPSTREAM_MAX_RESULT_BYTES
        refusal = BackendError(
            f"{self._route.slug} answered with more than {limit} bytes or {wire.MOST_VALUES} values. Ask for less."
        )
        refusal.__cause__ = TooLarge()
        for number in named or self._answers.awaited:
            self._answer(number, refusal)

    def _count_garbage(self) -> None:
        self._garbage_lines += 1
        if self._garbage_lines > MAX_GARBAGE_LINES:
            self._give_up(
                f"{self._route.slug} wrote {MAX_GARBAGE_LINES} lines to its standard output that are no messages of the"
                " protocol, and is stopped. Its log belongs on standard error."
            )

    # End ---------------------------------------------------------------------------------------------------------

    def _ending(self) -> str:
        if self._trouble:
            return self._trouble
        if self._child is None or not self._is_open:
            return f"{self._route.slug} is not running."
        return self._child.last_words

    def _has_ended(self) -> None:
        self._give_up(self._ending())

    def _unleaked(self, said: Any) -> Any:
        """What the process said, without the secrets among its variables."""
        return masking.without_secrets(said, self._known_secrets())

    def _known_secrets(self) -> Sequence[str]:
        return masking.secrets_of(self._route)

    def _give_up(self, trouble: str) -> None:
        """No request can succeed any more: say so to those who wait, and end what is left."""
        if not self._trouble and self._is_open:
            restarts.count(self._route, trouble)
        self._trouble = self._trouble or trouble
        self._ended.set()
        self._hearing.close()
        for number in self._answers.awaited:
            self._answer(number, BackendDown(self._trouble))
        if self._child is not None:
            self._child.end_soon()
