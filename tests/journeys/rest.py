"""A person in front of the REST API of a platform: signs in, registers servers, waits for jobs."""

import time
from typing import Any

from tests.journeys.platform import Platform
from tests.live import Client

JOB_SECONDS = 120


def signed_in(platform: Platform, role: str) -> Client:
    """A client with the token of the member with this role."""
    return signed_in_as(platform, platform.account(role))


def signed_in_as(platform: Platform, account: dict[str, str], **headers: str) -> Client:
    """A client with the token of this account; `headers` go with every request."""
    answer = Client(platform.url).post("/api/v1/auth/login", account)
    assert answer.status == 200, answer.text
    return Client(platform.url, {"Authorization": f"Bearer {answer.json()['access']}", **headers})


def finished(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job, once it has ended."""
    deadline = time.monotonic() + JOB_SECONDS
    while job["state"] in ("pending", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
        job = client.get(f"/api/v1/jobs/{job['id']}").json()
    return job


def discovered(client: Client, body: dict[str, Any]) -> str:
    """Register a server and wait until the job that this starts has read it; the address of the server."""
    registered = client.post("/api/v1/mcp/servers", body)
    assert registered.status == 201, registered.text
    job = finished(client, client.get(f"/api/v1/jobs/{registered.json()['job_id']}").json())
    assert job["state"] == "completed", job
    return f"/api/v1/mcp/servers/{registered.json()['id']}"


def offered(developer: Client, admin: Client, body: dict[str, Any]) -> dict[str, Any]:
    """Register a server, discover it, approve it: the server as agents may use it now."""
    approved = admin.post(f"{discovered(developer, body)}/approve")
    assert approved.status == 200, approved.text
    server: dict[str, Any] = approved.json()
    return server
