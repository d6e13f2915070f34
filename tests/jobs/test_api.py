"""Jobs over REST."""

import pytest

from apps.core.ids import new_id
from apps.jobs import services as jobs
from tests.jobs.work import quick, refuse

pytestmark = pytest.mark.django_db(transaction=True)
JOBS = "/api/v1/jobs"


@pytest.fixture
def job(alice):
    return jobs.start(alice.actor, "tests.quick", subject="server:weather", word="hello")


def test_a_job_is_followed_from_waiting_to_its_result(alice, job, live):
    rest = live.rest(alice)

    assert rest.get(f"{JOBS}/{job.id}").json()["state"] == "pending"
    jobs.run(job.id, quick)
    done = rest.get(f"{JOBS}/{job.id}").json()

    assert (done["state"], done["progress"], done["result"]["word"]) == ("completed", 100, "hello")
    assert "arguments" not in done and "lease" not in done


def test_a_failed_job_says_why(alice, live):
    job = jobs.start(alice.actor, "tests.refuse")
    jobs.run(job.id, refuse)

    failed = live.rest(alice).get(f"{JOBS}/{job.id}").json()

    assert (failed["state"], failed["error"]["code"]) == ("failed", "INVALID_INPUT")


def test_jobs_are_listed_and_filtered(alice, job, live):
    rest = live.rest(alice)

    assert rest.get(JOBS, query={"state": "pending", "kind": "tests.quick"}).json()["total"] == 1
    assert rest.get(JOBS, query={"state": "failed"}).json()["items"] == []
    assert rest.get(JOBS, query={"state": "lost"}).status == 400
    assert rest.get(JOBS, query={"lease": "x"}).status == 400


def test_a_job_is_cancelled_and_repeated(alice, job, live):
    rest = live.rest(alice)

    cancelled = rest.post(f"{JOBS}/{job.id}/cancel")
    again = rest.post(f"{JOBS}/{job.id}/repeat")

    assert (cancelled.status, cancelled.json()["state"]) == (200, "cancelled")
    assert rest.post(f"{JOBS}/{job.id}/cancel").status == 409
    assert again.status == 202 and again.json()["id"] != str(job.id)


def test_a_job_of_another_organisation_looks_like_none(bob, job, live):
    rest = live.rest(bob)

    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/repeat")):
        foreign = rest.request(method, f"{JOBS}/{job.id}{path}")
        none = rest.request(method, f"{JOBS}/{new_id()}{path}")
        assert foreign.status == none.status == 404
        assert foreign.json()["error"]["message"] == none.json()["error"]["message"]


@pytest.mark.parametrize("job_id", ["1", "x" * 5000, "%00", "٣", "00000000-0000-0000-0000-00000000000g"])
def test_an_id_that_is_none_is_not_found(alice, live, job_id):
    from urllib.parse import quote

    assert live.rest(alice).get(f"{JOBS}/{quote(job_id, safe='%')}").status in (404, 400)


def test_a_viewer_may_look_but_not_steer(victor, job, live):
    rest = live.rest(victor)

    assert rest.get(f"{JOBS}/{job.id}").status == 200
    assert rest.post(f"{JOBS}/{job.id}/cancel").status == rest.post(f"{JOBS}/{job.id}/repeat").status == 403
