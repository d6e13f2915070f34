"""The REST door of the registry, on real sockets."""

from typing import Any

import pytest

from apps.audit.models import Entry
from apps.registry import tasks
from apps.registry.models import Server
from tests.live import Live
from tests.people import Person
from tests.registry.conftest import Evil

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]
SERVERS = "/api/v1/mcp/servers"


def test_a_server_goes_from_registration_to_its_tools(
    live: Live, dora: Person, adam: Person, victor: Person, evil: Evil
) -> None:
    developer, admin, viewer = live.rest(dora), live.rest(adam), live.rest(victor)

    made = developer.post(SERVERS, {"name": "Evil", "slug": "evil", "url": evil.url, "tags": ["test"]})
    assert made.status == 201, made.text
    server = f"{SERVERS}/{made.json()['id']}"
    job_id = made.json()["job_id"]
    again = developer.post(f"{server}/discover")
    assert (again.status, again.json()["id"]) in ((202, job_id), (202, again.json()["id"]))
    for each in {job_id, again.json()["id"]}:
        tasks.discover(each)
    assert developer.get(f"/api/v1/jobs/{job_id}").json()["state"] == "completed"

    found = viewer.get(f"{server}/capabilities", query={"q": "echo"}).json()
    assert [(each["public_name"], each["is_approved"]) for each in found["items"]] == [("evil__echo", False)]
    assert developer.post(f"{server}/approve").status == 403
    refused = admin.post(f"{server}/approve", {"digest": made.json()["digest"]})  # it has been discovered since
    assert refused.status == 409 and "Look at it again." in refused.text
    seen = admin.get(server).json()["digest"]
    assert admin.post(f"{server}/approve", {"digest": seen}).json()["is_approved"] is True
    capability = f"/api/v1/mcp/capabilities/{found['items'][0]['id']}"
    assert viewer.get(capability).json()["is_approved"] is True
    assert admin.patch(capability, {"risk": "low", "tags": ["safe"]}).json()["risk"] == "low"
    assert developer.patch(capability, {"risk": "high"}).status == 403
    assert admin.post(f"{capability}/approve").status == 200

    tested = developer.post(f"{server}/test-connection").json()
    assert (tested["ok"], len(tested["steps"])) == (True, 6)
    assert developer.post(f"{server}/check").json()["health"] == "healthy"
    assert viewer.get(f"{server}/health").json()["uptime"]["last_24_hours"] == 100.0
    assert viewer.get(f"{server}/checks").json()["total"] == 1
    assert viewer.get(f"{server}/discoveries").json()["total"] >= 1
    assert viewer.get(SERVERS, query={"tag": "test", "health": "healthy"}).json()["total"] == 1

    assert developer.post(f"{server}/disable").json()["is_enabled"] is False
    assert developer.post(f"{server}/enable").json()["is_enabled"] is True
    assert admin.post(f"{server}/revoke-approval").json()["is_approved"] is False
    assert developer.delete(server).status == 204
    assert developer.get(server).status == 404
    assert developer.post(f"{server}/restore").status == 200


def test_a_secret_goes_in_and_never_comes_out(live: Live, dora: Person, evil: Evil) -> None:
    client = live.rest(dora)
    canary = "canary-7f3a9c"
    server = f"{SERVERS}/{client.post(SERVERS, {'name': 'Evil', 'slug': 'evil', 'url': evil.url}).json()['id']}"

    made = client.post(f"{server}/credentials", {"kind": "header", "header": "X-Api-Key", "secret": canary})
    assert made.status == 201, made.text
    client.post(f"{server}/check")

    assert evil.control("headers")[-1]["x-api-key"] == canary
    shown = [
        client.get(path).text for path in (server, SERVERS, f"{server}/credentials", f"{server}/checks", "/api/v1/jobs")
    ]
    assert canary not in "".join([made.text, *shown])
    assert client.delete(f"{server}/credentials/{made.json()['id']}").status == 204
    assert client.get(f"{server}/credentials").json() == []


def test_variables_are_shown_by_name_only(live: Live, root: Person, alice: Person, stdio_command: list[str]) -> None:
    body = {
        "name": "Evil",
        "slug": "evil",
        "transport": "stdio",
        "command": stdio_command,
        "env": {"TOKEN": "canary-1"},
    }
    admin = live.rest(root)
    admin.headers["X-Organization"] = "acme"

    made = admin.post(SERVERS, body)

    assert made.status == 201, made.text
    assert made.json()["env_names"] == ["TOKEN"]
    assert "canary-1" not in made.text + live.rest(alice).get(SERVERS).text
    assert "canary-1" not in repr(list(Entry.objects.values("details")))


@pytest.mark.parametrize("who", ["dora", "adam", "alice"])
def test_a_stdio_server_is_forbidden_to_all_but_a_platform_admin(
    live: Live, request: Any, who: str, stdio_command: list[str]
) -> None:
    person: Person = request.getfixturevalue(who)
    body = {"name": "Evil", "slug": "evil", "transport": "stdio", "command": stdio_command}

    answer = live.rest(person).post(SERVERS, body)

    assert (answer.status, answer.json()["error"]["code"]) == (403, "NOT_PERMITTED")
    assert not Server.objects.exists()
    assert Entry.objects.filter(action="request.refused", outcome="refused").exists()


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"name": "x", "slug": "x", "url": "http://127.0.0.1/mcp"}, 422, "url"),
        ({"name": "x", "slug": "x", "url": "http://0x7f000001/mcp"}, 422, "url"),
        ({"name": "x", "slug": "X", "url": "https://a.example"}, 422, "slug"),
        ({"name": "x", "slug": "sse", "url": "https://a.example"}, 422, "non_field"),
        ({"name": "", "slug": "x", "url": "https://a.example"}, 422, "name"),
        ({"name": "x", "slug": "x", "url": "https://a.example", "organization": "globex"}, 422, "organization"),
        ({"name": "x", "slug": "x", "url": "https://a.example", "is_approved": True}, 422, "is_approved"),
        ({"name": "x", "slug": "x", "url": "https://a.example", "timeout_seconds": 0}, 422, "timeout_seconds"),
        ({"name": "x", "slug": "x", "url": "https://a.example", "max_concurrency": 2**40}, 422, "max_concurrency"),
    ],
)
def test_a_refused_value_names_its_field(
    live: Live, dora: Person, body: dict[str, Any], status: int, field: str
) -> None:
    answer = live.rest(dora).post(SERVERS, body)

    assert (answer.status, list(answer.json()["error"]["details"]["fields"])) == (status, [field])


@pytest.mark.parametrize(
    "query",
    [
        {"ordering": "password"}, {"ordering": "credentials__secret_id"}, {"server__secret__startswith": "a"},
        {"_connector": "OR"}, {"health": "' OR 1=1 --"},
        {"page": "-1"}, {"page_size": "100000"}, {"page": "9" * 30}, {"tag": ""},
    ],
)  # fmt: skip
def test_a_filter_that_does_not_exist_is_refused(live: Live, dora: Person, query: dict[str, str]) -> None:
    assert live.rest(dora).get(SERVERS, query=query).status == 400


@pytest.mark.parametrize("text", ["' OR 1=1 --", "%", "_", "\\", '"', "$.x", "{}", "🙂"])
def test_a_filter_is_only_ever_a_text(live: Live, dora: Person, text: str) -> None:
    client = live.rest(dora)
    client.post(SERVERS, {"name": "Sky", "slug": "sky", "url": "https://sky.example/mcp"})

    for name in ("q", "tag", "capability"):
        answer = client.get(SERVERS, query={name: text})
        assert (answer.status, answer.json()["total"]) == (200, 0)


def test_another_organisation_gets_404(live: Live, dora: Person, bob: Person) -> None:
    made = live.rest(dora).post(SERVERS, {"name": "Sky", "slug": "sky", "url": "https://sky.example/mcp"}).json()
    stranger = live.rest(bob)

    assert stranger.get(f"{SERVERS}/{made['id']}").status == 404
    assert stranger.patch(f"{SERVERS}/{made['id']}", {"name": "Mine"}).status == 404
    assert stranger.delete(f"{SERVERS}/{made['id']}").status == 404
    for deed in ("discover", "approve", "enable", "check", "test-connection", "restore"):
        assert stranger.post(f"{SERVERS}/{made['id']}/{deed}").status == 404
    assert stranger.get(SERVERS).json()["total"] == 0
