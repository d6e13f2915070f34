"""Jobs that a broker was not there for: each is done when it is back, and once.

    TEST_JOBS=1000 python -m pytest tests/growing/test_broker.py

takes a thousand; without the variable some.
"""

import os
import time
from collections import Counter
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from apps.jobs import services as jobs
from apps.jobs.models import Job, State
from tests.fixtures.faults import FaultProxy, eventually
from tests.jobs import work
from tests.jobs.nursery import Nursery
from tests.jobs.test_kills import forget, new_sender, transport

pytestmark = [pytest.mark.slow_process, pytest.mark.both, pytest.mark.django_db(transaction=True)]

JOBS = int(os.environ.get("TEST_JOBS", "200"))


@pytest.fixture
def proxy(tmp_path, settings, monkeypatch):
    """The way to a real broker, a worker behind it that has begun, and this process's own way in."""
    url = os.environ.get("TEST_BROKER_URL") or os.environ.get("TEST_REDIS_URL")
    if not url:
        pytest.skip("neither RabbitMQ nor Redis was found")
    parts, name = urlsplit(url), f"gatehouse-test-{uuid4().hex[:12]}"
    with FaultProxy(parts.port or 5672, parts.hostname or "127.0.0.1") as proxy:
        through = url.replace(f":{parts.port}", f":{proxy.port}") if parts.port else url
        sender = new_sender(through, name)
        sender.conf.broker_transport_options |= {"max_retries": 1, "interval_start": 0, "connect_retries_timeout": 2}
        monkeypatch.setattr(work, "sender", sender)
        settings.TASK_APP = "tests.jobs.work.sender"
        conf = {"task_default_queue": name, "broker_transport_options": transport(url, name)}
        with Nursery(tmp_path, (), {"BROKER_URL": through, "GATEHOUSE_JOBS_PER_ORGANIZATION": "20"}) as nursery:
            worker = nursery.start("up", "--role", "worker", conf=conf)
            assert eventually(lambda: worker.log.exists() and "is ready" in worker.output(), 60)
            yield proxy
        forget(sender, url, name)


def test_jobs_wait_for_a_broker_that_is_away_and_are_done_once_each(alice, proxy):
    proxy.set("refuse")
    began = time.monotonic()
    for number in range(JOBS):
        jobs.start(alice.actor, "tests.quick", word=f"w{number}")
    seconds = time.monotonic() - began
    waiting = Job.objects.filter(state=State.PENDING, sent_at=None).count()
    proxy.set("pass")

    def all_done() -> bool:
        jobs.requeue_stale()
        return not Job.objects.open().exists()

    assert eventually(all_done, 30 + JOBS / 3, pause=0.5), Counter(Job.objects.values_list("state", flat=True))
    print(f"\n{JOBS} jobs were taken in {seconds:.1f} s without a broker, and done in {time.monotonic() - began:.1f} s")
    assert waiting == JOBS
    ends = Counter(Job.objects.values_list("state", "attempts"))
    assert ends == {(State.COMPLETED, 1): JOBS}, "each was begun once"
    assert {job.result["word"] for job in Job.objects.all()} == {f"w{number}" for number in range(JOBS)}
