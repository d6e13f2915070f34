"""Nobody is let in whom an address alone stands for: invitations (account pre-hijacking; A29 for invitations, K11)."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.core import serializers
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services
from apps.auth.models import Invitation, Membership, Organization, User
from apps.auth.services.sessions import forget_ended
from apps.core.errors import Conflict, NotAuthenticated, NotFound, NotPermitted
from tests.auth.forge import ME, client, knock, refused, sign_in
from tests.people import PASSWORD, Person, make_person

ACCEPT = "/api/v1/auth/invitations/accept"
CAROL = "carol@acme.example"
HER_OWN = "a password of her own"


def api(person: Person) -> Any:
    """This person at the REST door."""
    return client(sign_in(person).access)


def invitations(person: Person) -> str:
    """The address of their organisation's invitations."""
    return f"/api/v1/orgs/{person.organization.id}/invitations"


def invited(person: Person, email: str = CAROL, role: str = "viewer") -> str:
    """The token of an invitation that this person made."""
    made = services.invite_member(person.actor, organization_id=person.organization.id, email=email, role=role)
    return made.link.partition("#")[2]


def accept(token: str, password: str = HER_OWN, **more: str) -> Any:
    """What REST answers to whoever holds the link."""
    return client().post(ACCEPT, {"token": token, "password": password, **more}, format="json")


def is_member(person: Person, email: str) -> bool:
    """Whether somebody belongs to this person's organisation."""
    return bool(Membership.objects.for_org(person.organization.id).filter(user__email=email).exists())


# Joining ----------------------------------------------------------------------------------------------------------


def test_somebody_new_joins_with_a_password_that_nobody_else_knows(alice: Person) -> None:
    made = api(alice).post(invitations(alice), {"email": "Carol@Acme.example", "role": "developer"}, format="json")
    before = User.objects.filter(email=CAROL).exists()

    joined = accept(made.json()["link"].partition("#")[2], name="Carol")

    assert made.status_code == 201 and joined.status_code == 201
    assert not before and not Invitation.objects.exists()
    assert joined.json()["user"] == {"id": joined.json()["user"]["id"], "email": CAROL, "name": "Carol"}
    token = services.login(email=CAROL, password=HER_OWN).access
    assert knock(token).json()["role"] == "developer"


def test_somebody_known_joins_with_the_password_that_they_have(alice: Person, bob: Person) -> None:
    token = invited(alice, bob.email.upper())

    wrong = accept(token, "not the password of Bob", name="Robert")
    still_outside = is_member(alice, bob.email)
    right = accept(token, bob.password, name="Robert")

    assert refused(wrong) and not still_outside
    assert right.status_code == 201 and right.json()["role"] == "viewer"
    bob.user.refresh_from_db()
    assert bob.user.name == "" and bob.user.check_password(bob.password)


def test_an_account_that_somebody_made_in_anothers_name_is_let_in_nowhere(
    alice: Person, bob: Person, root: Person
) -> None:
    accept(invited(bob, CAROL), "a password of Bob the thief")
    thief = services.login(email=CAROL, password="a password of Bob the thief").access

    token = invited(alice, CAROL)

    assert knock(thief).json()["organization"]["slug"] == "globex"
    assert not is_member(alice, CAROL)
    assert client(thief, HTTP_X_ORGANIZATION="acme").get(ME).status_code == 400
    assert refused(accept(token, HER_OWN)) and not is_member(alice, CAROL)

    services.set_password(root.actor, user_id=User.objects.get(email=CAROL).id, password=HER_OWN)
    assert accept(token, HER_OWN).status_code == 201
    assert refused(knock(thief)) and is_member(alice, CAROL)


def test_an_account_without_a_password_gets_none_by_an_invitation(alice: Person) -> None:
    User.objects.create_user("later@acme.example")

    assert refused(accept(invited(alice, "later@acme.example")))
    assert not User.objects.get(email="later@acme.example").has_usable_password()


def test_a_weak_password_is_refused_and_the_invitation_stays_open(alice: Person) -> None:
    token = invited(alice)

    weak = accept(token, "short")

    assert weak.status_code == 422 and "password" in weak.json()["error"]["details"]["fields"]
    assert not User.objects.filter(email=CAROL).exists()
    assert accept(token).status_code == 201


def test_guessing_the_password_of_the_address_ends_in_the_lock_out(alice: Person, bob: Person) -> None:
    token = invited(alice, bob.email)

    statuses = [accept(token, f"a guess, number {number}").status_code for number in range(6)]

    assert statuses == [401] * 5 + [429]


# What opens nothing any more --------------------------------------------------------------------------------------


def _accepted(alice: Person, token: str) -> None:
    accept(token)
    Membership.objects.filter(user__email=CAROL).delete()


def _withdrawn(alice: Person, token: str) -> None:
    address = f"{invitations(alice)}/{Invitation.objects.get().pk}"
    assert api(alice).delete(address).status_code == 204


def _late(alice: Person, token: str) -> None:
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def _closed(alice: Person, token: str) -> None:
    Organization.objects.update(is_active=False)


def _inviter_removed(alice: Person, token: str) -> None:
    Membership.objects.filter(user__email="adam@acme.example").delete()


def _inviter_demoted(alice: Person, token: str) -> None:
    Membership.objects.filter(user__email="adam@acme.example").update(role="developer")


def _inviter_switched_off(alice: Person, token: str) -> None:
    User.objects.filter(email="adam@acme.example").update(is_active=False)


@pytest.mark.parametrize(
    "end", [_accepted, _withdrawn, _late, _closed, _inviter_removed, _inviter_demoted, _inviter_switched_off]
)
def test_what_has_ended_lets_nobody_in(alice: Person, adam: Person, end: Any) -> None:
    token = invited(adam)
    end(alice, token)

    answer, never = accept(token), accept("gate_invitation_that-never-was")

    assert answer.status_code == never.status_code == 404
    assert answer.json()["error"]["message"] == never.json()["error"]["message"]
    assert not is_member(alice, CAROL)


def test_an_invitation_that_is_over_makes_room_for_another_and_is_cleaned_up(alice: Person) -> None:
    invited(alice)
    Invitation.objects.update(expires_at=timezone.now())
    token = invited(alice)
    Invitation(
        organization=alice.organization, email="late@acme.example", digest="0" * 64, expires_at=timezone.now()
    ).store()

    forget_ended()

    assert list(Invitation.objects.values_list("email", flat=True)) == [CAROL]
    assert accept(token).status_code == 201


# Who may invite whom ----------------------------------------------------------------------------------------------


def test_the_answer_does_not_tell_whether_the_address_has_an_account(alice: Person, bob: Person, root: Person) -> None:
    inactive = make_person("ivan", "globex", "viewer")
    services.deactivate_user(root.actor, user_id=inactive.user.id)
    told, asked = [], []

    for email in (bob.email, inactive.email, "nobody@nowhere.example"):
        caller = api(alice)
        with CaptureQueriesContext(connection) as queries:
            answer = caller.post(invitations(alice), {"email": email}, format="json")
        own = {"id", "email", "link", "created_at", "expires_at"}
        told.append((answer.status_code, {name: value for name, value in answer.json().items() if name not in own}))
        asked.append(len(queries))

    assert told == [told[0]] * 3 and told[0][0] == 201
    assert asked == [asked[0]] * 3


@pytest.mark.parametrize(
    "body", [{}, {"email": "no address"}, {"email": CAROL, "role": "emperor"}, {"email": CAROL, "password": "x" * 20}]
)
def test_an_invitation_that_cannot_be_is_refused(alice: Person, body: dict[str, Any]) -> None:
    assert api(alice).post(invitations(alice), body, format="json").status_code == 422
    assert not Invitation.objects.exists()


def test_members_and_those_who_are_invited_are_not_invited_again(alice: Person, dora: Person) -> None:
    with pytest.raises(Conflict, match="member already"):
        invited(alice, dora.email)
    invited(alice)
    with pytest.raises(Conflict, match="open invitation"):
        invited(alice, CAROL.upper())


def test_nobody_gives_more_than_they_hold(alice: Person, adam: Person, dora: Person, bob: Person) -> None:
    with pytest.raises(NotPermitted):
        invited(dora)
    with pytest.raises(NotPermitted):
        invited(adam, role="owner")
    with pytest.raises(NotFound):
        services.invite_member(bob.actor, organization_id=alice.organization.id, email=CAROL)
    assert not Invitation.objects.exists()


def test_only_staff_see_and_withdraw_invitations(alice: Person, dora: Person) -> None:
    invited(alice)
    address = f"{invitations(alice)}/{Invitation.objects.get().pk}"

    assert api(dora).get(invitations(alice)).status_code == api(dora).delete(address).status_code == 403
    assert [each["email"] for each in api(alice).get(invitations(alice)).json()["items"]] == [CAROL]


def test_the_token_is_kept_nowhere_and_told_once(alice: Person) -> None:
    token = invited(alice)

    dump = "".join(serializers.serialize("json", model.objects.all()) for model in apps.get_models())
    shown = api(alice).get(invitations(alice)).content.decode()
    entry = Entry.objects.get(action="member.invited")

    assert token not in dump + shown and "link" not in shown
    assert (entry.subject, entry.details) == (f"invitation:{CAROL}", {"role": "viewer"})


def test_joining_is_in_the_journal_of_the_organisation(alice: Person) -> None:
    accept(invited(alice))

    entries = Entry.objects.for_org(alice.organization.id).order_by("sequence")
    assert list(entries.values_list("action", "actor_label")) == [
        ("member.invited", alice.email), ("user.created", CAROL), ("member.added", CAROL),
    ]  # fmt: skip


# The page ---------------------------------------------------------------------------------------------------------


def test_the_page_lets_in_and_shows_no_secret_again(alice: Person) -> None:
    token, browser = invited(alice, role="admin"), Client()
    form = {"token": token, "name": "Carol", "password": HER_OWN, "again": "something else"}

    opened = browser.get("/invitation")
    wrong = browser.post("/invitation", form)
    welcome = browser.post("/invitation", {**form, "again": HER_OWN})
    spent = browser.post("/invitation", {**form, "again": HER_OWN})

    assert opened.status_code == 200 and "no-store" in opened["Cache-Control"]
    assert "This is not the same password." in wrong.text
    assert "Welcome to Acme" in welcome.text and "/admin/" in welcome.text
    assert "Ask for another one" in spent.text
    assert not [page for page in (wrong, spent, welcome) if token in page.text or HER_OWN in page.text]
    assert is_member(alice, CAROL)


def test_the_page_needs_a_form_of_ours(alice: Person) -> None:
    form = {"token": invited(alice), "password": HER_OWN, "again": HER_OWN}

    assert Client(enforce_csrf_checks=True).post("/invitation", form).status_code == 403
    assert not is_member(alice, CAROL)


def test_a_link_leads_to_the_page_and_its_token_stays_behind_the_hash(alice: Person, settings: Any) -> None:
    made = services.invite_member(alice.actor, organization_id=alice.organization.id, email=CAROL)

    address, _, token = made.link.partition("#")
    assert address == f"{settings.PUBLIC_URL}/invitation"
    assert json.dumps(token) and len(token) > 40 and "?" not in made.link
    with pytest.raises(NotAuthenticated):
        services.login(email=CAROL, password=PASSWORD)
