"""The process of a server that speaks over its standard streams: how it starts, what it says line by line, how it ends.

A child gets an environment of its own, an empty folder of its own, and nothing else of this process; see launcher.py.
It is ended by closing its input, then by SIGTERM, then by SIGKILL to its group and to what has left the group. Should
this process die without a word, the kernel kills the child (PR_SET_PDEATHSIG), and the child's own children see the
end of their streams.
"""

import asyncio
import logging
import os
import re
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from django.conf import settings

from apps.core.errors import BackendDown, InvalidInput
from apps.core.logs import redact
from apps.registry.backends import commands, masking, processes
from apps.registry.backends.base import ServerRoute
from apps.registry.backends.lines import Lines, LongLine

logger = logging.getLogger(__name__)

LAUNCHER = Path(__file__).with_name("launcher.py")
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
STOP_SECONDS = 2.0
LAST_WORDS_SECONDS = 0.2
CHUNK_BYTES = 262_144
KEPT_STDERR_BYTES = 2048
SHOWN_STDERR_LENGTH = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+|\x1b\[[0-9;]*[A-Za-z]")


class Child:
    """One process of a server. `heard` gets each line of its output; `ended` is called when it says no more."""

    def __init__(
        self,
        route: ServerRoute,
        process: Process,
        home: str,
        *,
        heard: Callable[[bytes | LongLine], None],
        ended: Callable[[], None],
    ) -> None:
        self._route = route
        self._process = process
        self._home = home
        self._heard = heard
        self._ended = ended
        self._stderr = b""
        self._ending: asyncio.Task[None] | None = None
        create_task = asyncio.get_running_loop().create_task
        self._tasks = [create_task(work) for work in (self._hear(), self._read_stderr(), self._watch())]

    @classmethod
    async def start(
        cls, route: ServerRoute, *, heard: Callable[[bytes | LongLine], None], ended: Callable[[], None]
    ) -> "Child":
        """Start the command of a server; raises BackendDown where it may not or cannot be started."""
        try:
            command = commands.resolve(route.command)
            commands.check_env(route.env)
        except InvalidInput as error:
            raise BackendDown(f"{route.slug} may not be started. {error.message}") from error
        home = tempfile.mkdtemp(prefix="gatehouse-stdio-")
        environment = {"LANG": "C.UTF-8", **route.env, "HOME": home, "PATH": SEARCH_PATH}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), "\n".join(settings.HIDDEN_FROM_CHILDREN),
                *command,
                stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=home, env=environment, start_new_session=True,
                limit=CHUNK_BYTES,
            )  # fmt: skip
        except BaseException as error:
            processes.end_family(processes.NOBODY, home)
            if isinstance(error, OSError):
                raise BackendDown(f"The process of {route.slug} cannot be started: {error.strerror}.") from error
            raise
        processes.remember(process.pid, home)
        return cls(route, process, home, heard=heard, ended=ended)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, as far as we were told."""
        return self._process.returncode is None

    @property
    def unread_bytes(self) -> int:
        """How much of what was written waits here, because the pipe is full."""
        return self._input.transport.get_write_buffer_size()

    @property
    def last_words(self) -> str:
        """How it ended and what it said last, for people; without secrets."""
        if self.is_running:
            return f"{self._route.slug} is not running, or has closed its output."
        words = _CONTROL.sub(" ", self._stderr.decode("utf-8", "replace")).strip()[-SHOWN_STDERR_LENGTH:]
        shown = redact(masking.without_secrets(words, masking.secrets_of(self._route)))
        said = f" It last said: {shown}" if words else ""
        return f"The process of {self._route.slug} ended with status {self._process.returncode}.{said}"

    def write(self, line: bytes) -> None:
        """Write one line, or leave it to be written; raises ConnectionError or RuntimeError where nobody can read."""
        self._input.write(line + b"\n")

    async def drain(self) -> None:
        """Wait until it has read enough of what was written; raises as `write` does."""
        await self._input.drain()

    def end_soon(self) -> "asyncio.Task[None]":
        """Begin to end it, if nobody has."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end_all())
        return self._ending

    async def end(self) -> None:
        """End it and all its descendants; takes at most about five seconds, and is not cut short."""
        await asyncio.shield(self.end_soon())

    @property
    def _input(self) -> asyncio.StreamWriter:
        if self._process.stdin is None:
            raise RuntimeError("The process has no input.")
        return self._process.stdin

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        try:
            await self._read()
        except Exception:
            logger.exception("What server %s says cannot be heard any more.", self._route.slug)
        await self._ends_within(LAST_WORDS_SECONDS)
        self._ended()

    async def _read(self) -> None:
        lines, output = Lines(settings.UPSTREAM_MAX_RESULT_BYTES), self._process.stdout
        while output is not None and (chunk := await output.read(CHUNK_BYTES)):
            for line in lines.feed(chunk):
                self._heard(line)

    async def _read_stderr(self) -> None:
        while self._process.stderr is not None and (chunk := await self._process.stderr.read(CHUNK_BYTES)):
            self._stderr = (self._stderr + chunk)[-KEPT_STDERR_BYTES:]

    async def _watch(self) -> None:
        """A descendant may hold the output open: the end of the process itself is the end."""
        await self._process.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        self._ended()

    # End -------------------------------------------------------------------------------------------------------------

    async def _end_all(self) -> None:
        with suppress(OSError, RuntimeError):
            self._input.close()
        if not await self._ends_within(STOP_SECONDS):
            processes.signal_group(self.pid, signal.SIGTERM)
            if not await self._ends_within(STOP_SECONDS):
                processes.signal_group(self.pid, signal.SIGKILL)
        await asyncio.to_thread(processes.end_family, self.pid, self._home)
        if not await self._ends_within(STOP_SECONDS):
            logger.error("the process %s of server %s cannot be killed", self.pid, self._route.slug)
        processes.forget(self.pid)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._close_pipes()

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        return not self.is_running

    def _close_pipes(self) -> None:
        """A descendant that escaped may hold the pipes open; the library has no public way to close our ends."""
        transport = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()
