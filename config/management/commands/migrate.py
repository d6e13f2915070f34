"""`manage.py migrate`, of which one at a time runs on a database."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.commands import migrate
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

LOCK = 0x6A7E_0005E


class Command(migrate.Command):
    """Django's command; of two that start at once, the second waits and finds nothing left to do."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate alone."""
        with alone(connections[options["database"]]):
            super().handle(*args, **options)


@contextlib.contextmanager
def alone(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Hold the right to migrate: a lock of the server, or of a file beside an embedded database."""
    if connection.vendor == "postgresql":
        with _server_lock(connection):
            yield
    elif connection.is_in_memory_db():  # type: ignore[attr-defined]
        yield
    else:
        path = Path(f"{connection.settings_dict['NAME']}.migrate")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def _server_lock(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """A lock that ends with a transaction of a second connection: behind a pooler, a session's would outlive us."""
    second = connection.copy()
    try:
        second.set_autocommit(False)
        with second.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        yield
    finally:
        second.close()
