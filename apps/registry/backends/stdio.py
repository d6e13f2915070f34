"""The client of servers that run as a child process and speak over its standard streams.

A child gets an environment of its own, an empty folder of its own, and nothing else of this process; see launcher.py.
It is ended by closing its input, then by SIGTERM, then by SIGKILL to its group and to what has left the group. Should
this process die without a word, the kernel kills the child (PR_SET_PDEATHSIG), and the child's own children see the
end of their streams.
"""

import asyncio
import itertools
import logging
import os
import re
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from apps.core.errors import BackendDown, BackendError, BackendTimeout, InvalidInput, TooLarge
from apps.core.logs import redact
from apps.registry.backends import commands, masking, processes, wire
from apps.registry.backends.answers import Answers
from apps.registry.backends.base import Hello, Listener, ServerRoute, UpstreamError
from apps.registry.backends.hearing import Hearing, Pauses, while_open
from apps.registry.backends.lines import Lines, LongLine
from apps.registry.backends.restarts import restarts

logger = logging.getLogger(__name__)

LAUNCHER = Path(__file__).with_name("launcher.py")
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
PROBE_SECONDS = 10.0
STOP_SECONDS = 2.0
LAST_WORDS_SECONDS = 0.2
CHUNK_BYTES = 262_144
MAX_UNREAD_BYTES = 8_388_608
MAX_GARBAGE_LINES = 1000
KEPT_STDERR_BYTES = 2048
SHOWN_STDERR_LENGTH = 300
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+|\x1b\[[0-9;]*[A-Za-z]")


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
        self._process: Process | None = None
        self._home = ""
        self._trouble = ""
        self._numbers = itertools.count(1)
        self._answers = Answers()
        self._hearing = self._new_hearing()
        self._ended = asyncio.Event()
        self._garbage_lines = 0
        self._stderr = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether requests can be made: the process lives and has not been given up."""
        return self._is_open and not self._trouble and self._process is not None and self._process.returncode is None

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
        if self._process is not None:
            self._stop_soon()
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

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
        self._stopping, self._trouble, self._ended, self._hearing = None, "", asyncio.Event(), self._new_hearing()
        await self._start()
        return await self._agree(wire.LEGACY)

    async def _start(self) -> None:
        try:
            command = commands.resolve(self._route.command)
            commands.check_env(self._route.env)
        except InvalidInput as error:
            raise BackendDown(f"{self._route.slug} may not be started. {error.message}") from error
        restarts.check(self._route)
        self._home = tempfile.mkdtemp(prefix="gatehouse-stdio-")
        environment = {"LANG": "C.UTF-8", **self._route.env, "HOME": self._home, "PATH": SEARCH_PATH}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), "\n".join(settings.HIDDEN_FROM_CHILDREN),
                *command,
                stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=self._home, env=environment, start_new_session=True,
                limit=CHUNK_BYTES,
            )  # fmt: skip
        except BaseException as error:
            processes.end_family(processes.NOBODY, self._home)
            if isinstance(error, OSError):
                raise BackendDown(f"The process of {self._route.slug} cannot be started: {error.strerror}.") from error
            raise
        processes.remember(self._process.pid, self._home)
        self._stderr, self._garbage_lines = b"", 0
        self._is_open = True
        for work in (self._listen(self._process), self._drain(self._process), self._watch(self._process)):
            self._in_background(work)

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
        stdin = self._stdin()
        try:
            stdin.write(body + b"\n")
            await stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise BackendDown(self._ending()) from error

    def _write_quietly(self, body: bytes) -> None:
        with suppress(BackendError, ConnectionError, RuntimeError):
            self._stdin().write(body + b"\n")

    def _stdin(self) -> asyncio.StreamWriter:
        if not self.is_open or self._process is None or self._process.stdin is None:
            raise BackendDown(self._ending())
        self._check_reading(MAX_UNREAD_BYTES)
        if self._trouble:
            raise BackendDown(self._trouble)
        return self._process.stdin

    def _check_reading(self, allowed_bytes: int = 0) -> None:
        """Give up on a process that leaves unread what it was sent: the pipe is full, and more is waiting here."""
        stdin = self._process.stdin if self._process else None
        if stdin is not None and stdin.transport.get_write_buffer_size() > allowed_bytes:
            self._give_up(f"{self._route.slug} does not read what it is sent, and is stopped.")

    def _tell_cancelled(self, number: int, method: str) -> None:
        if method not in ("initialize", "server/discover"):
            params = {"requestId": number, "reason": "The caller went away or the time was up."}
            self._write_quietly(wire.encode_notification("notifications/cancelled", params))

    # Reading -----------------------------------------------------------------------------------------------------

    async def _listen(self, process: Process) -> None:
        lines = Lines(settings.UPSTREAM_MAX_RESULT_BYTES)
        while process.stdout is not None and (chunk := await process.stdout.read(CHUNK_BYTES)):
            for line in lines.feed(chunk):
                self._hear(line)
        await self._ends_within(process, LAST_WORDS_SECONDS)
        self._give_up(self._ending())

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

    async def _drain(self, process: Process) -> None:
        while process.stderr is not None and (chunk := await process.stderr.read(CHUNK_BYTES)):
            self._stderr = (self._stderr + chunk)[-KEPT_STDERR_BYTES:]

    async def _watch(self, process: Process) -> None:
        await process.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        self._give_up(self._ending())

    # End ---------------------------------------------------------------------------------------------------------

    def _ending(self) -> str:
        if self._trouble:
            return self._trouble
        status = self._process.returncode if self._process else None
        if status is None:
            return f"{self._route.slug} is not running, or has closed its output."
        words = _CONTROL.sub(" ", self._stderr.decode("utf-8", "replace")).strip()[-SHOWN_STDERR_LENGTH:]
        said = f" It last said: {redact(self._unleaked(words))}" if words else ""
        return f"The process of {self._route.slug} ended with status {status}.{said}"

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
        self._stop_soon()

    def _stop_soon(self) -> None:
        if self._stopping is None and self._process is not None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(self._process, self._home))

    async def _stop(self, process: Process, home: str) -> None:
        if process.stdin is not None:
            with suppress(OSError, RuntimeError):
                process.stdin.close()
        if not await self._ends_within(process, STOP_SECONDS):
            processes.signal_group(process.pid, signal.SIGTERM)
            if not await self._ends_within(process, STOP_SECONDS):
                processes.signal_group(process.pid, signal.SIGKILL)
        await asyncio.to_thread(processes.end_family, process.pid, home)
        if not await self._ends_within(process, STOP_SECONDS):
            logger.error("the process %s of server %s cannot be killed", process.pid, self._route.slug)
        processes.forget(process.pid)
        self._process = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_pipes(process)

    async def _ends_within(self, process: Process, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
        return process.returncode is not None

    @staticmethod
    def _close_pipes(process: Process) -> None:
        """A descendant that escaped may hold the pipes open; the library has no public way to close our ends."""
        transport = getattr(process, "_transport", None)
        if transport is not None:
            transport.close()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
