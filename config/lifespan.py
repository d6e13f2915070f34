"""What starts and stops with the server, in one task of its own.

Context managers of anyio must be left by the task that entered them, so one *owner task* enters and leaves all of
them. It is started by the server's lifespan, or, under servers that send none, by the first MCP request; then with an
empty context, for otherwise the first caller's variables would live on in the session manager.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

from apps.core import egress, threads
from apps.core.threads import in_thread

logger = logging.getLogger(__name__)
START_SECONDS = 90.0


class Owner:
    """Starts everything once per event loop and stops it in the same task."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._error: BaseException | None = None

    async def ensure_started(self) -> None:
        """Return when everything is up; raises what kept it from starting."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = contextvars.Context().run(loop.create_task, self._run())
        if not self._started.is_set():
            await asyncio.wait_for(self._started.wait(), START_SECONDS)
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Stop everything and wait for it."""
        if self._task is not None:
            self._stop.set()
            await self._task

    async def _run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                await _start(stack)
                self._started.set()
                await self._stop.wait()
        except BaseException as error:
            if not self._started.is_set():
                self._error = error
                self._started.set()
            else:
                logger.exception("stopping failed")


async def _start(stack: AsyncExitStack) -> None:
    from apps.usage import services as usage
    from config.mcp import mcp_lifespan

    stack.callback(threads.close_pool)
    stack.push_async_callback(egress.close_shared_session)
    usage.start_writer()
    stack.push_async_callback(in_thread, usage.stop_writer)
    await stack.enter_async_context(mcp_lifespan())


_owners: dict[asyncio.AbstractEventLoop, Owner] = {}


def owner() -> Owner:
    """The owner task of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _owners:
        _owners[loop] = Owner()
    return _owners[loop]


async def serve_lifespan(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer the server's lifespan events."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await owner().ensure_started()
            except Exception as error:
                logger.exception("starting failed")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await owner().stop()
            _owners.pop(asyncio.get_running_loop(), None)
            await send({"type": "lifespan.shutdown.complete"})
            return
