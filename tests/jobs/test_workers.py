"""Real workers: in this process, and in processes that are killed in the middle of their work."""

import os
import signal
import subprocess
import sys
import time
from uuid import uuid4

import psutil
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from redis import Redis

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.jobs import services as jobs
from apps.jobs.models import Job, State
from apps.jobs.services import queue
from config.celery import app
from tests.jobs import work
from tests.processes import PROJECT, environment

ENDED = (State.COMPLETED, State.FAILED, State.CANCELLED)


def wait_until(question, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def states(made):
    return sorted(Job.objects.filter(pk__in=[job.pk for job in made]).values_list("state", flat=True))


def effects(person):
    return Entry.objects.for_org(person.organization.id).filter(action="work.done").count()


@pytest.mark.django_db(transaction=True)
def test_a_worker_in_this_process_runs_what_is_started(alice):
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=20):
        good = [jobs.start(alice.actor, "tests.quick", word=f"w{number}") for number in range(10)]
        bad = jobs.start(alice.actor, "tests.refuse")
        wait_until(lambda: states([*good, bad]) == [State.COMPLETED] * 10 + [State.FAILED])

    assert sorted(job.result["word"] for job in Job.objects.filter(kind="tests.quick")) == [f"w{n}" for n in range(10)]


class Worker:
    """A Celery worker with processes of its own, listening to one queue."""

    def __init__(self, broker_url: str, name: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "config.celery", "worker", "-Q", name, "-I", "tests.jobs.work",
                   "-P", "prefork", "-c", "2", "--without-gossip", "--without-mingle", "-l", "WARNING"]  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=PROJECT, env=environment(BROKER_URL=broker_url), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL for the worker and its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def kill_children(self) -> None:
        """SIGKILL for the children only."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()


@pytest.fixture(params=["RabbitMQ", "Redis"])
def broker(request, settings, monkeypatch):
    """A queue of this test's own on a real broker, and a way to start workers for it."""
    url = os.environ.get({"RabbitMQ": "TEST_BROKER_URL", "Redis": "TEST_REDIS_URL"}[request.param])
    if not url:
        pytest.skip(f"{request.param} was not found")
    name = f"gatehouse-test-{uuid4().hex[:12]}"
    sender = Celery(name, broker=url, set_as_current=False)
    sender.conf.task_default_queue = name
    monkeypatch.setattr(work, "sender", sender)
    monkeypatch.setattr(queue, "LEASE_SECONDS", 2)
    monkeypatch.setattr(queue, "RESEND_SECONDS", 5)
    settings.TASK_APP = "tests.jobs.work.sender"
    workers = []

    def start():
        workers.append(Worker(url, name))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()
    with sender.connection_for_write() as connection:
        sender.amqp.queues[name].bind(connection.default_channel).delete()
    sender.close()
    if url.startswith("redis"):
        with Redis.from_url(url) as client:
            client.delete(f"_kombu.binding.{name}", f"_kombu.binding_permanent.{name}")


@pytest.mark.slow_process
@pytest.mark.both
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("killed", ["worker", "children"])
def test_jobs_of_a_killed_worker_end_once_and_their_effect_happens_once(alice, broker, killed):
    made = [jobs.start(alice.actor, "tests.slow", seconds=1.5, word=f"w{number}") for number in range(4)]
    worker = broker()
    wait_until(lambda: State.RUNNING in states(made), 60)
    time.sleep(0.3)

    if killed == "worker":
        worker.kill()
        broker()
    else:
        worker.kill_children()

    def all_ended():
        jobs.requeue_stale()
        return all(state in ENDED for state in states(made))

    wait_until(all_ended, 60)
    assert states(made) == [State.COMPLETED] * 4
    assert effects(alice) == 4
    assert max(Job.objects.values_list("attempts", flat=True)) == 2
    assert audit.verify() == []


@pytest.mark.slow_process
@pytest.mark.both
@pytest.mark.django_db(transaction=True)
def test_a_job_whose_message_comes_many_times_has_one_effect(alice, broker):
    job = jobs.start(alice.actor, "tests.slow", seconds=0.5, word="x")
    for _ in range(10):
        assert queue.send(job.id, "tests.slow")
    broker()

    wait_until(lambda: states([job]) == [State.COMPLETED], 60)
    last = jobs.start(alice.actor, "tests.quick", word="last")
    wait_until(lambda: states([last]) == [State.COMPLETED], 60)

    assert effects(alice) == 1
    assert Job.objects.get(pk=job.pk).attempts == 1
