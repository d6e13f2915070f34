"""Threads for plain code: they see the caller's variables and give their connections back."""

import asyncio
import contextvars
import threading
import time

import pytest
from django.db import connection, connections

from apps.core import threads
from apps.core.errors import BackendDown
from apps.core.logs import request_id
from apps.core.threads import in_thread


@pytest.fixture(autouse=True)
def _own_pool():
    threads.close_pool()
    yield
    threads.close_pool()


def test_a_function_runs_beside_the_event_loop_with_its_arguments():
    async def story():
        return await in_thread(lambda *args, **kwargs: (args, kwargs, threading.current_thread().name), 1, two=2)

    args, kwargs, name = asyncio.run(story())

    assert (args, kwargs) == ((1,), {"two": 2}) and name.startswith("gatehouse")


def test_a_thread_sees_the_callers_variables_and_keeps_none():
    async def story(name):
        request_id.set(name)
        return await in_thread(lambda: (time.sleep(0.01), request_id.get())[1])

    async def stories():
        return await asyncio.gather(
            *(contextvars.Context().run(asyncio.create_task, story(f"r-{n}")) for n in range(30))
        )

    assert asyncio.run(stories()) == [f"r-{n}" for n in range(30)]
    assert threads.pool().submit(request_id.get).result() == ""


def test_an_error_comes_back_to_the_caller():
    async def story():
        await in_thread(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(story())


def test_no_more_threads_work_than_are_allowed(settings):
    settings.WEB_THREADS = 3
    running, most, lock = 0, 0, threading.Lock()

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def story():
        await asyncio.gather(*(in_thread(work) for _ in range(12)))

    asyncio.run(story())

    assert most == 3


def test_whoever_finds_no_free_thread_is_told_to_come_back_and_nothing_is_done_later(settings, monkeypatch):
    settings.WEB_THREADS = 1
    monkeypatch.setattr(threads, "LONGEST_WAIT_SECONDS", 0.05)
    free, done = threading.Event(), []

    async def story():
        longest = asyncio.create_task(in_thread(lambda: free.wait(30)))
        await asyncio.sleep(0)
        with pytest.raises(BackendDown) as refused:
            await in_thread(done.append, "refused")
        free.set()
        return await longest, refused.value, await in_thread(lambda: "works again")

    was_freed, refused, after = asyncio.run(story())

    assert (refused.status, refused.details) == (503, {"retry_after": threads.RETRY_SECONDS})
    assert (was_freed, after, done) == (True, "works again", [])


def test_a_caller_that_leaves_is_no_refusal(settings):
    settings.WEB_THREADS = 1
    free, done = threading.Event(), []

    async def story():
        longest = asyncio.create_task(in_thread(free.wait, 30))
        waiting = asyncio.create_task(in_thread(done.append, "left"))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        free.set()
        await longest

    asyncio.run(story())

    assert done == []


@pytest.mark.django_db(transaction=True)
def test_a_connection_is_kept_and_one_that_is_too_old_is_not(settings):
    settings.WEB_THREADS = 1

    def ask():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        made, connection.close_at = id(connection.connection), connection.close_at
        return made

    def age():
        connection.close_at = time.monotonic() - 1

    def close():
        connection.close()

    def is_open():
        return connection.connection is not None

    async def story():
        first = await in_thread(ask)
        second = await in_thread(ask)
        await in_thread(age)
        return first, second, await in_thread(is_open)

    first, second, still_open = asyncio.run(story())
    threads.pool().submit(close).result()

    assert first == second and not still_open


@pytest.mark.django_db(transaction=True)
def test_closing_the_pool_closes_the_connections_that_its_threads_kept():
    def ask():
        connection.ensure_connection()
        return connections["default"]

    kept = asyncio.run(threads.in_thread(ask))
    assert kept.connection is not None

    threads.close_pool()

    assert kept.connection is None
