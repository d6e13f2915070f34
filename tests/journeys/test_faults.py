"""A platform whose process, disk or database fails: callers are told, nothing is half done, work goes on afterwards."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings as django_settings
from django.db import connection

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.auth import services as auth
from apps.jobs.models import Job
from apps.registry.models import Server
from tests.fixtures.servers import PROJECT, free_port, url_answers
from tests.gateway.agent import MODERN, Agent
from tests.jobs.nursery import Child, Nursery
from tests.journeys.platform import Platform
from tests.journeys.rest import signed_in
from tests.live import Answer, Client
from tests.people import Person
from tests.waiting import wait_until

pytestmark = pytest.mark.slow_process

SERVERS = "/api/v1/mcp/servers"
KILLS = int(os.environ.get("TEST_KILLS", "3"))
WRITERS = 4
RECOVERY_SECONDS = float(os.environ.get("TEST_RECOVERY_SECONDS", "30"))
"""Promised are ten, on a machine that does nothing else: set TEST_RECOVERY_SECONDS to see it."""
"""docs/operations.md says ten, of a machine that has nothing else to do."""
SMALL_DISK = "8m"


def new_server(number: object) -> dict[str, Any]:
    """A server that nobody can reach."""
    return {"name": f"S {number}", "slug": f"s-{number}", "url": "http://good.invalid/mcp", "description": "d" * 1000}


# Killed in the middle of requests --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nursery(django_db_setup, tmp_path_factory) -> Iterator[Nursery]:
    """Starts platforms on this test's database."""
    env = {"GATEHOUSE_PORT": str(free_port()), "GATEHOUSE_JOB_LEASE_SECONDS": "2"}
    with Nursery(tmp_path_factory.mktemp("nursery"), ("up",), env) as made:
        yield made


@dataclass
class Callers:
    """Threads that use the platform until told to stop, and what they were answered."""

    person: Person
    url: str
    key: str
    answers: list[Answer] = field(default_factory=list)
    refusals: list[Exception] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, round_number: int) -> None:
        """Four that register servers, one that calls tools."""
        self.stopping.clear()
        ways = [lambda name=name: self.register(f"{round_number}-{name}") for name in range(WRITERS)]
        self.threads = [threading.Thread(target=self.repeat, args=(way,)) for way in [*ways, self.call_tool]]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Let each end its request."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)

    def repeat(self, way: Any) -> None:
        """Do it again and again; a connection that breaks is noted."""
        while not self.stopping.is_set():
            try:
                self.answers.append(way())
            except (OSError, HTTPException) as error:
                self.refusals.append(error)
                self.stopping.wait(0.05)

    def register(self, name: str) -> Answer:
        """Register one more server."""
        client = Client(self.url, {"Authorization": f"Bearer {self.key}"})
        return client.post(SERVERS, new_server(f"{name}-{time.monotonic_ns() % 10**9}"), timeout=20)

    def call_tool(self) -> Answer:
        """Call a tool of the platform's own."""
        agent = Agent(self.url, self.key, MODERN, timeout=20)
        return agent.send("tools/call", {"name": "platform_metadata", "arguments": {}})

    @property
    def registered(self) -> set[str]:
        """The ids that callers were given."""
        return {answer.json()["id"] for answer in self.answers if answer.status == 201}


def ready(child: Child, url: str) -> bool:
    """Whether the platform may be used; an error when it has ended."""
    assert child.is_alive(), child.output()
    return url_answers(f"{url}/live") and Client(url).get("/ready").status == 200


@pytest.fixture
def callers(alice, nursery) -> Callers:
    """People and agents of Alice."""
    key = auth.create_key(alice.actor, name="callers").plain
    return Callers(alice, f"http://127.0.0.1:{nursery.env['GATEHOUSE_PORT']}", key)


@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_a_platform_that_is_killed_amid_requests_leaves_no_half_row(nursery, callers):
    for number in range(KILLS):
        platform = nursery.start("up", "--no-demo")
        wait_until(lambda: ready(platform, callers.url), seconds=120)  # noqa: B023 - asked at once
        before = len(callers.answers)
        callers.start(number)
        wait_until(lambda: len(callers.answers) > before + 5)  # noqa: B023 - asked at once
        time.sleep(number * 0.07)
        platform.kill()
        callers.stop()

    assert {answer.status for answer in callers.answers} == {200, 201}
    assert all(json.loads(answer.body) for answer in callers.answers)
    assert len(callers.refusals) >= KILLS
    ids = Counter(str(pk) for pk in Server.objects.values_list("pk", flat=True))
    entries = Counter(Entry.objects.filter(action="server.registered").values_list("subject_id", flat=True))
    jobs = Counter(job.arguments["server_id"] for job in Job.objects.filter(kind="registry.discover"))
    assert ids == entries == jobs
    assert callers.registered <= set(ids)
    assert audit.verify() == []


@pytest.mark.sqlite_only
@pytest.mark.django_db(transaction=True)
def test_writers_a_long_reader_and_killed_writers_lock_nobody_out_of_sqlite(nursery, callers):
    file, organization = connection.settings_dict["NAME"], str(callers.person.organization.id)
    platform = nursery.start("up", "--no-demo")
    wait_until(lambda: ready(platform, callers.url), seconds=120)
    reader = sqlite3.connect(file)
    reader.execute("BEGIN")
    seen = reader.execute("SELECT count(*) FROM audit_entry").fetchone()
    writers = [nursery.start("write", organization, f"w{number}") for number in range(WRITERS)]

    callers.start(0)
    for number in range(2 * WRITERS):
        time.sleep(0.25)
        writers[number % WRITERS].kill()
        writers.append(nursery.start("write", organization, f"again-{number}"))
        writers[number % WRITERS] = writers[-1]
    callers.stop()
    for each in [*writers, platform]:
        each.kill()

    assert reader.execute("SELECT count(*) FROM audit_entry").fetchone() == seen
    reader.close()
    assert callers.refusals == [] and {answer.status for answer in callers.answers} == {200, 201}
    assert [child.output() for child in nursery.children if "failed" in child.output()] == []
    assert Entry.objects.filter(action="writer.wrote").count() > 2 * WRITERS
    assert Path(f"{file}-wal").exists()
    with sqlite3.connect(file) as checked:
        assert checked.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert Server.objects.count() == len(callers.registered)
    assert audit.verify() == []


# A small disk ----------------------------------------------------------------------------------------------------


def can_mount() -> bool:
    """Whether this user may have a mount namespace of its own."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


class Boxed(Platform):
    """A platform whose data folder is a small file system that nobody else sees."""

    def __init__(self, data: Path) -> None:
        super().__init__(data, "--no-demo")
        mount = f"mount -t tmpfs -o size={SMALL_DISK} gatehouse {data} && exec " + " ".join(self.command)
        self.command = ["unshare", "-rm", "sh", "-c", mount]

    @property
    def seen_from_outside(self) -> Path:
        """The data folder."""
        return Path(f"/proc/{self.pid}/root{self.data}")

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run another command in the same box."""
        inside = ["nsenter", "-t", str(self.pid), "-U", "-m", "--preserve-credentials"]
        return subprocess.run(
            [*inside, sys.executable, str(PROJECT / "manage.py"), *arguments],
            cwd=PROJECT, env=self.env, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    def fill(self) -> Path:
        """A file that takes all the room there is."""
        ballast = self.seen_from_outside / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        return ballast


@pytest.fixture(scope="module")
def boxed(tmp_path_factory) -> Iterator[Boxed]:
    """A platform on eight megabytes."""
    if not can_mount():
        pytest.skip("this user may mount nothing")
    with Boxed(tmp_path_factory.mktemp("small")) as platform:
        yield platform


@pytest.fixture(scope="module")
def developer(boxed) -> Client:
    """Somebody who registers servers there."""
    return signed_in(boxed, "developer")


def refused(client: Client, name: str, most: int = 400) -> tuple[Answer, int]:
    """Register servers until one is refused; the refusal, and how many were taken."""
    for number in range(most):
        answer = client.post(SERVERS, new_server(f"{name}-{number}"))
        if answer.status != 201:
            return answer, number
    raise AssertionError("nothing was refused")


def wholly_well(client: Client) -> bool:
    """Whether every part of the platform is."""
    return Client(client.base).get("/health").status == 200


def assert_takes_changes_again(client: Client, name: str) -> None:
    """Soon after the cause is gone a change is taken and everything is well."""
    wait_until(lambda: client.post(SERVERS, new_server(name)).status == 201, seconds=RECOVERY_SECONDS)
    wait_until(lambda: wholly_well(client), seconds=RECOVERY_SECONDS)


def test_a_full_disk_refuses_changes_says_so_and_passes(boxed, developer):
    wait_until(lambda: wholly_well(developer))
    known = developer.get(SERVERS).json()["total"]

    ballast = boxed.fill()
    answer, taken = refused(developer, "full")
    listed = developer.get(f"{SERVERS}?page_size=1")
    wait_until(lambda: not wholly_well(developer))
    told = Client(developer.base).get("/health").json()["checks"]["data folder"]
    agent = Agent(boxed.url, boxed.provision()["keys"]["developer"], MODERN)
    called = agent.send("tools/call", {"name": "platform_metadata", "arguments": {}})

    assert answer.status == 503 and answer.json()["error"]["code"] == "BACKEND_DOWN"
    assert answer.json()["error"]["message"].startswith(("The database has no room left.", "The database cannot be wr"))
    assert answer.headers["retry-after"]
    assert (listed.status, listed.json()["total"]) == (200, known + taken)
    assert called.status == 200 and not called.json()["result"].get("isError")
    assert (told["ok"], "disk is full" in told["message"]) == (False, True)
    ballast.unlink()
    assert_takes_changes_again(developer, "after-full")
    assert developer.get(SERVERS).json()["total"] == known + taken + 1


def test_errors_of_writing_are_told_and_pass(boxed, developer):
    """The kernel refuses to let any file grow, as a disk that fails does."""
    process = psutil.Process(boxed.pid)
    known = developer.get(SERVERS).json()["total"]

    process.rlimit(psutil.RLIMIT_FSIZE, (64 * 1024, psutil.RLIM_INFINITY))
    answer, taken = refused(developer, "failing")
    listed = developer.get(f"{SERVERS}?page_size=1")
    process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))

    assert answer.status == 503 and answer.json()["error"]["message"].startswith("The database cannot be written.")
    assert (listed.status, listed.json()["total"]) == (200, known + taken)
    assert_takes_changes_again(developer, "after-failing")
    assert boxed.manage("audit_verify").returncode == 0
    assert "Traceback" not in answer.text and boxed.popen.poll() is None


@pytest.mark.parametrize("kept", [False, True])
def test_a_data_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path, kept):
    if not can_mount():
        pytest.skip("this user may mount nothing")
    if kept:
        shutil.copytree(django_settings.DATA_DIR / "secrets", tmp_path / "secrets")
    script = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path} && exec {sys.executable}"
    platform = Platform(tmp_path)

    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{script} manage.py up"],
        cwd=PROJECT, env=platform.env, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip

    assert done.returncode != 0
    assert "read-only file system" in done.stderr.lower() and str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) <= 2
