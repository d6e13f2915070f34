"""One rate limiter for every door: the generic cell rate algorithm, in one SQL statement.

A bucket holds a single number, the moment at which its next call would be on schedule. A call moves that moment by
one interval (period / limit) and is refused when it would lie more than a period ahead. So a limit of 60 a minute
allows 60 at once, then one a second, with no window whose edge could be abused, and it is exact across processes:
`INSERT … ON CONFLICT DO UPDATE … WHERE … RETURNING` decides and writes in one step (SQLite 3.35, PostgreSQL 9.5).
"""

import hashlib
import math
import time
from collections.abc import Callable

from django.db import connection

from apps.core.errors import RateLimited
from apps.core.models import Bucket

MINUTE = 60.0
_TABLE = Bucket._meta.db_table
_TAKE = f"""
INSERT INTO {_TABLE} (key, due) VALUES (%s, %s)
ON CONFLICT (key) DO UPDATE SET due =
  CASE WHEN {_TABLE}.due <= %s OR {_TABLE}.due > %s THEN %s ELSE {_TABLE}.due + %s END
WHERE {_TABLE}.due <= %s OR {_TABLE}.due > %s
RETURNING due
"""  # noqa: S608 - the table's name is ours


def take(
    name: str, *, limit: int, seconds: float = MINUTE, what: str = "", clock: Callable[[], float] = time.time
) -> None:
    """Count one call against the limit of this name.

    Raises RateLimited with `details["retry_after"]` in whole seconds when more than `limit` calls would fall into
    `seconds`. `what` names the limited thing in the message. A limit of 0 refuses everything.
    """
    if limit <= 0:
        raise _refusal(what, seconds)
    now, interval = clock(), seconds / limit
    key = hashlib.sha256(name.encode()).hexdigest()
    latest = now + seconds - interval
    # A bucket is at most one period ahead; more means that the clock was set back meanwhile.
    impossible = now + seconds + interval
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [key, now + interval, now, impossible, now + interval, interval, latest, impossible])
        if cursor.fetchone() is not None:
            return
        cursor.execute(f"SELECT due FROM {_TABLE} WHERE key = %s", [key])  # noqa: S608 - the table's name is ours
        row = cursor.fetchone()
    raise _refusal(what, (row[0] if row else now) - latest)


def _refusal(what: str, wait: float) -> RateLimited:
    seconds = max(1, math.ceil(wait))
    return RateLimited(
        f"Too many calls{f' of {what}' if what else ''}. Try again in {seconds} s.", details={"retry_after": seconds}
    )
