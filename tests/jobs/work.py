"""Work for the tests, as tasks that any worker can be told to include."""

import time
from typing import Any

from celery import shared_task
from django.db import transaction

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import BackendDown, InvalidInput
from apps.jobs import services as jobs

sender: Any = None
"""The Celery app of the running test, when it has a broker of its own."""


def quick(actor: Actor, *, word: str) -> dict[str, str]:
    """End at once."""
    return {"word": word, "actor": actor.label}


def slow(actor: Actor, *, seconds: float, word: str) -> dict[str, str]:
    """Take a while, then do one thing exactly once."""
    time.sleep(seconds)
    with transaction.atomic():
        audit.record(actor, "work.done", word)
        jobs.settle({"word": word})
    return {"word": word}


def greedy(actor: Actor, *, megabytes: int) -> dict[str, int]:
    """Take much memory."""
    return {"megabytes": len(bytearray(megabytes * 2**20)) // 2**20}


def refuse(actor: Actor) -> dict[str, str]:
    """Fail for good."""
    raise InvalidInput.for_field("url", "This is not a web address.")


def be_down(actor: Actor) -> dict[str, str]:
    """Fail because of somebody else."""
    raise BackendDown("weather cannot be reached.")


@shared_task(name="tests.quick")
def quick_task(job_id: str) -> None:
    """Run `quick`."""
    jobs.run(job_id, quick)


@shared_task(name="tests.slow")
def slow_task(job_id: str) -> None:
    """Run `slow`."""
    jobs.run(job_id, slow)


@shared_task(name="tests.greedy")
def greedy_task(job_id: str) -> None:
    """Run `greedy`."""
    jobs.run(job_id, greedy)


@shared_task(name="tests.refuse")
def refuse_task(job_id: str) -> None:
    """Run `refuse`."""
    jobs.run(job_id, refuse)
