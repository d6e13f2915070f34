"""How long the control room takes over a million rows, on SQLite and PostgreSQL; writes its part of docs/benchmarks.md.

    .venv/bin/python benchmarks/lists.py                                      both, about six minutes
    .venv/bin/python benchmarks/lists.py --rows 100000 --out /dev/stdout      a quicker look
    .venv/bin/python benchmarks/lists.py --databases PostgreSQL --tables usage --out /dev/stdout
    .venv/bin/python benchmarks/lists.py --postgres postgres://user@host:5432/postgres

It makes a database of its own in each (that of PostgreSQL beside the one that is named), fills it with that many usage
events, journal entries, jobs and failed logins in twenty organisations, and asks for each page through Django's test
client, as the owner of the largest organisation and as a platform admin who sees all. A time is that of the whole
request in the server: the session, the queries and the page; the median of ten, after one that is not counted.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PROJECT = Path(__file__).parent.parent
REPORT = PROJECT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- lists: from here -->", "<!-- lists: to here -->"
POSTGRES = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")

ROWS = 1_000_000
REPEATS = 10
ORGANIZATIONS = 20
SHARE_OF_THE_LARGEST = 0.5
PAST_DAYS = 30
DAY_SECONDS = 86_400
LIST_MS, DASHBOARD_MS = 300, 200

DIALECTS = {
    "sqlite": {
        "series": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows})",
        "at": "strftime('%Y-%m-%d %H:%M:%f', {second}, 'unixepoch')",
        "id": "printf('%012x70008%015x', CAST(1000 * {second} AS INTEGER), n)",
    },
    "postgresql": {
        "series": "WITH s(n) AS (SELECT generate_series(1::bigint, {rows}))",
        "at": "to_timestamp({second})",
        "id": "(lpad(to_hex((1000 * {second})::bigint), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid",
    },
}
INSERT = """
INSERT INTO {table} ({columns})
{series}, r AS (SELECT n, n * 2654435761 % 4294967296 AS h, {second} AS second FROM s),
o AS (SELECT id AS organization_id, row_number() OVER (ORDER BY slug) - 1 AS place FROM accounts_organization)
SELECT {values} FROM (SELECT r.*, {id} AS id, {at} AS at FROM r) AS r JOIN o ON o.place = {whose}
"""
WHO = {"actor_kind": "'user'", "actor_label": "'person-' || (h % 30) || '@acme.example'", "request_id": "'r-' || n"}
TIMES = {"created_at": "at", "updated_at": "at", "organization_id": "organization_id", "id": "id"}
EVENT = {
    **TIMES, **WHO, "at": "at", "surface": "'mcp'", "endpoint": "'/mcp'", "method": "'tools/call'",
    "server": "'server-' || (h / 8 % 5)", "name": "'server-' || (h / 8 % 5) || '__tool_' || (h / 64 % 4)",
    "status": "CASE WHEN h / 512 % 100 < 96 THEN 'ok' WHEN h / 512 % 100 < 99 THEN 'error' ELSE 'denied' END",
    "latency_ms": "2 + h % 997 * (h % 991) / 5000.0", "bytes_in": "300", "bytes_out": "2000",
}  # fmt: skip
ENTRY = {
    **WHO, "id": "id", "at": "at", "chain_id": "organization_id", "sequence": "1000000 + n", "surface": "'admin'",
    "action": "'server.' || CASE h / 8 % 4 WHEN 0 THEN 'created' WHEN 1 THEN 'updated' ELSE 'approved' END",
    "outcome": "CASE WHEN h / 512 % 100 < 2 THEN 'refused' ELSE 'done' END", "previous_digest": "''", "digest": "''",
    "subject": "'server:server-' || (h / 64 % 2000)",
}  # fmt: skip
JOB = {
    **TIMES, **WHO, "kind": "CASE h / 8 % 2 WHEN 0 THEN 'registry.discover' ELSE 'reports.write' END",
    "run_after": "at",
    "state": "CASE WHEN h / 512 % 100 < 2 THEN 'failed' ELSE 'completed' END", "progress": "100", "sent_at": "at",
    "subject": "'server:server-' || (h / 64 % 2000)", "started_at": "at", "finished_at": "at",
}  # fmt: skip
FAILURE = {"key": "'key-' || n", "failures": "1 + h % 4", "last_failed_at": "at"}
"""Tables as SQL makes them: made in Python, a million rows would take an hour."""

DATABASES, TABLES = ["SQLite", "PostgreSQL"], ["usage", "journal", "jobs", "failed logins"]
EVENTS, ENTRIES = "/admin/usage/usageevent/", "/admin/audit/entry/"
JOBS, FAILURES = "/admin/jobs/job/", "/admin/accounts/loginfailure/"


def main() -> None:
    """Measure each database in a process of its own, which reads its settings only once, and write the report."""
    a = arguments()
    if a.inside:
        print(json.dumps(measure(a.rows, a.tables)))
        return
    servers = {"SQLite": None, "PostgreSQL": a.postgres}
    found = {name: run_inside(a.rows, a.tables, servers[name]) for name in a.databases}
    write(a.out, "\n".join(report(found, a.rows)))
    for database, figures in found.items():
        for page in figures["pages"]:
            times = f"{page['median']:8.1f} ms {page['fastest']:8.1f} at best"
            print(f"{times}  {database:10}  {page['who']:14}  {page['what']}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time the lists of the control room.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--postgres", default=POSTGRES, help="The server in which our database is made.")
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_inside(rows: int, tables: Sequence[str], server: str | None) -> dict[str, Any]:
    """What another process found in a database that is made for it and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-lists-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
        environment.update(
            GATEHOUSE_DATA=folder, DJANGO_SETTINGS_MODULE="config.settings", DATABASE_STATEMENT_SECONDS="600"
        )
        name = f"gatehouse_lists_{os.getpid()}"
        try:
            if server:
                execute(server, f'CREATE DATABASE "{name}"')
                environment["DATABASE_URL"] = urlsplit(server)._replace(path=f"/{name}").geturl()
            command = [sys.executable, __file__, "--inside", "--rows", str(rows), "--tables", *tables]
            done = subprocess.run(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, check=True)
        finally:
            if server:
                execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def execute(server: str, statement: str) -> None:
    """One statement outside every transaction, in the database that every server has: the named one may not exist."""
    import psycopg

    with psycopg.connect(urlsplit(server)._replace(path="/postgres").geturl(), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


# In the measured process -------------------------------------------------------------------------------------------


def measure(rows: int, tables: Sequence[str]) -> dict[str, Any]:
    """Fill the database of the settings, and time its pages."""
    sys.path.insert(0, str(PROJECT))
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    settings.ALLOWED_HOSTS.append("testserver")
    call_command("migrate", verbosity=0)
    say("migrated")
    world = World(rows, tables)
    world.fill()
    rebuilt = timed(lambda: call_command("usage_rebuild", stdout=io.StringIO()))
    say(f"roll-ups made in {rebuilt:.0f} s")
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("VACUUM ANALYZE")
            cursor.execute("SHOW server_version")
            version = cursor.fetchone()[0].split()[0]
        else:
            cursor.execute("SELECT sqlite_version()")
            version = cursor.fetchone()[0]
    return {"version": version, "rebuild_seconds": rebuilt, "pages": list(world.pages())}


def say(text: str) -> None:
    """To whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def timed(do: Any) -> float:
    """How many seconds it takes."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def asked(do: Any) -> float:
    """How many milliseconds it waits for the database."""
    from django.db import connection

    times = []

    def note(execute: Any, *arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return execute(*arguments)
        finally:
            times.append(time.perf_counter() - begun)

    with connection.execute_wrapper(note):
        do()
    return 1000 * sum(times)


class World:
    """Twenty organisations with all their rows, and the two who look at them."""

    def __init__(self, rows: int, tables: Sequence[str]) -> None:
        from tests.people import make_person
        from tests.staff.rooms import enter

        self.rows, self.tables, self.enter = rows, tables, enter
        self.now = datetime.now(UTC)
        self.owner = make_person("alice", "acme", "owner")
        self.root = make_person("root", None, "")
        for n in range(ORGANIZATIONS - 1):
            make_person(f"owner{n}", f"org{n}", "owner")

    def fill(self) -> None:
        """All rows, table by table, each table in one statement."""
        from apps.audit.models import Entry
        from apps.auth.models import LoginFailure
        from apps.jobs.models import Job
        from apps.usage.models import UsageEvent

        made = {"usage": (UsageEvent, EVENT), "journal": (Entry, ENTRY), "jobs": (Job, JOB)}
        for name in self.tables:
            model, columns = made.get(name, (LoginFailure, FAILURE))
            seconds = timed(lambda model=model, columns=columns: self.make(model, columns))
            say(f"{self.rows} rows of {model._meta.label} in {seconds:.0f} s")

    def make(self, model: Any, given: dict[str, str]) -> None:
        """Rows with these columns; what is not given has its usual value. `h` is as good as random."""
        from django.db import connection

        usual = {field.column: field.get_default() for field in model._meta.concrete_fields}
        others = {name: literal(value) for name, value in usual.items() if name not in given and value is not None}
        columns = {**others, **given}
        begun, step = self.now.timestamp() - PAST_DAYS * DAY_SECONDS, PAST_DAYS * DAY_SECONDS / self.rows
        second = f"({begun} + n * {step})"
        parts = {name: part.format(rows=self.rows, second=second) for name, part in DIALECTS[connection.vendor].items()}
        share = f"h % 100 < {100 * SHARE_OF_THE_LARGEST:.0f}"
        whose = f"CASE WHEN {share} THEN 0 ELSE h / 128 % {ORGANIZATIONS - 1} + 1 END"
        sql = INSERT.format(
            table=model._meta.db_table,
            columns=", ".join(columns),
            values=", ".join(columns.values()),
            second=second,
            whose=whose,
            **parts,
        )
        with connection.cursor() as cursor:
            cursor.execute(sql)

    def pages(self) -> Iterator[dict[str, Any]]:
        """Each page as both of them see it, with its times in milliseconds."""
        for who, client in (("owner", self.enter(self.owner)), ("platform admin", self.enter(self.root))):
            for what, address, limit in self.addresses(is_root=who != "owner"):
                client.get(address)
                times = [1000 * timed(lambda a=address, c=client: get(c, a)) for _ in range(REPEATS)]
                median = statistics.median(times)
                asking = asked(lambda a=address, c=client: get(c, a))
                say(f"{median:7.1f} ms, at best {min(times):6.1f}, of which SQL {asking:6.1f}  {who}: {what}")
                yield {"who": who, "what": what, "median": median, "fastest": min(times), "limit": limit}

    def addresses(self, *, is_root: bool) -> Iterator[tuple[str, str, int]]:
        """What is shown, where, and in how many milliseconds at most."""
        for span in ("24h", "7d", "30d") if "usage" in self.tables else ():
            yield f"overview, {span}", f"/admin/?span={span}", DASHBOARD_MS
        week_ago, old = self.now - timedelta(days=7), self.now - timedelta(days=20)
        states = ("status__exact=ok", "status__exact=error", "status__exact=denied")
        lists = {
            "usage": (EVENTS, (*states, "q=server-3", "p=400")),
            "journal": (ENTRIES, ("outcome__exact=done", "outcome__exact=refused", "q=server.approved", "p=400")),
            "jobs": (JOBS, ("state__exact=failed", "kind=reports.write", "subject=server:server-3", "p=400")),
            **({"failed logins": (FAILURES, ("p=400",))} if is_root else {}),
        }
        for name, (address, filters) in ((name, lists[name]) for name in self.tables if name in lists):
            yield name, address, LIST_MS
            for each in filters:
                yield f"{name}, `{each}`", f"{address}?{each}", LIST_MS
        for name, address in (("usage", EVENTS), ("journal", ENTRIES)):
            if name not in self.tables:
                continue
            since = f"at_from_0={week_ago:%Y-%m-%d}&at_from_1=00:00:00"
            yield f"{name}, of the last week", f"{address}?{since}", LIST_MS
            until = f"at_from_0={old:%Y-%m-%d}&at_from_1=00:00:00&at_to_0={old:%Y-%m-%d}&at_to_1=23:59:59"
            yield f"{name}, of a day three weeks ago", f"{address}?{until}", LIST_MS


def get(client: Any, address: str) -> None:
    """A page, which must come."""
    answer = client.get(address)
    assert answer.status_code == 200, (answer.status_code, address)


def literal(value: Any) -> str:
    """A usual value as SQL."""
    if isinstance(value, str):
        return f"'{value}'"
    return {dict: "'{}'", bool: "FALSE", datetime: "at"}.get(type(value), "") or str(value)


# The report --------------------------------------------------------------------------------------------------------


def report(found: dict[str, dict[str, Any]], rows: int) -> Iterator[str]:
    """The part of the page that is ours."""
    versions = ", ".join(f"{name} {figures['version']}" for name, figures in found.items())
    yield f"{BEGIN}\n"
    yield "## The control room over a million rows\n"
    yield (
        f"Written by `benchmarks/lists.py`. {rows:,} usage events, and as many journal entries, jobs and failed logins,"
        f" in {ORGANIZATIONS} organisations, the largest with half of them. Milliseconds in the server for the whole"
        f" request, the median of {REPEATS}. An *owner* sees the largest organisation, a *platform admin* all. Promised"
        f" are {LIST_MS} ms for a list with one filter and {DASHBOARD_MS} ms for the overview."
    )
    yield f"\n- {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    for name, figures in found.items():
        yield f"- {name}: all roll-ups made anew (`manage.py usage_rebuild`) in {figures['rebuild_seconds']:.0f} s"
    whose = [(database, who) for database in found for who in ("owner", "platform admin")]
    heads = [f"{database}, {who}" for database, who in whose]
    yield "\n| page | " + " | ".join(heads) + " | holds |\n|---|" + "---|" * (len(heads) + 1)
    for what in dict.fromkeys(page["what"] for figures in found.values() for page in figures["pages"]):
        yield row_of(what, [of(found[database]["pages"], what, who) for database, who in whose])
    yield f"\n{END}"


def of(pages: Sequence[dict[str, Any]], what: str, who: str) -> dict[str, Any] | None:
    """One measured page."""
    return next((page for page in pages if (page["what"], page["who"]) == (what, who)), None)


def row_of(what: str, cells: Sequence[dict[str, Any] | None]) -> str:
    """A line of the table."""
    shown = [f"{cell['median']:.0f}" if cell else "" for cell in cells]
    holds = all(cell["median"] <= cell["limit"] for cell in cells if cell)
    return f"| {what} | {' | '.join(shown)} | {'yes' if holds else 'no'} |"


def write(path: Path, part: str) -> None:
    """Put our part in the place of the one before, or at the end."""
    if not path.is_file():
        sys.stdout.write(f"{part}\n")
        return
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{part}{after}" if begin else f"{text.rstrip()}\n\n{part}\n")


if __name__ == "__main__":
    main()
