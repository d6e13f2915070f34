"""The parts that the platform stands on: database, migrations, cache, broker, worker and schedule, disk, clock."""

import fcntl
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, NotSupportedError, connection
from django.db.migrations.executor import MigrationExecutor

from apps.jobs import services as jobs
from apps.secrets import services as secrets
from config.doctor.findings import Finding, drop_variable, manage, set_variable
from config.env import given_in_file

HEARTBEAT = "jobs.requeue"
SILENT_SECONDS = 90.0
STARTED_SECONDS = 300.0
"""Beat writes down only every three minutes what it has started."""
CLOCK_SECONDS = 5.0
BROKER_SECONDS = 3
FREE_BYTES = 500 * 1024**2
FREE_SHARE = 0.03
_LOCAL = ("127.0.0.1", "::1", "localhost")


# Database ----------------------------------------------------------------------------------------------------------


def examine_database() -> Finding:
    """Whether it is there and answers. An embedded one is never made by looking at it."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite" and not connection.is_in_memory_db() and not Path(name).exists():  # type: ignore[attr-defined]
        return Finding("database", "wrong", f"There is no database yet at {name}.", manage("migrate"))
    started = time.monotonic()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except NotSupportedError as error:
        cure = drop_variable("DATABASE_URL")
        return Finding("database", "wrong", f"{_place()} is too old. {_first_line(error)}", cure, may_pass=False)
    except DatabaseError as error:
        return Finding("database", "wrong", f"{_place()} does not answer. {_first_line(error)}", _database_cure(error))
    return Finding("database", "ok", f"{_place()}, {(time.monotonic() - started) * 1000:.0f} ms")


def _place() -> str:
    """Where it is, without user and password."""
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"SQLite at {given['NAME']}"
    return f"PostgreSQL at {given['HOST']}:{given['PORT']}/{given['NAME']}"


def _database_cure(error: Exception) -> str:
    given, text = connection.settings_dict, str(error)
    if connection.vendor == "sqlite":
        return f"cp BACKUP {shlex.quote(str(given['NAME']))}"
    host, port, name = (shlex.quote(str(given[each])) for each in ("HOST", "PORT", "NAME"))
    if "does not exist" in text and "database" in text:
        return f"createdb --host {host} --port {port} --username {shlex.quote(given['USER'])} {name}"
    if "password" in text or "role" in text:
        return set_variable("DATABASE_URL", f"postgres://USER:PASSWORD@{given['HOST']}:{given['PORT']}/{given['NAME']}")
    start = "sudo systemctl start postgresql" if given["HOST"] in _LOCAL else f"pg_isready --host {host} --port {port}"
    return f"{start}  # or go back to the embedded database: {drop_variable('DATABASE_URL')}"


def examine_migrations() -> Finding:
    """Whether the database has the tables that this version needs."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        first = missing[0][0]
        why = f"{len(missing)} migrations are not applied, the first of them {first.app_label}.{first.name}."
        return Finding("migrations", "wrong", why, manage("migrate"))
    newer = set(executor.loader.applied_migrations) - set(executor.loader.disk_migrations)
    ours = [f"{app}.{name}" for app, name in sorted(newer) if app in executor.loader.migrated_apps]
    if ours:
        return Finding("migrations", "note", f"The database is newer than this version: {', '.join(ours)[:200]}.")
    return Finding("migrations", "ok", "all applied")


def examine_clock() -> Finding:
    """Whether this machine and the database's agree on the time: leases, tokens and limits depend on it."""
    if connection.vendor == "sqlite":
        return Finding("clock", "ok", "the database is embedded; there is one clock")
    before = datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        theirs: datetime = cursor.fetchone()[0]
    return judge_clock((theirs - before).total_seconds())


def judge_clock(apart_seconds: float) -> Finding:
    """How far apart the clocks may be."""
    if abs(apart_seconds) > CLOCK_SECONDS:
        why = f"The database's clock is {apart_seconds:+.1f} s from this machine's."
        return Finding("clock", "wrong", why, "sudo timedatectl set-ntp true")
    return Finding("clock", "ok", f"{apart_seconds:+.2f} s from the database's")


def examine_sealing_keys() -> Finding:
    """Whether they open what the database holds."""
    faults = secrets.find_sealing_faults()
    if not faults:
        return Finding("sealing keys", "ok", "they open what is sealed")
    kept = settings.DATA_DIR / "secrets" / "gatehouse_sealing_keys"
    is_given = bool(os.environ.get("GATEHOUSE_SEALING_KEYS") or given_in_file().get("GATEHOUSE_SEALING_KEYS"))
    restore = f"cp BACKUP/{kept.name} {shlex.quote(str(kept))}"
    cure = drop_variable("GATEHOUSE_SEALING_KEYS") if is_given and kept.exists() else restore
    return Finding("sealing keys", "wrong", " ".join(faults), cure)


# Cache, broker -----------------------------------------------------------------------------------------------------


def examine_cache() -> Finding:
    """Whether it keeps what it is given."""
    if not settings.ENV.redis_url:
        return Finding("cache", "ok", "in the process")
    try:
        cache.set("gatehouse:doctor", "1", 5)
        well = cache.get("gatehouse:doctor") == "1"
    except Exception as error:  # each cache backend raises errors of its own
        if "HELLO" in str(error):
            why = f"The Redis at {_address(settings.ENV.redis_url)} is too old. Redis 6 or newer is needed."
            return Finding("cache", "wrong", why, drop_variable("REDIS_URL"), may_pass=False)
        return _not_there("cache", "REDIS_URL", settings.ENV.redis_url, error)
    if not well:
        return Finding("cache", "wrong", "It forgets at once what it is given.", drop_variable("REDIS_URL"))
    return Finding("cache", "ok", f"Redis at {_address(settings.ENV.redis_url)}")


def examine_broker() -> Finding:
    """Whether it takes connections."""
    if not settings.ENV.broker_url:
        return Finding("broker", "ok", "in the process of `up`")
    from config.celery import app

    try:
        with app.connection_for_write(connect_timeout=BROKER_SECONDS) as link:
            link.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=BROKER_SECONDS)
    except Exception as error:  # each broker raises errors of its own
        return _not_there("broker", "BROKER_URL", settings.ENV.broker_url, error)
    return Finding("broker", "ok", _address(settings.ENV.broker_url))


def _not_there(what: str, variable: str, url: str, error: Exception) -> Finding:
    why = (
        f"Nothing of use answers at {_address(url)} ({type(error).__name__}). Start it there, or correct {variable};"
        " one process alone can do without."
    )
    return Finding(what, "wrong", why, drop_variable(variable))


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"


# Worker and schedule -----------------------------------------------------------------------------------------------


def examine_schedule() -> Iterator[Finding]:
    """Whether a worker runs what the schedule starts, nothing is switched off and no job waits for long."""
    states = jobs.list_schedules()
    yield _worker(states)
    yield _complete(states)
    waited = jobs.oldest_waiting_seconds()
    if waited > SILENT_SECONDS:
        why = f"A job has waited for {waited:.0f} s."
        yield Finding("jobs", "wrong", why, _start_command())
    else:
        yield Finding("jobs", "ok", "none waits")


def _worker(states: list[jobs.ScheduleState]) -> Finding:
    seen = jobs.last_alive(HEARTBEAT)
    silent = _seconds_since(seen)
    if silent <= SILENT_SECONDS:
        return Finding("worker", "ok", f"seen {silent:.0f} s ago")
    when = "never" if seen is None else f"{silent:.0f} s ago"
    beat_runs = any(_seconds_since(each.started_at) < STARTED_SECONDS for each in states)
    if not beat_runs:
        why = f"Neither schedule nor worker runs; a worker was last seen {when}."
    else:
        why = f"The schedule ran within five minutes, but no worker takes what it starts; one was last seen {when}."
    return Finding("worker", "wrong", why, _start_command())


def _start_command() -> str:
    """What starts the worker and the schedule of this installation."""
    if not settings.ENV.broker_url:
        return manage("up") if not is_up_running(settings.DATA_DIR) else f"kill {_up_process()}; {manage('up')}"
    return f"{manage('up', '--role', 'worker')} & {manage('up', '--role', 'beat')}"


def is_up_running(folder: Path) -> bool:
    """Whether `up` holds the data folder."""
    path = folder / "up.lock"
    if not path.exists():
        return False
    with path.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _up_process() -> str:
    return (settings.DATA_DIR / "up.lock").read_text().strip()


def _complete(states: list[jobs.ScheduleState]) -> Finding:
    """Whether everything that the apps want done regularly is in the schedule, and on."""
    wanted = {task for config in apps.get_app_configs() for task in getattr(config, "schedule", {})}
    missing = sorted(wanted - {each.name for each in states})
    if missing:
        code = "from config.background import ensure_schedules; ensure_schedules()"
        why = f"Not in the schedule: {', '.join(missing)}."
        return Finding("schedules", "wrong", why, manage("shell", "--command", code))
    return _switched_off(states)


def _switched_off(states: list[jobs.ScheduleState]) -> Finding:
    off = [each.name for each in states if not each.is_enabled]
    if not off:
        return Finding("schedules", "ok", f"{len(states)} run")
    code = (
        "from django_celery_beat.models import PeriodicTask\n"
        f"for each in PeriodicTask.objects.filter(name__in={off!r}): each.enabled = True; each.save()"
    )
    why = f"Switched off: {', '.join(off)}."
    return Finding("schedules", "wrong", why, manage("shell", "--command", code))


def _seconds_since(moment: datetime | None) -> float:
    return (datetime.now(UTC) - moment).total_seconds() if moment else float("inf")


# Disk --------------------------------------------------------------------------------------------------------------


def examine_disk() -> Finding:
    """Whether the data folder has room."""
    folder: Path = settings.DATA_DIR
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 1024**3:.1f} GiB of {usage.total / 1024**3:.1f} free"
    if usage.free < max(FREE_BYTES, usage.total * FREE_SHARE):
        biggest = f"du -xh {shlex.quote(str(folder))} | sort -h | tail -20"
        return Finding("disk", "wrong", f"{free} at {folder}. Make room; this shows what is large.", biggest)
    return Finding("disk", "ok", free)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
