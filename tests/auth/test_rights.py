"""Roles, the organisation of a request, and what is remembered about a credential (AUTH-1, AUTH-2; attack B15)."""

import hashlib
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings

from apps.auth import services
from apps.auth.models import ApiKey, Membership
from apps.auth.services.memory import ActorMemory, memory
from apps.core.actor import system_actor
from apps.core.errors import NotAuthenticated, NotFound
from apps.core.ids import new_id
from tests.auth.forge import ME, changed, client, knock, refused, sign_in
from tests.people import Person, make_person

# The table of roles -----------------------------------------------------------------------------------------------

STAFF_ONLY = {"server.approve", "audit.read", "member.write", "org.write", "key.read", "key.manage", "job.write"}
VIEWER = {"tool.read", "server.read", "bundle.read", "job.read", "org.read", "key.write"}


def test_owners_and_admins_may_do_everything() -> None:
    everything = set(services.known_permissions())

    assert services.grants_of_role("owner") == services.grants_of_role("admin") == everything


def test_a_developer_builds_and_does_not_approve() -> None:
    grants = services.grants_of_role("developer")

    assert {"tool.read", "tool.call", "server.read", "server.write", "server.check"} <= grants
    assert not grants & STAFF_ONLY


def test_a_viewer_looks() -> None:
    assert services.grants_of_role("viewer") == VIEWER


def test_a_role_that_does_not_exist_may_nothing() -> None:
    assert services.grants_of_role("emperor") == frozenset()


def test_every_permission_is_explained_in_a_sentence() -> None:
    assert all(text.endswith(".") for text in services.known_permissions().values())


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("viewer", "patch", "/api/v1/orgs/{org}", 403), ("developer", "patch", "/api/v1/orgs/{org}", 403),
        ("viewer", "post", "/api/v1/orgs/{org}/members", 403), ("developer", "post", "/api/v1/orgs/{org}/members", 403),
        ("viewer", "get", "/api/v1/users", 403), ("developer", "get", "/api/v1/users", 403),
        ("admin", "get", "/api/v1/users", 200),
        ("owner", "post", "/api/v1/orgs", 403), ("admin", "post", "/api/v1/orgs", 403),
        ("viewer", "get", "/api/v1/orgs/{org}", 200), ("viewer", "get", "/api/v1/orgs/{org}/members", 200),
        ("viewer", "get", "/api/v1/auth/api-keys", 200),
    ],
)  # fmt: skip
def test_each_role_gets_what_the_table_says(db: None, role: str, method: str, path: str, status: int) -> None:
    person = make_person("somebody", "acme", role)
    body = {"patch": {"name": "X"}, "post": {"name": "X", "slug": "x"}}.get(method, {})
    body = {"user_id": str(new_id())} if path.endswith("members") and method == "post" else body
    address = path.format(org=person.organization.id)

    answer = getattr(client(sign_in(person).access), method)(address, body, format="json")

    assert answer.status_code == status


# The organisation of a request ------------------------------------------------------------------------------------


@pytest.mark.parametrize("credential", ["token", "key"])
def test_a_header_that_differs_from_the_credential_is_refused(alice: Person, bob: Person, credential: str) -> None:
    Membership(organization=bob.organization, user=alice.user, role="owner").store()
    plain = sign_in(alice).access if credential == "token" else services.create_key(alice.actor, name="x").plain

    for other in ("globex", str(bob.organization.id), "nowhere"):
        answer = client(plain, HTTP_X_ORGANIZATION=other).get(ME)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "MALFORMED"
    for same in ("acme", str(alice.organization.id)):
        assert client(plain, HTTP_X_ORGANIZATION=same).get(ME).json()["organization"]["slug"] == "acme"


@pytest.mark.parametrize("name", ["Acme", "a b", "a/../b", "x" * 60, "acme,globex", "अ"])
def test_a_header_that_is_no_name_is_refused(alice: Person, name: str) -> None:
    token = changed(sign_in(alice).access, org=None)

    assert client(token, HTTP_X_ORGANIZATION=name).get(ME).status_code == 400


def test_without_a_claim_the_header_chooses_among_ones_own(alice: Person, bob: Person) -> None:
    token = changed(sign_in(alice).access, org=None)

    assert client(token, HTTP_X_ORGANIZATION="acme").get(ME).json()["role"] == "owner"
    for foreign in ("globex", str(bob.organization.id), str(uuid4()), "nowhere"):
        answer = client(token, HTTP_X_ORGANIZATION=foreign).get(ME)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


def test_a_platform_admin_acts_where_they_say(root: Person, alice: Person) -> None:
    token = sign_in(root).access

    assert client(token).get(ME).json()["organization"] is None
    assert client(token, HTTP_X_ORGANIZATION="acme").get(ME).json()["organization"]["slug"] == "acme"
    assert client(token, HTTP_X_ORGANIZATION="nowhere").get(ME).status_code == 404


def test_a_key_of_a_platform_admin_is_a_members_key(root: Person, alice: Person) -> None:
    Membership(organization=alice.organization, user=root.user, role="viewer").store()
    key = services.create_key(root.actor.at("rest"), name="x") if root.actor.organization_id else None
    assert key is None

    made = services.create_key(system_actor(alice.organization.id), name="x", user_id=root.user.id)
    actor = services.actor_from_bearer(made.plain, surface="rest", audience=settings.REST_AUDIENCE)

    assert not actor.is_platform_admin
    assert actor.grants == VIEWER


def test_no_slug_reads_as_an_id(root: Person, alice: Person) -> None:
    with pytest.raises(Exception, match="look like an id"):
        services.create_organization(root.actor, name="Trap", slug=str(alice.organization.id))


# What is remembered -----------------------------------------------------------------------------------------------


def test_a_credential_seen_a_moment_ago_costs_no_query(dora: Person, django_assert_num_queries: Any) -> None:
    for plain in (sign_in(dora).access, services.create_key(dora.actor, name="x").plain):
        place = {"surface": "rest", "audience": settings.REST_AUDIENCE, "address": "203.0.113.9"}
        first = services.actor_from_bearer(plain, **place)

        with django_assert_num_queries(0):
            known = services.known_actor(plain, **place)

        assert known is not None
        assert (known.id, known.grants, known.address) == (first.id, first.grants, "203.0.113.9")


def test_what_is_known_for_one_audience_or_organisation_is_not_known_for_another(alice: Person, bob: Person) -> None:
    Membership(organization=bob.organization, user=alice.user, role="viewer").store()
    token = changed(sign_in(alice).access, org=None)
    there = {"surface": "rest", "audience": settings.REST_AUDIENCE}
    services.actor_from_bearer(token, organization="acme", **there)

    assert services.known_actor(token, organization="acme", **there).role == "owner"
    assert services.known_actor(token, organization="globex", **there) is None
    assert services.known_actor(token, **there) is None
    assert services.known_actor(token, surface="mcp", audience=settings.MCP_AUDIENCE, organization="acme") is None


def test_memory_is_bounded_and_holds_no_credential(dora: Person) -> None:
    plain = services.create_key(dora.actor, name="x").plain
    services.actor_from_bearer(plain, surface="rest", audience=settings.REST_AUDIENCE)
    small = ActorMemory(limit=3)

    for number in range(10):
        key = (hashlib.sha256(bytes([number])).digest(), "a", "")
        small.keep(key, dora.actor, until=float("inf"), clearings=small.clearings)

    assert len(small) == 3
    assert small.recall((hashlib.sha256(bytes([9])).digest(), "a", "")) is dora.actor
    assert plain not in repr(vars(memory))


def test_an_unknown_credential_is_not_known(db: None) -> None:
    for text in ("", "x", "gate_", "é"):
        assert services.known_actor(text, surface="rest", audience=settings.REST_AUDIENCE) is None


def test_a_change_raises_the_revision(alice: Person, dora: Person) -> None:
    before = services.read_revision(alice.organization.id)

    place = {"organization_id": alice.organization.id, "membership_id": dora.user.memberships.get().id}
    services.change_role(alice.actor, role="viewer", **place)

    assert services.read_revision(alice.organization.id) > before
    with pytest.raises(NotFound):
        services.read_revision(uuid4())


# Actors of jobs ---------------------------------------------------------------------------------------------------


def test_a_job_acts_with_what_its_starter_may_do_now(dora: Person) -> None:
    key = services.create_key(dora.actor, name="x", scopes=["tool.read"]).key
    place = dora.organization.id

    assert services.actor_for_job("user", dora.user.id, place).grants == dora.actor.grants
    assert services.actor_for_job("key", key.id, place).grants == {"tool.read"}
    assert services.actor_for_job("system", None, place).kind == "system"

    ApiKey.objects.all().delete()
    Membership.objects.filter(user=dora.user).update(role="viewer")
    assert services.actor_for_job("user", dora.user.id, place).grants == VIEWER
    with pytest.raises(NotAuthenticated):
        services.actor_for_job("key", key.id, place)

    Membership.objects.all().delete()
    with pytest.raises(NotFound):
        services.actor_for_job("user", dora.user.id, place)


def test_a_job_of_another_organisations_key_finds_nobody(dora: Person, bob: Person) -> None:
    key = services.create_key(dora.actor, name="x").key

    with pytest.raises(NotAuthenticated):
        services.actor_for_job("key", key.id, bob.organization.id)


# A cookie is no credential here -----------------------------------------------------------------------------------


def test_the_admins_cookie_does_not_open_rest(alice: Person) -> None:
    caller = client()
    caller.force_login(alice.user)

    assert refused(caller.get(ME))


@pytest.mark.parametrize("query", ["access_token", "token", "api_key", "authorization"])
def test_a_credential_in_the_query_is_not_read(alice: Person, query: str) -> None:
    token = sign_in(alice).access

    assert refused(client().get(f"{ME}?{query}={token}"))
    assert client(token).get(f"{ME}?{query}={token}").status_code == 400
    assert knock(token).status_code == 200
