"""`/health/detailed`: everything for staff, of their own organisation alone; nothing for anybody else."""

import pytest
from django.test import Client
from django.utils import timezone

from apps.auth import services as auth
from tests.factories.registry import ServerFactory

PATH = "/health/detailed"
SERVERS = {"acme": "canary-of-acme", "globex": "canary-of-globex"}


@pytest.fixture
def servers(alice, bob):
    """A server of each organisation."""
    for person in (alice, bob):
        slug = SERVERS[person.organization.slug]
        ServerFactory(organization=person.organization, slug=slug, health="healthy", checked_at=timezone.now())


def bearer(person, **options):
    """A client with a key of this person."""
    key = auth.create_key(person.actor, name="test", **options).plain
    return Client(headers={"Authorization": f"Bearer {key}"})


def signed_in(person):
    """A client with a cookie of the control room."""
    client = Client()
    client.force_login(person.user)
    return client


@pytest.mark.django_db
@pytest.mark.parametrize("by", [bearer, signed_in])
@pytest.mark.parametrize("who", ["alice", "adam"])
def test_staff_see_all_checks_and_the_servers_of_their_organisation(servers, request, who, by):
    answer = by(request.getfixturevalue(who)).get(PATH)

    details = answer.json()
    assert (answer.status_code, details["status"]) == (200, "healthy")
    assert {"database", "cache", "jobs", "servers", "usage"} <= set(details["checks"])
    assert all(check["ms"] >= 0 for check in details["checks"].values())
    assert details["uptime_seconds"] > 0
    assert details["version"]
    assert [server["slug"] for server in details["servers"]] == [SERVERS["acme"]]
    assert "globex" not in answer.text
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_owners_of_different_organisations_see_different_servers(servers, bob):
    assert [server["slug"] for server in bearer(bob).get(PATH).json()["servers"]] == [SERVERS["globex"]]


@pytest.mark.django_db
@pytest.mark.parametrize("by", [bearer, signed_in])
@pytest.mark.parametrize("who", ["dora", "victor"])
def test_others_are_refused(servers, request, who, by):
    answer = by(request.getfixturevalue(who)).get(PATH)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "NOT_PERMITTED")
    assert "checks" not in answer.text


@pytest.mark.django_db
def test_strangers_are_asked_who_they_are(servers):
    for client in (Client(), Client(headers={"Authorization": "Bearer gate_nothing"})):
        answer = client.get(PATH)

        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "NOT_AUTHENTICATED")
        assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.django_db
def test_a_bad_bearer_is_not_saved_by_a_cookie(alice):
    client = signed_in(alice)

    assert client.get(PATH, headers={"Authorization": "Bearer gate_nothing"}).status_code == 401


@pytest.mark.django_db
def test_an_owners_narrow_key_opens_nothing_here(servers, alice):
    assert bearer(alice, scopes=["tool.read"]).get(PATH).status_code == 403
    assert bearer(alice, scopes=["server.read"]).get(PATH).status_code == 200


@pytest.mark.django_db
def test_a_platform_admin_names_the_organisation(servers, root, live_token):
    client = Client(headers={"Authorization": f"Bearer {live_token(root)}"})

    assert client.get(PATH).json()["servers"] == []
    named = client.get(PATH, headers={"X-Organization": "acme"}).json()
    assert [server["slug"] for server in named["servers"]] == [SERVERS["acme"]]


@pytest.fixture
def live_token():
    """How a person gets a token for REST."""
    return lambda person: auth.login(email=person.email, password=person.password).access


@pytest.mark.django_db
def test_it_only_reads(alice):
    answer = bearer(alice).post(PATH)

    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer["Allow"] == "GET, HEAD"


@pytest.mark.django_db
def test_what_is_wrong_answers_503_with_the_reason(alice, monkeypatch):
    from apps.core.schemas import Check
    from config import health

    monkeypatch.setattr(health, "_cache", lambda: Check("cache", ok=False, message="The cache does not answer."))
    answer = bearer(alice).get(PATH)

    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert answer.json()["checks"]["cache"]["message"] == "The cache does not answer."


@pytest.mark.django_db(transaction=True)
def test_open_sessions_are_counted_for_their_organisation(live, alice, bob):
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
    }}  # fmt: skip
    accept = {"Accept": "application/json, text/event-stream"}
    opened = live.with_key(live.key(alice)).post("/mcp", hello, headers=accept)

    assert opened.status == 200, opened.text
    assert live.with_key(live.key(alice)).get(PATH).json()["open"]["sessions"] == 1
    assert live.with_key(live.key(bob)).get(PATH).json()["open"]["sessions"] == 0
