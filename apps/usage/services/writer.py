"""Recording calls off the hot path: a queue in memory, and one thread that writes it in batches.

What happens when things go wrong:
- The database is down: events stay in the queue, in order, and are tried again.
- The queue is full (`LARGEST_QUEUE`): the newest event is dropped and counted, and the log says so once a minute.
  Blocking instead would stop every call because one could not be counted.
- The process stops cleanly: everything queued is written first, for at most `STOP_SECONDS`.
- The process is killed: up to half a second of events is lost.
"""

import atexit
import logging
import math
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import DatabaseError, InterfaceError, OperationalError, close_old_connections, connection, transaction
from django.utils import timezone

from apps.core.actor import Actor
from apps.core.doors import storable_text
from apps.core.ids import new_id
from apps.core.logs import request_id
from apps.usage.models import UsageEvent
from apps.usage.services.rollups import add_to_rollups

logger = logging.getLogger(__name__)

LARGEST_QUEUE = 50_000
BATCH = 500
WRITE_EVERY_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
STOP_SECONDS = 15.0
COMPLAIN_EVERY_SECONDS = 60.0
_LONGEST = {
    field.name: field.max_length
    for field in UsageEvent._meta.concrete_fields
    if field.get_internal_type() == "CharField" and field.max_length
}


_FIELDS = UsageEvent._meta.concrete_fields


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the writer is doing: events that wait, and events that were dropped since the start."""

    waiting: int
    dropped: int


@dataclass(slots=True)
class _Call:
    """A call as it waits in the queue; its row is built by the writer."""

    at: datetime
    organization_id: UUID
    actor: Actor
    endpoint: str
    method: str
    name: str
    server: str
    status: str
    error_code: str
    latency_ms: float
    bytes_in: int
    bytes_out: int
    request_id: str

    def row(self) -> UsageEvent:
        """The row, with texts that every database takes."""
        return UsageEvent(
            id=new_id(),
            organization_id=self.organization_id,
            at=self.at,
            created_at=self.at,
            updated_at=self.at,
            surface=self.actor.surface,
            endpoint=_text("endpoint", self.endpoint),
            method=_text("method", self.method),
            name=_text("name", self.name),
            server=_text("server", self.server),
            status=self.status,
            error_code=_text("error_code", self.error_code),
            actor_kind=self.actor.kind,
            actor_id=self.actor.id,
            actor_label=_text("actor_label", self.actor.label),
            user_id=self.actor.user_id,
            key_id=self.actor.key_id,
            latency_ms=self.latency_ms if math.isfinite(self.latency_ms) else 0.0,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            request_id=_text("request_id", self.request_id),
        )


def _text(field: str, value: str) -> str:
    return storable_text(value)[: _LONGEST[field]]


class _Writer:
    """The queue and its thread. `record` may be called from any thread and from an event loop."""

    def __init__(self) -> None:
        self.queue: deque[_Call] = deque()
        self.dropped = 0
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._writing = threading.Lock()
        self._life = threading.Lock()
        self._thread: threading.Thread | None = None
        self._complained_at = -math.inf

    def record(self, call: _Call) -> None:
        if len(self.queue) >= LARGEST_QUEUE:
            self.drop(1, "the queue is full; is the database down?")
            return
        self.queue.append(call)
        if not self._arrived.is_set():
            self._arrived.set()

    def drop(self, number: int, why: str) -> None:
        self.dropped += number
        if time.monotonic() - self._complained_at >= COMPLAIN_EVERY_SECONDS:
            self._complained_at = time.monotonic()
            logger.error("usage events are dropped, %s since the start: %s", self.dropped, why)

    def start(self) -> None:
        with self._life:
            if self._thread is None or not self._thread.is_alive():
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="usage-writer", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        with self._life:
            if self._thread is not None:
                self._stopping.set()
                self._arrived.set()
                self._thread.join(STOP_SECONDS + LONGEST_PAUSE_SECONDS)
                self._thread = None

    def write_all(self) -> None:
        """Write until nothing waits; raises DatabaseError, with everything unwritten still queued."""
        with self._writing:
            while batch := self._take():
                try:
                    _insert(batch)
                except (OperationalError, InterfaceError):
                    self.queue.extendleft(reversed(batch))
                    raise
                except (DatabaseError, ValueError):
                    self._insert_one_by_one(batch)

    def _take(self) -> list[_Call]:
        return [self.queue.popleft() for _ in range(min(BATCH, len(self.queue)))]

    def _insert_one_by_one(self, batch: list[_Call]) -> None:
        """One event that the database refuses (its organisation is gone) must not take the others with it."""
        for position, call in enumerate(batch):
            try:
                _insert([call])
            except (OperationalError, InterfaceError):
                self.queue.extendleft(reversed(batch[position:]))
                raise
            except (DatabaseError, ValueError) as error:
                self.drop(1, f"the database refuses one ({type(error).__name__})")

    def _run(self) -> None:
        pause = WRITE_EVERY_SECONDS
        try:
            while not self._stopping.is_set():
                self._arrived.wait()
                self._stopping.wait(pause)  # more arrive meanwhile
                self._arrived.clear()
                pause = WRITE_EVERY_SECONDS if self._try() else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._drain()
        finally:
            connection.close()

    def _try(self) -> bool:
        try:
            close_old_connections()
            self.write_all()
        except DatabaseError as error:
            logger.warning("usage events wait, %s of them: the database failed (%s)", len(self.queue), error)
            self._arrived.set()
            return False
        except Exception:
            logger.exception("usage events could not be written")
            self._arrived.set()
            return False
        return True

    def _drain(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.queue and not self._try() and time.monotonic() < deadline:
            time.sleep(WRITE_EVERY_SECONDS)
        if self.queue:
            logger.error("%s usage events are lost: the database did not come back before the stop", len(self.queue))


def _insert(batch: list[_Call]) -> None:
    with transaction.atomic():
        events = [call.row() for call in batch]
        _store(events)
        add_to_rollups(events)


def _store(events: list[UsageEvent]) -> None:
    """Insert the rows in one statement of our own: `bulk_create` takes four times as long as the database does."""
    columns = ", ".join(connection.ops.quote_name(str(field.column)) for field in _FIELDS)
    places = ", ".join(["%s"] * len(_FIELDS))
    table = connection.ops.quote_name(UsageEvent._meta.db_table)
    rows = [[_adapted(getattr(event, field.attname)) for field in _FIELDS] for event in events]
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)  # noqa: S608 - names of ours


def _adapted(value: Any) -> Any:
    """A value as the database takes it."""
    if isinstance(value, UUID):
        return value if connection.features.has_native_uuid_field else value.hex
    return connection.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value


_writer = _Writer()


def _forget_after_fork() -> None:
    """A child has its parent's queue but not its thread; the parent writes what was queued."""
    global _writer  # noqa: PLW0603 - one writer per process
    _writer = _Writer()


os.register_at_fork(after_in_child=_forget_after_fork)


def record_call(
    actor: Actor,
    *,
    endpoint: str,
    method: str,
    name: str = "",
    server: str = "",
    status: str,
    error_code: str = "",
    latency_ms: float,
    bytes_in: int = 0,
    bytes_out: int = 0,
) -> None:
    """Note one call, allowed or denied; it costs microseconds and never waits. Without an organisation: nothing."""
    if actor.organization_id is None:
        return
    _writer.record(
        _Call(
            timezone.now(), actor.organization_id, actor, endpoint, method, name, server, status, error_code,
            latency_ms, bytes_in, bytes_out, request_id.get(),
        )
    )  # fmt: skip


def start_writer() -> None:
    """Start the thread that writes; where it runs already, nothing happens."""
    _writer.start()
    atexit.register(stop_writer)


def stop_writer() -> None:
    """Write what is queued and end the thread; where none runs, nothing happens."""
    _writer.stop()
    atexit.unregister(stop_writer)


def flush() -> None:
    """Write what is queued now, in this thread; raises DatabaseError and keeps the rest."""
    _writer.write_all()


def backlog() -> Backlog:
    """How many events wait in this process, and how many it has dropped."""
    return Backlog(waiting=len(_writer.queue), dropped=_writer.dropped)
