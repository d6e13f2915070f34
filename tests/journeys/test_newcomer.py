"""A newcomer's whole way: accounts, a server that nobody here wrote, its approval, a key, an agent's call."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import node_tools
from tests.fixtures.servers import everything_http, free_port
from tests.journeys.agents import ERAS, call, tool_names
from tests.journeys.platform import Platform
from tests.journeys.rest import finished, signed_in
from tests.live import Client

pytestmark = pytest.mark.slow_process


@pytest.fixture(scope="module")
def upstream_port() -> Iterator[int]:
    """The reference server of npm, over streamable HTTP."""
    node_tools.install()
    port = free_port()
    with everything_http(port):
        yield port


@pytest.fixture(scope="module")
def platform(tmp_path_factory, upstream_port) -> Iterator[Platform]:
    """A platform that may call the reference server although it is on the loopback."""
    allowed = f"127.0.0.1:{upstream_port}"
    with Platform(tmp_path_factory.mktemp("newcomer"), "--no-demo", GATEHOUSE_EGRESS_ALLOW=allowed) as started:
        yield started


@pytest.fixture(scope="module")
def server(platform, upstream_port) -> dict[str, Any]:
    """Registered by a developer, discovered by a job, approved by an admin."""
    developer, admin = signed_in(platform, "developer"), signed_in(platform, "admin")
    body = {"name": "Everything", "slug": "everything", "url": f"http://127.0.0.1:{upstream_port}/mcp"}
    registered = developer.post("/api/v1/mcp/servers", body)
    assert registered.status == 201, registered.text
    place = f"/api/v1/mcp/servers/{registered.json()['id']}"

    started = developer.post(f"{place}/discover")
    assert started.status == 202, started.text
    job = finished(developer, started.json())
    assert job["state"] == "completed", job

    assert developer.post(f"{place}/approve").status == 403
    approved = admin.post(f"{place}/approve")
    assert approved.status == 200, approved.text
    found: dict[str, Any] = approved.json()
    return found


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("role", ["owner", "admin", "developer"])
def test_an_agent_with_a_key_sees_and_calls_the_approved_server(platform, server, role, era):
    key = platform.provision()["keys"][role]

    assert "everything__echo" in tool_names(f"{platform.url}/mcp", key, era)
    answer = call(f"{platform.url}/mcp", key, "everything__echo", {"message": "hello"}, era)

    assert not answer.is_error
    assert answer.content[0].text == "Echo: hello"


def test_an_agent_of_another_organisation_sees_nothing_of_it(platform, server):
    key = platform.provision("globex")["keys"]["owner"]

    assert not [name for name in tool_names(f"{platform.url}/mcp", key) if name.startswith("everything")]


def test_a_key_made_by_rest_works_and_stops_within_a_second_of_its_end(platform, server):
    developer = signed_in(platform, "developer")
    made = developer.post("/api/v1/auth/api-keys", {"name": "ci", "scopes": ["tool.call:everything__*", "tool.read"]})
    assert made.status == 201, made.text
    key = made.json()["key"]
    assert "everything__echo" in tool_names(f"{platform.url}/mcp", key)

    ended = developer.delete(f"/api/v1/auth/api-keys/{made.json()['id']}")
    time.sleep(1)

    assert ended.status == 204
    refused = Client(platform.url, {"Authorization": f"Bearer {key}"}).post(
        "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    )
    assert refused.status == 401


def test_staff_find_the_call_the_change_and_the_health(platform, server):
    key = platform.provision()["keys"]["owner"]
    call(f"{platform.url}/mcp", key, "everything__echo", {"message": "counted"})
    admin = signed_in(platform, "admin")
    deadline = time.monotonic() + 10

    while not (events := admin.get("/api/v1/metrics/events?name=everything__echo").json()["items"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    entries = admin.get("/api/v1/audit/logs?page_size=200").json()["items"]

    assert events[0]["status"] == "ok"
    assert {"server.registered", "server.approved", "key.created"} <= {entry["action"] for entry in entries}
    assert admin.post(f"/api/v1/mcp/servers/{server['id']}/check").json()["health"] == "healthy"


def test_a_developer_cannot_register_a_program(platform):
    developer = signed_in(platform, "developer")
    body = {"name": "Shell", "slug": "shell", "transport": "stdio", "command": ["sh", "-c", "id"]}

    assert developer.post("/api/v1/mcp/servers", body).status == 403
