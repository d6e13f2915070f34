"""A real worker in this process; test_kills.py has those in processes of their own."""

import pytest
from celery.contrib.testing.worker import start_worker

from apps.jobs import services as jobs
from apps.jobs.models import Job, State
from config.celery import app
from tests.jobs import work  # noqa: F401 - its tasks
from tests.waiting import wait_until


def states(made):
    return sorted(Job.objects.filter(pk__in=[job.pk for job in made]).values_list("state", flat=True))


@pytest.mark.django_db(transaction=True)
def test_a_worker_in_this_process_runs_what_is_started(alice):
    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=20):
        good = [jobs.start(alice.actor, "tests.quick", word=f"w{number}") for number in range(10)]
        bad = jobs.start(alice.actor, "tests.refuse")
        wait_until(lambda: states([*good, bad]) == [State.COMPLETED] * 10 + [State.FAILED])

    assert sorted(job.result["word"] for job in Job.objects.filter(kind="tests.quick")) == [f"w{n}" for n in range(10)]
