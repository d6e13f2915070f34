"""Organisations, members and people (AUTH-1; attacks B01, B03, B04, B12)."""

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection

from apps.audit.models import Entry
from apps.auth import services
from apps.auth.models import Invitation, Membership, Organization, User
from apps.core.errors import Conflict, NotPermitted
from tests.auth.forge import ME, client, sign_in
from tests.people import PASSWORD, Person, make_person


def api(person: Person) -> Any:
    """This person at the REST door."""
    return client(sign_in(person).access)


def members(person: Person) -> str:
    """The address of their organisation's members."""
    return f"/api/v1/orgs/{person.organization.id}/members"


def place(person: Person) -> dict[str, Any]:
    """Where a person's membership is found."""
    return {"organization_id": person.organization.id, "membership_id": person.user.memberships.get().id}


# Organisations ----------------------------------------------------------------------------------------------------


def test_a_platform_admin_makes_an_organisation(root: Person) -> None:
    answer = api(root).post("/api/v1/orgs", {"name": "Initech", "slug": "initech"}, format="json")

    assert answer.status_code == 201
    assert answer.json()["plan"] == "free"
    assert Entry.objects.filter(action="organization.created").exists()


@pytest.mark.parametrize("slug", ["Acme", "a b", "-a", "a-", "a/b", "", "x" * 51, "ä"])
def test_a_slug_that_is_none_is_refused(root: Person, slug: str) -> None:
    answer = api(root).post("/api/v1/orgs", {"name": "X", "slug": slug}, format="json")

    assert answer.status_code == 422
    assert "slug" in answer.json()["error"]["details"]["fields"]


def test_a_slug_that_is_taken_is_a_conflict(root: Person, alice: Person) -> None:
    assert api(root).post("/api/v1/orgs", {"name": "X", "slug": "acme"}, format="json").status_code == 409


def test_everybody_lists_their_own_organisations_and_the_platform_admin_all(
    alice: Person, bob: Person, root: Person
) -> None:
    Membership(organization=bob.organization, user=alice.user, role="viewer").store()
    key = client(services.create_key(alice.actor, name="x").plain)

    assert {each["slug"] for each in api(alice).get("/api/v1/orgs").json()["items"]} == {"acme", "globex"}
    assert [each["slug"] for each in api(bob).get("/api/v1/orgs").json()["items"]] == ["globex"]
    assert [each["slug"] for each in key.get("/api/v1/orgs").json()["items"]] == ["acme"]
    assert api(root).get("/api/v1/orgs").json()["total"] == 2


def test_staff_rename_the_organisation_and_only_the_platform_admin_changes_the_rest(
    alice: Person, root: Person
) -> None:
    address = f"/api/v1/orgs/{alice.organization.id}"

    assert api(alice).patch(address, {"name": "Acme Ltd"}, format="json").json()["name"] == "Acme Ltd"
    for change in ({"plan": "premium"}, {"is_active": False}, {"slug": "acme2"}):
        assert api(alice).patch(address, change, format="json").status_code == 403
    assert api(root).patch(address, {"plan": "premium"}, format="json").json()["plan"] == "premium"


@pytest.mark.parametrize("field", ["id", "created_at", "revision", "owner", "is_staff", "updated_at"])
def test_fields_that_are_not_the_callers_to_set_are_refused(alice: Person, field: str) -> None:
    answer = api(alice).patch(f"/api/v1/orgs/{alice.organization.id}", {"name": "X", field: 1}, format="json")

    assert answer.status_code == 422
    assert Organization.objects.get().name == "Acme"


# Other people's ---------------------------------------------------------------------------------------------------


def test_what_belongs_to_another_organisation_is_not_found(alice: Person, bob: Person) -> None:
    caller = api(bob)
    theirs = f"/api/v1/orgs/{alice.organization.id}"
    member = f"{theirs}/members/{alice.user.memberships.get().id}"

    for answer in (
        caller.get(theirs), caller.patch(theirs, {"name": "Mine"}, format="json"), caller.get(f"{theirs}/members"),
        caller.post(f"{theirs}/members", {"user_id": str(bob.user.id)}, format="json"), caller.get(member),
        caller.post(f"{theirs}/invitations", {"email": bob.email}, format="json"), caller.get(f"{theirs}/invitations"),
        caller.patch(member, {"role": "viewer"}, format="json"), caller.delete(member),
        caller.get(f"/api/v1/orgs/{uuid4()}"),
        caller.get(f"{members(bob)}/{alice.user.memberships.get().id}"),
        caller.delete(f"{members(bob)}/{alice.user.memberships.get().id}"),
    ):  # fmt: skip
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "NOT_FOUND"
    assert Membership.objects.get(user=alice.user).role == "owner"
    assert b"alice" not in caller.get("/api/v1/users").content


def test_nobody_lets_in_a_user_whom_they_cannot_see(alice: Person, bob: Person) -> None:
    answer = api(bob).post(members(bob), {"user_id": str(alice.user.id), "role": "viewer"}, format="json")

    assert answer.status_code == 404
    assert alice.user.memberships.get().organization == alice.organization


def test_a_token_for_one_organisation_does_not_reach_another_of_the_same_person(alice: Person, bob: Person) -> None:
    Membership(organization=bob.organization, user=alice.user, role="owner").store()

    assert api(alice).get(f"/api/v1/orgs/{bob.organization.id}").status_code == 404


@pytest.mark.parametrize("path", ["1", "١٢٣", "x" * 500, "%00", "..", "01a1f898-6764-7cf5-902b"])
def test_an_id_that_is_none_is_not_found(alice: Person, path: str) -> None:
    answer = api(alice).get(f"/api/v1/orgs/{path}")

    assert answer.status_code in (400, 404)


# Members ----------------------------------------------------------------------------------------------------------


def test_a_platform_admin_lets_in_somebody_who_is_known(root: Person, alice: Person, bob: Person) -> None:
    answer = api(root).post(members(alice), {"user_id": str(bob.user.id)}, format="json")

    assert answer.status_code == 201
    assert (answer.json()["user"]["email"], answer.json()["role"]) == (bob.email, "viewer")


def test_nobody_joins_twice(alice: Person, dora: Person) -> None:
    assert api(alice).post(members(alice), {"user_id": str(dora.user.id)}, format="json").status_code == 409


@pytest.mark.parametrize(
    "body", [{}, {"user_id": "x"}, {"email": "a@b.example"}, {"user_id": str(uuid4()), "role": "emperor"}]
)
def test_a_member_who_cannot_be_is_refused_and_nothing_is_made(alice: Person, body: dict[str, Any]) -> None:
    answer = api(alice).post(members(alice), body, format="json")

    assert answer.status_code == 422
    assert (User.objects.count(), Membership.objects.count()) == (1, 1)


def test_the_last_owner_stays(alice: Person, adam: Person, root: Person) -> None:
    address = f"{members(alice)}/{alice.user.memberships.get().id}"

    for caller in (api(alice), api(root)):
        for answer in (caller.patch(address, {"role": "admin"}, format="json"), caller.delete(address)):
            assert answer.status_code == 409
    assert Membership.objects.get(user=alice.user).role == "owner"


def test_one_of_two_owners_goes(alice: Person) -> None:
    other = make_person("olivia", "acme", "owner")

    services.remove_member(alice.actor, **place(other))

    with pytest.raises(Conflict):
        services.remove_member(alice.actor, **place(alice))


@pytest.mark.django_db(transaction=True)
def test_two_owners_who_remove_each_other_at_once_leave_one(alice: Person) -> None:
    from concurrent.futures import ThreadPoolExecutor

    other = make_person("olivia", "acme", "owner")

    def remove(actor: Any, target: Person) -> None:
        try:
            services.remove_member(actor, **place(target))
        except (Conflict, NotPermitted):  # the last owner; or no owner any more
            pass
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(remove, alice.actor, other), pool.submit(remove, other.actor, alice)]:
            done.result()

    assert Membership.objects.filter(role="owner").count() == 1


def test_an_admin_makes_and_changes_no_owner(alice: Person, adam: Person, dora: Person) -> None:
    make_person("olivia", "acme", "owner")

    with pytest.raises(NotPermitted):
        services.change_role(adam.actor, role="owner", **place(dora))
    with pytest.raises(NotPermitted):
        services.remove_member(adam.actor, **place(alice))
    with pytest.raises(NotPermitted):
        services.invite_member(adam.actor, organization_id=adam.organization.id, email="x@acme.example", role="owner")
    assert services.change_role(adam.actor, role="viewer", **place(dora)).role == "viewer"


def test_a_narrow_key_gives_nobody_a_wider_role(alice: Person) -> None:
    narrow = client(services.create_key(alice.actor, name="x", scopes=["member.write", "org.read"]).plain)

    for role in ("owner", "admin", "developer", "viewer"):
        body = {"email": "x@acme.example", "role": role}
        answer = narrow.post(members(alice).replace("members", "invitations"), body, format="json")
        assert answer.status_code == 403
    assert not Invitation.objects.exists()


def test_a_removed_member_sees_nothing_any_more(alice: Person, dora: Person) -> None:
    caller, key = api(dora), client(services.create_key(dora.actor, name="x").plain)
    address = f"{members(alice)}/{dora.user.memberships.get().id}"

    assert api(alice).delete(address).status_code == 204

    assert caller.get(ME).status_code == 401
    assert key.get(ME).status_code == 401
    assert Entry.objects.get(action="member.removed").details == {"keys_revoked": 1}


def test_every_change_is_in_the_journal(alice: Person, dora: Person) -> None:
    caller = api(alice)
    address = f"{members(alice)}/{dora.user.memberships.get().id}"

    caller.patch(f"/api/v1/orgs/{alice.organization.id}", {"name": "Acme Ltd"}, format="json")
    invited = caller.post(members(alice).replace("members", "invitations"), {"email": "c@acme.example"}, format="json")
    services.accept_invitation(token=invited.json()["link"].partition("#")[2], password="a much longer password")
    caller.patch(address, {"role": "viewer"}, format="json")
    caller.delete(address)

    recorded = list(Entry.objects.for_org(alice.organization.id).order_by("sequence").values_list("action", flat=True))
    assert recorded == [
        "session.opened", "organization.changed", "member.invited", "user.created", "member.added",
        "member.role_changed", "member.removed",
    ]  # fmt: skip


# Lists ------------------------------------------------------------------------------------------------------------


def test_lists_have_pages(alice: Person) -> None:
    for number in range(5):
        make_person(f"m{number}", "acme", "viewer")

    answer = api(alice).get(f"{members(alice)}?page=2&page_size=4").json()

    assert (answer["total"], answer["page"], answer["page_size"], len(answer["items"])) == (6, 2, 4, 2)


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page_size=0",
        "page_size=1000000000",
        "page=99999999999",
        "user__password=x",
        "order_by=x",
    ],
)
def test_a_query_that_is_none_is_malformed(alice: Person, query: str) -> None:
    answer = api(alice).get(f"{members(alice)}?{query}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "MALFORMED")


def test_staff_list_people_of_their_organisation(alice: Person, dora: Person, bob: Person, root: Person) -> None:
    seen = api(alice).get("/api/v1/users").json()

    assert {each["email"] for each in seen["items"]} == {alice.email, dora.email}
    assert set(seen["items"][0]) == {"id", "email", "name", "is_active", "created_at"}
    assert api(root).get("/api/v1/users").json()["total"] == 4


@pytest.mark.parametrize(
    ("method", "path"), [("put", "orgs"), ("delete", "auth/login"), ("get", "auth/login"), ("post", "users")]
)
def test_a_method_that_an_address_does_not_take_is_405(alice: Person, method: str, path: str) -> None:
    answer = getattr(api(alice), method)(f"/api/v1/{path}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")


# People -----------------------------------------------------------------------------------------------------------


def test_only_platform_admins_make_and_switch_users(alice: Person, dora: Person) -> None:
    with pytest.raises(NotPermitted):
        services.create_user(alice.actor, email="x@acme.example", password=PASSWORD)
    for verb in (services.deactivate_user, services.activate_user):
        with pytest.raises(NotPermitted):
            verb(alice.actor, user_id=dora.user.id)


def test_nobody_changes_anothers_password_and_no_key_changes_any(alice: Person, dora: Person) -> None:
    key = services.actor_from_bearer(services.create_key(alice.actor, name="x").plain, surface="rest", audience="x")

    for actor, user in ((alice.actor, dora.user), (key, alice.user)):
        with pytest.raises(NotPermitted):
            services.set_password(actor, user_id=user.id, password="another good passphrase")
