"""The one way from async code to the ORM: a bounded pool of threads that keep their connections."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import close_old_connections, connections

from apps.core.errors import BackendDown

P = ParamSpec("P")
T = TypeVar("T")

CLOSE_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 15.0
RETRY_SECONDS = 2
_BUSY = "Too many wait for the database. Try again in a moment."

_pool: ThreadPoolExecutor | None = None


def pool() -> ThreadPoolExecutor:
    """The pool, made on first use with `settings.WEB_THREADS` threads."""
    global _pool  # noqa: PLW0603 - one pool per process
    if _pool is None:
        _pool = ThreadPoolExecutor(max_workers=settings.WEB_THREADS, thread_name_prefix="gatehouse")
    return _pool


def close_pool() -> None:
    """Let running work finish and drop the pool; the next use makes a new one."""
    global _pool  # noqa: PLW0603 - one pool per process
    if _pool is not None:
        _close_connections(_pool)
        _pool.shutdown(wait=True)
        _pool = None


def _close_connections(old: ThreadPoolExecutor) -> None:
    """Let every thread close the database connections that it kept: no other thread may do it."""
    everybody = Barrier(settings.WEB_THREADS)

    def close() -> None:
        # Whoever waits here takes no second turn, so that each thread takes one.
        with suppress(BrokenBarrierError):
            everybody.wait(CLOSE_SECONDS)
        connections.close_all()

    wait([old.submit(close) for _ in range(settings.WEB_THREADS)], timeout=2 * CLOSE_SECONDS)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a plain function that may use the ORM, with the caller's context variables.

    Raises BackendDown where no thread becomes free in `LONGEST_WAIT_SECONDS`: whoever waits behind others that wait for
    a lock would only add to them.
    """
    context = contextvars.copy_context()
    call = partial(_with_fresh_connections, partial(function, *args, **kwargs))
    work = pool().submit(context.run, call)
    is_refused = False

    def refuse() -> None:
        nonlocal is_refused
        is_refused = work.cancel()  # what has begun goes on

    deadline = asyncio.get_running_loop().call_later(LONGEST_WAIT_SECONDS, refuse)
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        if is_refused:
            raise BackendDown(_BUSY, details={"retry_after": RETRY_SECONDS}) from None
        raise
    finally:
        deadline.cancel()


def _with_fresh_connections(function: Callable[[], T]) -> T:
    close_old_connections()
    try:
        return function()
    finally:
        close_old_connections()
