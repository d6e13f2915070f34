"""A job's row says where it stands, whatever brokers and workers do."""

import threading
import time
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from apps.audit.models import Entry
from apps.core import logs
from apps.core.actor import system_actor
from apps.core.errors import BackendDown, Conflict, InvalidInput, NotFound, NotPermitted
from apps.core.schemas import PageQuery
from apps.jobs import health
from apps.jobs import services as jobs
from apps.jobs.models import Job, State
from apps.jobs.schemas import JobFilters
from apps.jobs.services import queue, work
from tests.jobs.work import be_down, quick, refuse

pytestmark = pytest.mark.django_db


class Broker:
    """Takes every message while it is up."""

    def __init__(self):
        self.is_up = True
        self.sent = []

    def send_task(self, kind, args, retry):
        """What Celery's app does."""
        if not self.is_up:
            raise OSError("connection refused")
        self.sent.append((kind, *args))


@pytest.fixture(autouse=True)
def broker(monkeypatch):
    """A broker in place of Celery's app."""
    made = Broker()
    monkeypatch.setattr(queue, "load", lambda path: made)
    monkeypatch.setattr(queue, "_leave_broker_until", 0.0)
    return made


@pytest.fixture
def sent(broker):
    """What the broker was given."""
    return broker.sent


def start(person, kind="tests.quick", **arguments):
    return jobs.start(person.actor, kind, subject="server:weather", **arguments)


def fresh(job):
    return Job.objects.get(pk=job.pk)


def later(monkeypatch, seconds):
    moment = timezone.now() + timedelta(seconds=seconds)
    monkeypatch.setattr("django.utils.timezone.now", lambda: moment)


# Starting --------------------------------------------------------------------------------------------------------


def test_a_job_is_sent_when_its_row_is_committed(alice, sent, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        job = start(alice, word="hello")
        assert sent == []

    assert sent == [("tests.quick", str(job.id))]
    assert (fresh(job).state, fresh(job).arguments) == (State.PENDING, {"word": "hello"})


@pytest.mark.django_db(transaction=True)
def test_a_job_that_is_rolled_back_is_never_sent(alice, sent):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        start(alice, word="x")
        raise ZeroDivisionError

    assert sent == [] and Job.objects.count() == 0


def test_a_message_carries_nothing_but_the_id(alice, sent, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        job = start(alice, word="canary", server_id=uuid4())

    assert sent == [("tests.quick", str(job.id))]


@pytest.mark.django_db(transaction=True)
def test_a_broker_that_is_down_loses_no_job_and_is_not_asked_again_at_once(alice, broker):
    broker.is_up = False
    job = start(alice, word="x")
    assert (fresh(job).state, fresh(job).sent_at) == (State.PENDING, None)

    broker.is_up = True
    start(alice, word="y")

    assert broker.sent == []


def test_a_job_needs_an_organisation(root):
    with pytest.raises(InvalidInput):
        start(root)


# Running ---------------------------------------------------------------------------------------------------------


def test_a_job_runs_as_its_actor_and_keeps_its_result(alice):
    token = logs.request_id.set("r-1")
    job = start(alice, word="hello")
    logs.request_id.reset(token)
    seen = {}

    def look(actor, *, word):
        seen.update(actor=actor, request_id=logs.request_id.get(), state=fresh(job).state, id=jobs.current_job_id())
        return {"word": word, "token": "hunter2", "when": timezone.now()}

    jobs.run(str(job.id), look)

    done = fresh(job)
    assert (done.state, done.progress, done.attempts, done.error) == (State.COMPLETED, 100, 1, None)
    assert done.result["word"] == "hello" and done.result["token"] == logs.REDACTED
    assert done.started_at <= done.finished_at
    assert (seen["request_id"], seen["state"], seen["id"]) == ("r-1", State.RUNNING, job.id)
    assert (seen["actor"].user_id, seen["actor"].surface) == (alice.user.id, "job")
    assert seen["actor"].organization_id == alice.organization.id
    assert (logs.request_id.get(), logs.current_actor.get(), jobs.current_job_id()) == ("", None, None)


def test_a_message_that_comes_twice_runs_the_job_once(alice):
    job, runs = start(alice, word="x"), []

    for _ in range(3):
        jobs.run(job.id, lambda actor, word: runs.append(word))

    assert runs == ["x"]


def test_a_message_for_no_job_does_nothing():
    jobs.run(uuid4(), quick)


def test_a_refusal_ends_the_job_at_once(alice):
    job = start(alice)

    jobs.run(job.id, refuse)

    ended = fresh(job)
    assert (ended.state, ended.attempts) == (State.FAILED, 1)
    assert ended.error["code"] == "INVALID_INPUT" and "url" in ended.error["details"]["fields"]
    assert ended.finished_at


@pytest.mark.parametrize("failure", [be_down, lambda actor: 1 / 0])
def test_bad_luck_is_tried_again_after_one_two_and_four_minutes_then_the_job_fails(alice, failure, monkeypatch):
    job, waits = start(alice), []

    for _ in range(4):
        moment = timezone.now()
        jobs.run(job.id, failure)
        waits.append(round((fresh(job).run_after - moment).total_seconds()))
        jobs.run(job.id, failure)  # too early: nothing happens
        later(monkeypatch, 60 * 2 ** len(waits))

    assert waits[:3] == [60, 120, 240]
    assert (fresh(job).state, fresh(job).attempts) == (State.FAILED, 4)


def test_an_error_shows_while_the_job_waits_and_is_gone_when_it_succeeds(alice, monkeypatch):
    job = start(alice)
    jobs.run(job.id, be_down)
    assert (fresh(job).state, fresh(job).error["code"]) == (State.PENDING, "BACKEND_DOWN")

    later(monkeypatch, 61)
    jobs.run(job.id, lambda actor: {})

    assert (fresh(job).state, fresh(job).error) == (State.COMPLETED, None)


def test_a_bug_shows_no_inner_details(alice):
    job = start(alice)

    def bug(actor):
        raise RuntimeError("postgres://u:hunter2@db SELECT secret FROM /work")

    jobs.run(job.id, bug)

    assert fresh(job).error["code"] == "INTERNAL" and "hunter2" not in str(fresh(job).error)


def test_a_job_of_somebody_who_is_gone_fails(alice):
    job = start(alice, word="x")
    alice.user.is_active = False
    alice.user.save()

    jobs.run(job.id, quick)

    assert (fresh(job).state, fresh(job).result) == (State.FAILED, None)


def test_a_job_has_the_rights_of_now_not_of_then(dora):
    from apps.auth.models import Membership

    job = start(dora)
    Membership.objects.filter(user=dora.user).update(role="viewer")

    jobs.run(job.id, lambda actor: actor.require("server.write"))

    assert fresh(job).error["code"] == "NOT_PERMITTED"


def test_a_worker_that_is_told_to_end_gives_the_job_back(alice):
    job = start(alice)

    def interrupted(actor):
        raise SystemExit

    with pytest.raises(SystemExit):
        jobs.run(job.id, interrupted)

    assert (fresh(job).state, fresh(job).attempts, fresh(job).lease) == (State.PENDING, 0, None)


# Losing and taking back ------------------------------------------------------------------------------------------


def run_and_lose(job, meanwhile):
    """Run the job; while its function works, its worker seems to die and `meanwhile` happens."""

    def work_on(actor, **arguments):
        Job.objects.filter(pk=job.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))
        jobs.requeue_stale()
        meanwhile()
        return {"by": "late worker"}

    jobs.run(job.id, work_on)


def test_a_silent_job_waits_again_and_another_worker_completes_it(alice, sent):
    job = start(alice, word="x")
    sent.clear()

    run_and_lose(job, lambda: jobs.run(job.id, quick))

    assert sent == [("tests.quick", str(job.id))]
    assert (fresh(job).state, fresh(job).attempts) == (State.COMPLETED, 2)
    assert fresh(job).result["word"] == "x"


def test_a_late_worker_changes_nothing_while_another_runs(alice):
    job = start(alice, word="x")
    seen = []

    def other(actor, word):
        seen.append(fresh(job).lease)
        return {"by": "second worker"}

    run_and_lose(job, lambda: seen.append(fresh(job).state))
    assert seen == [State.PENDING] and fresh(job).state == State.PENDING

    jobs.run(job.id, other)
    assert fresh(job).result == {"by": "second worker"}


def test_a_late_worker_can_neither_settle_nor_show_progress(alice):
    job, stopped = start(alice, word="x"), []

    def meanwhile():
        for attempt in (lambda: jobs.settle({}), lambda: jobs.set_progress(job.id, 50)):
            with pytest.raises(jobs.Stopped):
                attempt()
            stopped.append(True)

    run_and_lose(job, meanwhile)

    assert stopped == [True, True]
    assert (fresh(job).state, fresh(job).progress) == (State.PENDING, 0)


def test_settled_work_is_complete_whatever_happens_afterwards(alice):
    job = start(alice)

    def settle_then_fail(actor):
        with transaction.atomic():
            jobs.settle({"found": 3})
        raise BackendDown

    jobs.run(job.id, settle_then_fail)

    assert (fresh(job).state, fresh(job).result, fresh(job).error) == (State.COMPLETED, {"found": 3}, None)


def test_a_job_whose_worker_dies_each_time_fails_in_the_end(alice, settings, monkeypatch):
    job = start(alice)
    Job.objects.filter(pk=job.pk).update(state=State.RUNNING, attempts=4, lease=uuid4(), heartbeat_at=timezone.now())
    later(monkeypatch, settings.JOB_LEASE_SECONDS + 1)

    jobs.requeue_stale()

    assert (fresh(job).state, fresh(job).error["code"]) == (State.FAILED, "WORKER_LOST")


def test_a_running_job_that_gives_signs_of_life_is_left_alone(alice, sent):
    job = start(alice)
    Job.objects.filter(pk=job.pk).update(state=State.RUNNING, lease=uuid4(), heartbeat_at=timezone.now())

    assert jobs.requeue_stale() == 0
    assert fresh(job).state == State.RUNNING


def test_a_message_that_was_lost_is_sent_again_once_a_minute(alice, sent, settings, monkeypatch):
    job = start(alice)
    assert (jobs.requeue_stale(), sent) == (0, [])

    later(monkeypatch, queue.RESEND_LEASES * settings.JOB_LEASE_SECONDS + 1)
    assert (jobs.requeue_stale(), jobs.requeue_stale()) == (1, 0)

    assert sent == [("tests.quick", str(job.id))]


@pytest.mark.django_db(transaction=True)
def test_jobs_that_a_broker_refused_are_sent_when_it_is_back(alice, broker, monkeypatch):
    broker.is_up = False
    made = [start(alice) for _ in range(3)]
    assert jobs.requeue_stale() == 0

    broker.is_up = True
    monkeypatch.setattr(queue, "_leave_broker_until", 0.0)

    assert jobs.requeue_stale() == 3
    assert sorted(broker.sent) == sorted(("tests.quick", str(job.id)) for job in made)


def test_a_job_that_is_to_wait_is_not_sent_before_its_time(alice, sent, monkeypatch):
    job = start(alice)
    jobs.run(job.id, be_down)
    assert jobs.requeue_stale() == 0

    later(monkeypatch, 61)
    assert jobs.requeue_stale() == 1


@pytest.mark.django_db(transaction=True)
def test_a_long_job_gives_signs_of_life_even_after_the_database_was_away(alice, settings, monkeypatch):
    settings.JOB_LEASE_SECONDS = 0.3
    job = start(alice)
    beats, update = [], work._Lease.update

    def unsteady(lease, **values):
        if "heartbeat_at" in values:
            beats.append(values["heartbeat_at"])
            if len(beats) == 2:
                raise OperationalError("gone")
        return update(lease, **values)

    monkeypatch.setattr(work._Lease, "update", unsteady)
    jobs.run(job.id, lambda actor: time.sleep(0.6))

    assert len(beats) >= 4 and fresh(job).heartbeat_at >= beats[2]
    assert fresh(job).state == State.COMPLETED
    assert [each for each in threading.enumerate() if each.name.startswith("heartbeat")] == []


@pytest.mark.django_db(transaction=True)
def test_a_job_that_lasts_too_long_gives_no_more_signs_of_life(alice, settings, monkeypatch):
    settings.JOB_LEASE_SECONDS = 0.3
    monkeypatch.setattr(work, "LONGEST_RUN_SECONDS", 0.1)
    job = start(alice)

    jobs.run(job.id, lambda actor: time.sleep(0.6))

    assert fresh(job).finished_at - fresh(job).heartbeat_at > timedelta(seconds=0.3)


def test_a_broker_that_began_empty_is_given_all_that_waits(alice, sent):
    waiting, running = start(alice, word="x"), start(alice, word="y")
    Job.objects.filter(pk=running.pk).update(state=State.RUNNING, lease=uuid4(), heartbeat_at=timezone.now())

    assert jobs.requeue_after_restart() == 1

    assert sent == [("tests.quick", str(waiting.id))]
    assert fresh(running).state == State.RUNNING


def test_work_that_was_taken_away_writes_nothing_more_before_its_end(alice):
    job, stopped = start(alice), []

    def work_on(actor):
        jobs.confirm()
        Job.objects.filter(pk=job.pk).update(lease=uuid4())
        with pytest.raises(jobs.Stopped):
            jobs.confirm()
        stopped.append(True)

    jobs.run(job.id, work_on)

    assert stopped == [True] and fresh(job).state == State.RUNNING


def test_work_that_needs_too_much_memory_says_so_and_is_tried_again(alice):
    job = start(alice)

    def greedy(actor):
        raise MemoryError

    jobs.run(job.id, greedy)

    assert (fresh(job).state, fresh(job).error["message"]) == (State.PENDING, work.OUT_OF_MEMORY)


# Sharing ---------------------------------------------------------------------------------------------------------


def test_an_organisation_runs_no_more_jobs_than_its_share_and_leaves_the_rest_to_others(alice, bob, sent):
    first, second, third = (start(alice, word=word) for word in "abc")
    others = start(bob, word="d")
    states = []

    def hold_both_places(actor, word):
        jobs.run(second.id, look)

    def look(actor, word):
        jobs.run(third.id, quick)
        jobs.run(others.id, quick)
        states.extend([fresh(third).state, fresh(third).sent_at, fresh(others).state])

    jobs.run(first.id, hold_both_places)

    assert states == [State.PENDING, None, State.COMPLETED]
    assert sent == [("tests.quick", str(third.id))]
    jobs.run(third.id, quick)
    assert fresh(third).state == State.COMPLETED


def test_what_a_dead_worker_ran_takes_no_place_for_long(alice, settings):
    for _ in range(settings.JOBS_PER_ORGANIZATION):
        lost = start(alice, word="x")
        silent_since = timezone.now() - timedelta(seconds=settings.JOB_LEASE_SECONDS / 2 + 1)
        Job.objects.filter(pk=lost.pk).update(state=State.RUNNING, lease=uuid4(), heartbeat_at=silent_since)

    job = start(alice, word="y")
    jobs.run(job.id, quick)

    assert fresh(job).state == State.COMPLETED


# Seeing and steering ---------------------------------------------------------------------------------------------


def test_progress_shows_while_the_job_runs(alice):
    job, seen = start(alice), []

    def work_on(actor):
        for percent in (10, 250, -5):
            jobs.set_progress(job.id, percent)
            seen.append(fresh(job).progress)

    jobs.run(job.id, work_on)

    assert seen == [10, 100, 0] and fresh(job).progress == 100


def test_only_the_worker_of_a_job_can_show_its_progress(alice):
    with pytest.raises(jobs.Stopped):
        jobs.set_progress(start(alice).id, 10)


def test_a_waiting_job_that_is_cancelled_never_runs(alice):
    job = start(alice, word="x")

    jobs.cancel_job(alice.actor, job_id=job.id)
    jobs.run(job.id, quick)

    assert (fresh(job).state, fresh(job).result) == (State.CANCELLED, None)
    assert Entry.objects.for_org(alice.organization.id).filter(action="job.cancelled").count() == 1


def test_a_running_job_that_is_cancelled_stays_cancelled(alice):
    job, after = start(alice), []

    def work_on(actor):
        jobs.cancel_job(alice.actor, job_id=job.id)
        jobs.set_progress(job.id, 50)
        after.append("went on")

    jobs.run(job.id, work_on)

    assert (fresh(job).state, after) == (State.CANCELLED, [])


def test_a_job_that_has_ended_cannot_be_cancelled_only_repeated(alice, bob):
    job = start(alice, word="x")
    with pytest.raises(Conflict):
        jobs.repeat_job(alice.actor, job_id=job.id)
    jobs.run(job.id, quick)
    with pytest.raises(Conflict):
        jobs.cancel_job(alice.actor, job_id=job.id)

    again = jobs.repeat_job(alice.actor, job_id=job.id)
    jobs.run(again.id, quick)

    assert again.id != job.id and fresh(again).result["word"] == "x"
    assert Entry.objects.for_org(alice.organization.id).filter(action="job.repeated").count() == 1


def test_what_another_organisation_started_is_not_found(alice, bob):
    job = start(alice)

    for attempt in (jobs.get_job, jobs.cancel_job, jobs.repeat_job):
        with pytest.raises(NotFound):
            attempt(bob.actor, job_id=job.id)
    assert jobs.list_jobs(bob.actor, filters=JobFilters(), page=PageQuery()).total == 0


def test_a_viewer_sees_jobs_and_cannot_steer_them(alice, victor):
    job = start(alice)

    assert jobs.get_job(victor.actor, job_id=job.id) == job
    for attempt in (jobs.cancel_job, jobs.repeat_job):
        with pytest.raises(NotPermitted):
            attempt(victor.actor, job_id=job.id)


def test_jobs_are_listed_newest_first_and_filtered(alice):
    first, second = start(alice, "tests.quick", word="x"), start(alice, "tests.refuse")
    jobs.run(first.id, quick)

    def found(**filters):
        return jobs.list_jobs(alice.actor, filters=JobFilters(**filters), page=PageQuery()).items

    assert found() == [second, first]
    assert found(state="completed") == found(kind="tests.quick") == [first]
    assert found(subject="server:clock") == []


def test_health_says_when_a_job_waits_too_long(alice, monkeypatch):
    assert health.check()[0].ok

    start(alice)
    later(monkeypatch, health.LONGEST_WAIT_SECONDS + 1)

    check = health.check()[0]
    assert (check.name, check.ok) == ("jobs", False) and "worker" in check.message


def test_the_platforms_own_work_runs_as_the_platform(alice):
    job = jobs.start(system_actor(alice.organization.id), "tests.quick", word="x")

    jobs.run(job.id, quick)

    assert fresh(job).result == {"word": "x", "actor": "gatehouse"}
