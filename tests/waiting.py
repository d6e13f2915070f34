"""Waiting for what others bring about, with a deadline that fails the test."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from django.db import connection

PATIENCE_SECONDS = 60.0
"""As long as a busy machine may take for anything that is not itself the claim."""


def wait_until(is_so: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, every: float = 0.02) -> None:
    """Return as soon as the answer is yes; other threads and processes go on meanwhile."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"It did not come to that within {seconds:g} seconds."
        time.sleep(every)


async def until(is_so: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as the answer is yes; other tasks of this loop go on meanwhile."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"It did not come to that within {seconds:g} seconds."
        await asyncio.sleep(0.01)


def and_disconnect(ask: Callable[[], Any]) -> Any:
    """What a thread of its own asks, whose connection to the database nobody else would close."""
    try:
        return ask()
    finally:
        connection.close()


def count_waiting_for_rows() -> int:
    """How many transactions of this database wait for one that holds a row; on PostgreSQL alone."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
            " AND pid IN (SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE d.datname = current_database())"
        )
        return int(cursor.fetchone()[0])
