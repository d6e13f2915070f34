"""Signing in to the control room: by e-mail address, under the lock-out, for those who run something."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from apps.audit.models import PLATFORM_CHAIN, Entry
from tests.factories.auth import OrganizationFactory

LOGIN = "admin:login"


def sign_in(email: str, password: str, client: Client | None = None):
    """Fill in the form and follow where it leads."""
    return (client or Client()).post(reverse(LOGIN), {"username": email, "password": password}, follow=True)


@pytest.mark.parametrize("name", ["alice", "adam", "root"])
def test_those_who_run_something_reach_the_overview(name, request):
    person = request.getfixturevalue(name)

    answer = sign_in(person.email.upper(), person.password)

    assert answer.redirect_chain == [(reverse("admin:index"), 302)]
    assert Entry.objects.filter(action="session.opened", surface="admin", actor_label=person.email).exists()


@pytest.mark.parametrize("name", ["dora", "victor"])
def test_others_are_told_no_more_than_about_a_wrong_password(name, request):
    person = request.getfixturevalue(name)

    right, wrong = sign_in(person.email, person.password), sign_in(person.email, "not the password")
    nobody = sign_in("nobody@acme.example", "not the password")

    assert {message(right), message(wrong), message(nobody)} == {message(wrong)}
    assert "_auth_user_id" not in right.client.session


def test_too_many_failures_lock_even_the_right_password_out(alice, settings):
    for _ in range(settings.LOGIN_FAILURES):
        sign_in(alice.email, "not the password")

    answer = sign_in(alice.email, alice.password)

    assert "Too many failed logins" in answer.text
    assert "_auth_user_id" not in answer.client.session
    assert Entry.objects.filter(chain_id=PLATFORM_CHAIN, action="login.locked").exists()


def test_somebody_switched_off_is_signed_out_at_once(alice, root):
    from apps.auth import services

    client = sign_in(alice.email, alice.password).client
    services.deactivate_user(root.actor, user_id=alice.user.pk)

    assert client.get(reverse("admin:index")).status_code == 302


def test_somebody_who_no_longer_runs_anything_is_let_in_no_further(alice, bob):
    from apps.auth.models import Membership

    client = sign_in(alice.email, alice.password).client
    Membership.objects.filter(user=alice.user).update(role="viewer")

    assert client.get(reverse("admin:index")).status_code == 302


def test_one_changes_ones_own_password_and_stays_signed_in_only_here(alice):
    here, elsewhere = sign_in(alice.email, alice.password).client, sign_in(alice.email, alice.password).client
    sent = {
        "old_password": alice.password,
        "new_password1": "another long password",
        "new_password2": "another long password",
    }

    answer = here.post(reverse("admin:password_change"), sent)

    assert answer.status_code == 302
    assert here.get(reverse("admin:index")).status_code == 200
    assert elsewhere.get(reverse("admin:index")).status_code == 302
    assert Entry.objects.filter(action="user.password_changed").exists()


def test_a_page_that_was_asked_for_is_where_one_arrives(alice):
    client = Client()
    asked = client.get(reverse("admin:audit_entry_changelist"))

    answer = client.post(asked.url, {"username": alice.email, "password": alice.password})

    assert answer.url == reverse("admin:audit_entry_changelist")


def test_the_sign_in_page_leads_nowhere_else(alice):
    answer = Client().post(
        f"{reverse(LOGIN)}?next=https://evil.example/", {"username": alice.email, "password": alice.password}
    )

    assert answer.url == reverse("admin:index")


def message(answer) -> str:
    """What the page says went wrong."""
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text.split('id="login-form"')[0]).split())


def test_a_platform_admin_begins_in_the_one_organisation_that_there_is(root, alice):
    client = Client()
    sign_in(root.email, root.password, client)
    alone = client.get("/admin/registry/server/add/")
    OrganizationFactory()
    other = Client()
    sign_in(root.email, root.password, other)
    sent_back = other.get("/admin/registry/server/add/", follow=True)

    assert alone.status_code == 200
    assert sent_back.redirect_chain == [("/admin/registry/server/", 302)]
    assert "Choose an organisation first" in sent_back.text
    assert other.post("/admin/registry/server/add/", {}).status_code == 403
