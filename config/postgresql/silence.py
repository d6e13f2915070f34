"""How long a statement waits for a server that says nothing.

PostgreSQL ends a statement that takes too long, and the kernel a connection whose other end is gone. Neither helps
where the other end takes every packet and never answers: a machine that is frozen, a proxy that has lost its server.
"""

import time
from collections.abc import Generator
from typing import Any

from django.conf import settings
from psycopg import OperationalError

ANSWER_SECONDS = 5.0
"""How much longer than the longest statement the answer may take."""
_NOTHING_YET = 0


def limit(connection: Any) -> None:
    """Let every wait of this connection end in time; its statements fail with OperationalError then.

    One whose `has_no_limit` is set may take as long as it needs.
    """
    wait = connection.wait
    connection.has_no_limit = False

    def wait_in_time(waiting: Any, *args: Any, **options: Any) -> Any:
        if connection.has_no_limit:
            return wait(waiting, *args, **options)
        return wait(_in_time(connection, waiting), *args, **options)

    connection.wait = wait_in_time


def _in_time(connection: Any, waiting: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    until = time.monotonic() + settings.ENV.database_statement_seconds + ANSWER_SECONDS
    try:
        state = next(waiting)
        while True:
            ready = yield state
            if ready == _NOTHING_YET and time.monotonic() > until:
                connection.pgconn.finish()  # else whoever cleans up would wait as long again
                raise OperationalError("the connection is closed: the server took the statement and does not answer")
            state = waiting.send(ready)
    except StopIteration as end:
        return end.value
