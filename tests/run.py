"""Everything that must hold before a change is good; `make test` runs it.

    python -m tests.run                    all of it
    python -m tests.run lint               the static checks only; also: sqlite, postgres, measured

First it looks for PostgreSQL, Redis, RabbitMQ and Chromium. What it finds is handed to the tests as TEST_DATABASE_URL,
TEST_REDIS_URL, TEST_BROKER_URL and TEST_CHROMIUM (set one of them to name another than the usual address); tests that
need what is missing skip themselves. With CI=true everything must be there. All steps run even if one fails; the last
line counts the tests.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import psycopg
from amqp.exceptions import AMQPError
from kombu import Connection
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from tests.fixtures import warm

PROJECT = Path(__file__).parent.parent
PYTHON = sys.executable
TOOLS = Path(PYTHON).parent
IS_CI = os.environ.get("CI", "").lower() in ("1", "true")

CONNECT_SECONDS = 3
STATIC_SECONDS = 600
PYTEST_SECONDS = 1800
WORKERS = ("-n", "4", "--dist", "loadfile", "--no-loadscope-reorder")
"""Twice as many as the cores we count on: the longest tests wait for processes that they have started."""

POSTGRES_USERS = ("postgres", "root")
PLATFORM_VARIABLES = ("GATEHOUSE_", "DATABASE_URL", "REDIS_URL", "BROKER_URL", "VECTOR_URL")

NEEDS_NO_POSTGRES = "not postgres_only and not measured"
NEEDS_NO_SQLITE = "not sqlite_only and not measured and (both or not (embedded_only or slow_process or once))"
RUNS_ALONE = "measured and not postgres_only"


@dataclass
class Service:
    """Something outside this project that tests use when it is there."""

    name: str
    variable: str
    find: Callable[[str | None], str | None]
    address: str | None = None

    def look(self) -> None:
        """Find the service, at the address of its variable if that is set, and say so."""
        self.address = self.find(os.environ.get(self.variable))
        print(f"{self.name}: {'found' if self.address else 'not found'}", flush=True)


def find_postgres(named: str | None) -> str | None:
    """The address of a PostgreSQL on which databases may be created."""
    usual = [f"postgres://{user}@127.0.0.1:5432/gatehouse" for user in POSTGRES_USERS]
    return next(filter(may_create_databases, [named] if named else usual), None)


def may_create_databases(url: str) -> bool:
    """Whether the server answers and its user may create the databases of the tests."""
    server = url.rpartition("/")[0] + "/postgres"
    question = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
    try:
        with psycopg.connect(server, connect_timeout=CONNECT_SECONDS) as connection:
            return connection.execute(question).fetchone() == (True,)
    except psycopg.Error:
        return False


def find_redis(named: str | None) -> str | None:
    """The address of a Redis that answers."""
    url = named or "redis://127.0.0.1:6379/0"
    try:
        with Redis.from_url(url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS) as client:
            client.ping()
    except (RedisError, OSError):
        return None
    return url


def find_rabbitmq(named: str | None) -> str | None:
    """The address of a RabbitMQ that lets us in."""
    url = named or "amqp://guest:guest@127.0.0.1:5672//"
    try:
        with Connection(url, connect_timeout=CONNECT_SECONDS) as connection:
            connection.connect()
    except (OperationalError, AMQPError, OSError):
        return None
    return url


def find_chromium(named: str | None) -> str | None:
    """The Chromium executable; in CI, where we may, Debian's package is installed."""
    found = named or shutil.which("chromium", path="/usr/bin")
    if found is None and IS_CI and os.geteuid() == 0 and shutil.which("apt-get"):
        install_chromium()
        found = shutil.which("chromium", path="/usr/bin")
    return found


def install_chromium() -> None:
    """Install Debian's package; a failure shows in Chromium still missing."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
        subprocess.run(command, env=quiet, check=False, stdout=subprocess.DEVNULL)


def services() -> list[Service]:
    """What the tests can use."""
    return [
        Service("PostgreSQL", "TEST_DATABASE_URL", find_postgres),
        Service("Redis", "TEST_REDIS_URL", find_redis),
        Service("RabbitMQ", "TEST_BROKER_URL", find_rabbitmq),
        Service("Chromium", "TEST_CHROMIUM", find_chromium),
    ]


@dataclass
class Step:
    """One command that must succeed; one with a report file is a run of pytest and is counted."""

    name: str
    command: Sequence[str | Path]
    env: Mapping[str, str]
    report: Path | None = None
    seconds: float = 0
    problem: str | None = None

    @property
    def is_static(self) -> bool:
        """Whether this looks at the code without running it: such steps may run side by side."""
        return self.report is None

    def run(self) -> "Step":
        """Run the command; a static check shows its output at the end, pytest as it goes."""
        started = time.monotonic()
        output = subprocess.PIPE if self.is_static else None
        limit = STATIC_SECONDS if self.is_static else PYTEST_SECONDS
        try:
            done = subprocess.run(
                self.command, cwd=PROJECT, env=self.env, timeout=limit, check=False,
                stdout=output, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            self.problem = self.judge(done.returncode, done.stdout or "")
        except (OSError, subprocess.TimeoutExpired) as error:
            self.problem = str(error)
        self.seconds = time.monotonic() - started
        return self

    def judge(self, status: int, output: str) -> str | None:
        """What is wrong, if anything; that no test was selected is not."""
        nothing_selected = 5
        if status == 0 or (self.report and status == nothing_selected):
            return None
        return output.strip() or f"ended with status {status}"


@dataclass
class Count:
    """How many tests did what."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, step: Step) -> None:
        """Add what the report of a run says; a run that broke off without one is a failure."""
        if step.report and step.report.exists():
            for suite in ElementTree.parse(step.report).iter("testsuite"):  # noqa: S314 - written by our own pytest
                self.add_suite(suite.attrib)
        elif step.report and step.problem:
            self.failed += 1

    def add_suite(self, numbers: Mapping[str, str]) -> None:
        """Add one suite of a JUnit report."""
        failed = int(numbers["failures"]) + int(numbers["errors"])
        skipped = int(numbers["skipped"])
        self.failed += failed
        self.skipped += skipped
        self.passed += max(0, int(numbers["tests"]) - failed - skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


@dataclass
class Plan:
    """The steps of one run, in order, and what they share."""

    folder: Path
    found: list[Service]
    warm_socket: str
    groups: dict[str, list[Step]] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = {
            "lint": list(self.static_checks()),
            "sqlite": list(self.sqlite_tests()),
            "postgres": list(self.postgres_tests()),
            "measured": [self.pytest("measured tests", RUNS_ALONE, "-n", "0")],
        }

    def environment(self, name: str, **more: str) -> dict[str, str]:
        """Our environment without settings of a platform, with a data folder that is thrown away."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(PLATFORM_VARIABLES)}
        addresses = {service.variable: service.address for service in self.found if service.address}
        data = self.folder / name.replace(" ", "-")
        data.mkdir(mode=0o700, exist_ok=True)
        return {**kept, **addresses, warm.VARIABLE: self.warm_socket, "GATEHOUSE_DATA": str(data), **more}

    def static_checks(self) -> Iterator[Step]:
        """What needs no test to be seen; the slowest first, because two run at a time."""
        commands: dict[str, list[str | Path]] = {
            "mypy": [TOOLS / "mypy", "apps", "config", "tests/run.py", "tests/fixtures"],
            "secrets": [PYTHON, "-m", "tests.static.spills"],
            "house rules": [PYTHON, "-m", "tests.static.rules"],
            "locks, licences": [PYTHON, "-m", "tests.static.supply"],
            "ruff check": [TOOLS / "ruff", "check", "--output-format=concise", "."],
            "ruff format": [TOOLS / "ruff", "format", "--check", "."],
            "lint-imports": [TOOLS / "lint-imports"],
            "migrations": [PYTHON, "manage.py", "makemigrations", "--check", "--dry-run"],
        }
        for name, command in commands.items():
            yield Step(name, command, self.environment(name))

    def sqlite_tests(self) -> Iterator[Step]:
        """The tests on SQLite, after the servers of npm that some of them start."""
        yield Step("npm fixtures", [PYTHON, "-m", "tests.fixtures.node_tools"], self.environment("npm"))
        yield self.pytest("tests on SQLite", NEEDS_NO_POSTGRES, *WORKERS)

    def postgres_tests(self) -> Iterator[Step]:
        """The tests on PostgreSQL, if there is one."""
        address = next((service.address for service in self.found if service.name == "PostgreSQL"), None)
        if address:
            yield self.pytest("tests on PostgreSQL", NEEDS_NO_SQLITE, *WORKERS, DATABASE_URL=address)

    def pytest(self, name: str, markers: str, *options: str, **env: str) -> Step:
        """A run of the tests with these markers."""
        report = self.folder / f"{name.replace(' ', '-')}.xml"
        command = [PYTHON, "-m", "pytest", "-q", "-m", markers, f"--junit-xml={report}", *options]
        return Step(name, command, self.environment(name, **env), report)


def run(steps: Sequence[Step]) -> list[Step]:
    """Run the static checks two at a time, then the tests one run after the other: they share time limits."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = [show(step) for step in pool.map(Step.run, [step for step in steps if step.is_static])]
    for step in steps:
        if not step.is_static:
            print(f"\n{step.name}:", flush=True)
            done.append(show(step.run()))
    return done


def show(step: Step) -> Step:
    """Say how a step ended."""
    print(f"{step.name}: {'FAILED' if step.problem else 'ok'} ({step.seconds:.0f} s)", flush=True)
    if step.problem and step.is_static:
        print(step.problem, flush=True)
    return step


def missing_in_ci(found: Sequence[Service]) -> list[str]:
    """One sentence for every service that CI must have and has not."""
    return [f"CI must have {service.name}, and it was not found." for service in found if IS_CI and not service.address]


def main() -> int:
    """Run what was asked for; the status is 0 only if nothing is wrong."""
    names = ("lint", "sqlite", "postgres", "measured")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="|".join(names), help="nothing means all of them")
    chosen = parser.parse_args().groups or names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")

    # Hundreds of processes would compile anew what they import, and pytest each file of tests in every worker.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    found = [] if set(chosen) == {"lint"} else services()
    for service in found:
        service.look()
    with tempfile.TemporaryDirectory(prefix="gatehouse-tests-") as folder:
        plan = Plan(Path(folder), found, warm.start() if found else "")
        done = run([step for name in chosen for step in plan.groups[name]])
        count = Count()
        for step in done:
            count.add(step)
    return conclude(done, count, missing_in_ci(found))


def conclude(done: Sequence[Step], count: Count, missing: Sequence[str]) -> int:
    """Say what failed, and how many tests passed in the very last line."""
    failed = [step.name for step in done if step.problem]
    has_tests = any(not step.is_static for step in done)
    print()
    for sentence in missing:
        print(sentence)
    if failed:
        print(f"Failed: {', '.join(failed)}.")
    if has_tests and not count.passed:
        print("No test passed.")
    print(count if has_tests else f"{len(done) - len(failed)} checks passed, {len(failed)} failed", flush=True)
    return 1 if failed or missing or (has_tests and not count.passed) else 0


if __name__ == "__main__":
    sys.exit(main())
