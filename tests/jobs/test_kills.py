"""Workers that are killed, stopped, frozen or starved: each job ends once, and what it does happens once.

    TEST_KILLS=50 python -m pytest tests/jobs/test_kills.py

kills fifty workers and fifty of their children for each broker; without the variable a few of each.
"""

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psutil
import pytest
from celery import Celery
from django.db import connection
from django.utils import timezone
from redis import Redis

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.jobs import services as jobs
from apps.jobs.models import Job, State
from apps.jobs.services import queue
from apps.jobs.services.work import OUT_OF_MEMORY
from tests.fixtures.servers import free_port
from tests.jobs import work
from tests.jobs.nursery import Child, Nursery
from tests.waiting import wait_until

KILLS = int(os.environ.get("TEST_KILLS", "4"))
LEASE_SECONDS = 2
WORK_SECONDS = 0.25
OPEN_JOBS = 6
MOST_ATTEMPTS = 1_000
"""That a job fails whose worker dies four times is shown elsewhere; here each is to end well, however often that is."""
ENDED = (State.COMPLETED, State.FAILED, State.CANCELLED)
VARIABLES = {"RabbitMQ": "TEST_BROKER_URL", "Redis": "TEST_REDIS_URL"}

pytestmark = [pytest.mark.slow_process, pytest.mark.django_db(transaction=True)]


class Nobody:
    """In place of a Celery app: jobs wait in the database until a worker looks there."""

    def send_task(self, *_: Any, **__: Any) -> None:
        """There is no broker."""
        raise OSError("no broker")


@dataclass
class Stage:
    """A broker, or none, and workers for it."""

    nursery: Nursery
    command: tuple[str, ...]
    env: dict[str, Any]
    conf: dict[str, Any]
    has_children: bool

    def worker(self) -> Child:
        """A worker that has begun."""
        return self.nursery.start(*self.command, env=self.env, conf=self.conf)


def stage_of(nursery: Nursery, url: str, name: str) -> Stage:
    """Workers of a broker outside have processes of their own; the embedded one is a part of the platform."""
    if not url:
        return Stage(nursery, ("up", "--no-demo"), {}, {}, has_children=False)
    conf = {"broker_url": url, "task_default_queue": name, "broker_transport_options": transport(url, name)}
    return Stage(nursery, ("up", "--role", "worker"), {"broker_url": url}, conf, has_children=True)


def transport(url: str, name: str) -> dict[str, Any]:
    """Redis keeps what is under way beside the queues: under a prefix of this test's own."""
    return {"global_keyprefix": f"{name}:"} if url.startswith("redis") else {}


def new_sender(url: str, name: str) -> Celery:
    """The way of this process into the queue."""
    sender = Celery(name, broker=url, set_as_current=False)
    sender.conf.update(task_default_queue=name, broker_transport_options=transport(url, name))
    return sender


def forget(sender: Celery, url: str, name: str) -> None:
    """Leave nothing at the broker."""
    if url.startswith("redis"):
        with Redis.from_url(url) as client:
            client.delete(*client.scan_iter(f"{name}:*"), "")
    else:
        with sender.connection_for_write() as connection:
            sender.amqp.queues[name].bind(connection.default_channel).delete()
    sender.close()


@pytest.fixture(scope="module")
def nursery(django_db_setup, tmp_path_factory) -> Iterator[Nursery]:
    """What starts all workers."""
    env = {
        "GATEHOUSE_JOB_LEASE_SECONDS": str(LEASE_SECONDS), "GATEHOUSE_JOBS_PER_ORGANIZATION": "20",
        "GATEHOUSE_PORT": str(free_port()),
    }  # fmt: skip
    with Nursery(tmp_path_factory.mktemp("nursery"), ("up",), env) as made:
        yield made


@pytest.fixture(params=["RabbitMQ", "Redis", "embedded"])
def stage(request, nursery, settings, monkeypatch) -> Iterator[Stage]:
    """Workers of one broker, with a queue of this test's own."""
    url = os.environ.get(VARIABLES.get(request.param, ""), "")
    if request.param in VARIABLES and not url:
        pytest.skip(f"{request.param} was not found")
    if connection.vendor == "postgresql" and request.param != "RabbitMQ" and "TEST_KILLS" not in os.environ:
        pytest.skip("with PostgreSQL, only the whole run has every broker: set TEST_KILLS")
    name = f"gatehouse-test-{uuid4().hex[:12]}"
    settings.TASK_APP = "tests.jobs.work.sender"
    settings.JOB_LEASE_SECONDS = LEASE_SECONDS
    sender = new_sender(url, name) if url else Nobody()
    monkeypatch.setattr(work, "sender", sender)
    monkeypatch.setattr(queue, "_leave_broker_until", 0.0)  # the stage before had no broker
    yield stage_of(nursery, url, name)
    for child in nursery.children:
        child.kill()
    if isinstance(sender, Celery):
        forget(sender, url, name)


@dataclass
class Story:
    """Jobs of one person, and how each of them ended when that was first seen."""

    person: Any
    has_schedule: bool
    made: list[Job] = field(default_factory=list)
    ends: dict[Any, tuple[Any, ...]] = field(default_factory=dict)

    def keep_busy(self) -> None:
        """Start jobs until some wait or run."""
        for _ in range(OPEN_JOBS - Job.objects.open().count()):
            word = f"w{len(self.made)}"
            self.made.append(jobs.start(self.person.actor, "tests.slow", seconds=WORK_SECONDS, word=word))
            Job.objects.filter(pk=self.made[-1].pk).update(max_attempts=MOST_ATTEMPTS)

    def look(self) -> bool:
        """Note the ends there are, send what was lost where no schedule does it; whether all have ended."""
        if not self.has_schedule:
            jobs.requeue_stale()
        for end in Job.objects.filter(state__in=ENDED).values_list("pk", "state", "finished_at", "attempts", "result"):
            assert self.ends.setdefault(end[0], end) == end, "a job ended twice"
        return len(self.ends) == len(self.made)

    def goes_on(self, worker: Child) -> bool:
        """Look, and start more work; an error when the worker has ended by itself."""
        assert worker.is_alive(), worker.output()
        self.look()
        self.keep_busy()
        return True

    def effects(self) -> Counter[str]:
        """How often the work of each job was done."""
        entries = Entry.objects.for_org(self.person.organization.id).filter(action="work.done")
        return Counter(entries.values_list("subject", flat=True))

    def attempts(self) -> int:
        """How often jobs were begun beyond the first time."""
        return sum(Job.objects.values_list("attempts", flat=True)) - len(self.made)


def running() -> set[tuple[Any, ...]]:
    """The leases that are held now."""
    return set(Job.objects.filter(state=State.RUNNING).values_list("pk", "lease"))


def kill_worker(stage: Stage, worker: Child) -> Child:
    """The worker dies with everything it has started, and another begins."""
    worker.kill()
    return stage.worker()


def kill_children(stage: Stage, worker: Child) -> Child:
    """Only the processes in which jobs run die."""
    for process in worker.children():
        process.send_signal(signal.SIGKILL)
    return worker


def run_story(story: Story, stage: Stage, kill: Any) -> None:
    """Kill in the middle of work, again and again, then let everything end."""
    worker, seen = stage.worker(), set[Any]()
    for _ in range(KILLS):
        wait_until(lambda: story.goes_on(worker) and bool(running() - seen))  # noqa: B023 - asked at once
        time.sleep(random.uniform(0, 2 * WORK_SECONDS))
        seen = running()
        worker = kill(stage, worker)
    wait_until(lambda: worker.is_alive() and story.look(), seconds=120)


@pytest.mark.both
@pytest.mark.parametrize("killed", [kill_worker, kill_children])
def test_jobs_of_killed_workers_end_once_and_their_effect_happens_once(alice, stage, killed):
    if killed is kill_children and not stage.has_children:
        pytest.skip("the embedded worker has no child processes")
    story = Story(alice, has_schedule=not stage.has_children)

    run_story(story, stage, killed)

    print(f"\n{KILLS} kills: {len(story.made)} jobs ended once and well, {story.attempts()} attempts were lost")
    assert story.look() and count(State.COMPLETED) == Job.objects.count() == len(story.made)
    assert story.effects() == Counter(job.arguments["word"] for job in story.made)
    assert story.attempts() >= KILLS / 2
    assert audit.verify() == []


@pytest.mark.both
def test_a_job_whose_message_comes_many_times_has_one_effect(alice, stage):
    if not stage.has_children:
        pytest.skip("the embedded broker takes no message from outside")
    story = Story(alice, has_schedule=False, made=start_jobs(alice, 1, 0.5))
    for _ in range(10):
        assert queue.send(story.made[0].id, "tests.slow")
    stage.worker()

    wait_until(story.look)
    last = jobs.start(alice.actor, "tests.quick", word="last")
    wait_until(lambda: fresh(last).state == State.COMPLETED)

    assert (story.effects(), fresh(story.made[0]).attempts) == (Counter({"w0": 1}), 1)


# Told to end, frozen, starved ------------------------------------------------------------------------------------


NO_MATTER_WHICH_BROKER = pytest.mark.parametrize("stage", ["RabbitMQ", "embedded"], indirect=True)


def start_jobs(person: Any, count: int, seconds: float) -> list[Job]:
    """Jobs that take their time."""
    return [jobs.start(person.actor, "tests.slow", seconds=seconds, word=f"w{number}") for number in range(count)]


def fresh(job: Job) -> Job:
    """The row as it is now."""
    return Job.objects.get(pk=job.pk)


def count(state: State) -> int:
    """How many jobs stand there."""
    return Job.objects.filter(state=state).count()


def until_so_many_run(number: int) -> None:
    """Return as soon as so many jobs run; a message that got lost with a worker is sent again, as the schedule does."""

    def look() -> bool:
        jobs.requeue_stale()
        return count(State.RUNNING) == number

    wait_until(look)


@pytest.mark.both
@pytest.mark.parametrize(("stage", "signals"), [("RabbitMQ", 1), ("RabbitMQ", 2), ("embedded", 2)], indirect=["stage"])
def test_a_worker_that_is_told_to_end_finishes_what_it_does_and_takes_no_more(alice, stage, signals):
    slots = 2 if stage.has_children else 4
    worker = stage.worker()
    made = start_jobs(alice, slots, 1.5)
    until_so_many_run(slots)

    for _ in range(signals):
        worker.send(signal.SIGTERM)
        time.sleep(0.2)
    later = start_jobs(alice, 1, 0.1)[0]
    worker.wait()

    assert {(fresh(job).state, fresh(job).attempts) for job in made} <= {(State.COMPLETED, 1), (State.PENDING, 0)}
    if stage.has_children:
        assert fresh(later).state == State.PENDING
        assert count(State.COMPLETED) == slots
    story = Story(alice, not stage.has_children, [*made, later])
    stage.worker()
    wait_until(story.look)
    assert story.effects() == Counter({"w0": 2} | {f"w{number}": 1 for number in range(1, slots)})


@pytest.mark.both
@NO_MATTER_WHICH_BROKER
def test_what_a_worker_did_when_its_time_was_up_is_done_by_the_next(alice, stage):
    worker = stage.worker()
    job = start_jobs(alice, 1, 3.0)[0]
    until_so_many_run(1)

    worker.send(signal.SIGTERM)
    time.sleep(0.3)
    worker.kill()
    stage.worker()

    story = Story(alice, not stage.has_children, [job])
    wait_until(story.look)
    assert (fresh(job).state, fresh(job).attempts, story.effects()) == (State.COMPLETED, 2, Counter({"w0": 1}))


@pytest.mark.both
@NO_MATTER_WHICH_BROKER
def test_a_frozen_worker_that_goes_on_ends_no_job_that_another_has_taken(alice, stage):
    """The embedded worker is frozen with its web server and its schedule, and takes its own job from itself."""
    frozen = stage.worker()
    job = start_jobs(alice, 1, 1.0)[0]
    until_so_many_run(1)
    lease = fresh(job).lease

    for process in [frozen, *frozen.children()]:
        freeze(process)
    if stage.has_children:
        stage.worker()
    else:
        time.sleep(LEASE_SECONDS + 0.5)
        thaw(frozen)
    story = Story(alice, not stage.has_children, [job])
    wait_until(story.look)
    ended = fresh(job)
    for process in [frozen, *frozen.children()]:
        thaw(process)
    time.sleep(1.5)

    assert story.look() and fresh(job).updated_at == ended.updated_at
    assert (ended.state, story.effects()) == (State.COMPLETED, Counter({"w0": 1}))
    assert not stage.has_children or (ended.attempts == 2 and ended.lease != lease)


def freeze(process: Any) -> None:
    """SIGSTOP."""
    psutil.Process(process.pid).suspend()


def thaw(process: Any) -> None:
    """SIGCONT."""
    psutil.Process(process.pid).resume()


@pytest.mark.both
@NO_MATTER_WHICH_BROKER
def test_a_job_that_needs_too_much_memory_shows_it_and_is_tried_again(alice, stage):
    if not stage.has_children:
        pytest.skip("a limit on the embedded worker would be one on the web server")
    story = Story(alice, has_schedule=False, made=start_jobs(alice, 2, 0.3))
    worker = stage.worker()
    wait_until(story.look)

    for process in worker.children():
        process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + 64 * 2**20, psutil.RLIM_INFINITY))
    job = jobs.start(alice.actor, "tests.greedy", megabytes=512)
    wait_until(lambda: fresh(job).error)

    assert (fresh(job).state, fresh(job).attempts, fresh(job).error["message"]) == (State.PENDING, 1, OUT_OF_MEMORY)
    for process in worker.children():
        process.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    Job.objects.filter(pk=job.pk).update(run_after=timezone.now())
    jobs.requeue_stale()
    wait_until(lambda: fresh(job).state == State.COMPLETED)
    assert (fresh(job).attempts, fresh(job).result) == (2, {"megabytes": 512})


# Two beats ---------------------------------------------------------------------------------------------------------


SCHEDULED = "tests.scheduled"
EVERY_SECONDS = 3
FIRINGS = 4


def firings(stage: Stage) -> Iterator[datetime]:
    """When each start of the test's schedule was sent, as beat itself says it: its messages expire so much later."""
    with Celery(broker=stage.conf["broker_url"]).connection_for_read() as broker:
        queue = broker.SimpleQueue(stage.conf["task_default_queue"])
        last = time.monotonic()
        while time.monotonic() < last + 60:
            message = queue.get(timeout=60)
            message.ack()
            if message.headers["task"] == SCHEDULED:
                last = time.monotonic()
                yield datetime.fromisoformat(message.headers["expires"]) - timedelta(seconds=EVERY_SECONDS)


@pytest.mark.both
@pytest.mark.parametrize("stage", ["RabbitMQ"], indirect=True)
def test_of_two_beats_of_which_one_is_killed_in_turn_each_start_comes_once(stage):
    jobs.ensure_schedule("tests", SCHEDULED, EVERY_SECONDS)
    command = ("up", "--role", "beat")
    beats = [stage.nursery.start(*command, env=stage.env, conf=stage.conf) for _ in range(2)]
    wait_until(lambda: all("the beat is ready" in beat.output() for beat in beats))

    seen, times = firings(stage), list[datetime]()
    for number in range(FIRINGS):
        times.append(next(seen))
        if number % 2 == 0:
            beats.pop(0).kill()
        else:
            beats.append(stage.nursery.start(*command, env=stage.env, conf=stage.conf))

    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    assert min(gaps) > EVERY_SECONDS / 2, gaps
    assert max(gaps) < 3 * EVERY_SECONDS, gaps
