"""`manage.py migrate`, of which one at a time runs on a database."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import migrate
from django.db import DatabaseError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from config.migrating import Executor

LOCK = 0x6A7E_0005E
WEB_LOCK = 0x6A7E_000EB

migrate.MigrationExecutor = Executor  # type: ignore[attr-defined]


class Command(migrate.Command):
    """Django's command; of two that start at once, the second waits and finds nothing left to do."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Django's, and the consent to a loss."""
        super().add_arguments(parser)
        parser.add_argument("--lose-data", action="store_true", help="Go back even where rows lose what they say.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate alone, each migration whole or not at all."""
        Executor.may_lose_data = options["lose_data"]
        with alone(connections[options["database"]]):
            super().handle(*args, **options)


@contextlib.contextmanager
def alone(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Hold the right to migrate: a lock of the server, or of a file beside an embedded database."""
    if connection.vendor == "postgresql":
        with _server_lock(connection):
            with connection.cursor() as cursor:
                _without_limits(cursor, "SESSION", "statement_timeout")
            try:
                yield
            finally:
                with contextlib.suppress(DatabaseError), connection.cursor() as cursor:
                    cursor.execute("RESET statement_timeout")
                    cursor.connection.has_no_limit = False
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
            _without_limits(cursor, "LOCAL")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        yield
    finally:
        second.close()


def _without_limits(inside: Any, reach: str, *names: str) -> None:
    """What a request may not take, a migration may: the time it needs."""
    inside.connection.has_no_limit = True  # see config/postgresql/silence.py
    for name in names or ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        inside.execute(f"SET {reach} {name} = 0")


@contextlib.contextmanager
def alone_as_web() -> Iterator[None]:
    """Hold the right to be the one web process of a PostgreSQL, which those without Redis must be.

    The lock ends with the process, and also when the server restarts: it keeps a second one from being started by
    mistake, no more.
    """
    if connection.vendor != "postgresql" or settings.ENV.redis_url:
        yield
        return
    second = connection.copy()
    try:
        second.set_autocommit(False)
        with second.cursor() as cursor:
            _without_limits(cursor, "LOCAL")
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [WEB_LOCK])
            if cursor.fetchone() != (True,):
                raise CommandError(
                    "Another web process works on this database already. Several need REDIS_URL, set for each of them:"
                    " what one of them knows of sessions reaches the others through Redis."
                )
        yield
    finally:
        with contextlib.suppress(Exception):  # the server may be gone, and the lock with it
            second.close()
