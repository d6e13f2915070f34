"""The way into the control room: the second step, the proof before what opens doors, and links (O02, O04, O06)."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client, RequestFactory
from django.urls import reverse

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import ApiKey, Invitation, Membership, SecondFactor
from apps.core.staff.deeds import deeds_of
from apps.registry.models import Credential, Server
from apps.secrets.models import Secret
from config.doctor.people import examine_second_factors
from config.entrance import CONFIRMED_AT, safe_next
from tests.authenticator import Authenticator, enrol
from tests.factories.auth import ApiKeyFactory, MembershipFactory
from tests.factories.registry import CredentialFactory, ServerFactory
from tests.people import Person
from tests.staff.rooms import deed_url, enter, list_url, page_url, rows_of

pytestmark = pytest.mark.django_db

LOGIN, CODE, CONFIRM, PAGE, HOME = (
    f"/admin/{name}" for name in ("login/", "login/code/", "confirm/", "second-factor/", "")
)
KINDS = ("application/x-www-form-urlencoded", "text/plain", "application/json", "multipart/form-data; boundary=x")
JOURNAL = "/admin/audit/entry/"
ELSEWHERE = (
    "https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "\\\\evil.example",
    "/\\/evil.example", "https:evil.example", "http:///evil.example", "javascript:alert(1)", "data:text/html,x",
    "/%09/evil.example", "/\t/evil.example", "/\n/evil.example", "\uff0f\uff0fevil.example", "/\uff0fevil.example",
    "/\u2044evil.example", "//evil\u3002example", "https://evil.example\\@testserver/admin/", "/admin\\@evil.example",
    "//testserver@evil.example/admin/", "/admin/\\..\\..//evil", "//evil.example/admin/", "/admin/..//evil.example",
    "/admin/%2e%2e//evil.example", "/admin/%5c..%2f/evil", " //evil.example", "\u00a0//evil.example", "/docs", "admin/",
    "?next=//evil.example", "/admin/\r\nLocation: //evil.example", "/admin/\u202e//evil", "/administrator/",
)  # fmt: skip


def password_of(person: Person) -> dict[str, str]:
    return {"username": person.email, "password": person.password}


def first_step(person: Person, *, goal: str = "") -> Any:
    """The answer to the right password."""
    return Client().post(f"{LOGIN}?next={goal}" if goal else LOGIN, password_of(person))


def is_in(client: Client) -> bool:
    return client.get(HOME).status_code == 200


# The second step


def test_a_password_alone_gets_no_further_than_the_second_step(alice):
    authenticator, _ = enrol(alice)

    answer = first_step(alice, goal=JOURNAL)
    client = answer.client

    assert answer.url == f"{CODE}?next={JOURNAL}"
    assert not is_in(client)
    assert "_auth_user_id" not in client.session
    assert client.get("/health/detailed").status_code == 401
    assert client.post(answer.url, {"code": authenticator.code()}).url == JOURNAL
    assert is_in(client)
    assert Entry.objects.filter(action="session.opened", actor_label=alice.email).count() == 1


def test_a_wrong_code_gets_nobody_in_and_too_many_lock_even_the_right_one_out(alice, settings):
    authenticator, codes = enrol(alice)
    client = first_step(alice).client

    for _ in range(settings.LOGIN_FAILURES):
        assert "This code is not right" in client.post(CODE, {"code": authenticator.wrong()}).text
    for code in (authenticator.code(), codes[0]):
        assert "Too many wrong codes" in client.post(CODE, {"code": code}).text

    assert not is_in(client)


def test_the_second_step_is_for_whoever_took_the_first_and_not_for_long(alice, bob, root, monkeypatch):
    authenticator, _ = enrol(alice)
    theirs, _ = enrol(bob)

    assert Client().post(CODE, {"code": authenticator.code()}).url.startswith(LOGIN)
    client = first_step(alice).client
    assert "This code is not right" in client.post(CODE, {"code": theirs.code()}).text

    late = first_step(alice).client
    session = late.session
    session["half_signed_in"] = {**session["half_signed_in"], "at": time.time() - 301}
    session.save()
    assert late.post(CODE, {"code": authenticator.code()}).url.startswith(LOGIN)

    auth.set_password(root.actor, user_id=alice.user.pk, password="another long password")
    assert client.post(CODE, {"code": authenticator.code()}).url.startswith(LOGIN)
    assert not is_in(client) and not is_in(late)


def test_the_cookie_of_the_first_step_is_not_that_of_the_second(alice):
    authenticator, _ = enrol(alice)
    client = Client()
    client.get(LOGIN)
    first = client.post(LOGIN, password_of(alice)).client.cookies["sessionid"].value
    client.post(CODE, {"code": authenticator.code()})

    assert client.cookies["sessionid"].value != first
    thief = Client()
    thief.cookies["sessionid"] = first
    assert not is_in(thief)


# Setting it up


def test_staff_set_up_a_second_factor_with_a_picture_drawn_here(alice):
    client, elsewhere = enter(alice), enter(alice)
    client.post(f"{PAGE}begin/")
    page = client.get(PAGE).text
    seed = re.search(r"<code[^>]*>([A-Z2-7]{32})</code>", page)[1]

    assert 'src="data:image/svg+xml' in page
    assert "This code is not right" in client.post(f"{PAGE}confirm/", {"code": Authenticator(seed).wrong()}).text
    codes = client.post(f"{PAGE}confirm/", {"code": Authenticator(seed).code()}).text

    found = re.findall(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b", codes)
    assert len(found) == 10
    assert is_in(client) and not is_in(elsewhere)
    again = client.get(PAGE).text
    assert seed not in again and not any(code in again for code in found)


def test_new_recovery_codes_and_removal_are_a_click_after_a_proof(alice):
    authenticator, _ = enrol(alice)
    client = enter(alice, is_confirmed=False)

    for name in ("renew", "remove"):
        assert client.post(f"{PAGE}{name}/").url == f"{CONFIRM}?next={PAGE}"
    assert auth.has_second_factor(alice.user)
    assert client.post(f"{CONFIRM}?next={PAGE}", {"code": authenticator.code()}).url == PAGE
    assert len(re.findall(r"\b[a-z2-7]{4}(?:-[a-z2-7]{4}){3}\b", client.post(f"{PAGE}renew/").text)) == 10
    client.post(f"{PAGE}remove/")
    assert not SecondFactor.objects.exists()
    assert is_in(client)


def test_a_pending_seed_is_shown_to_nobody_unconfirmed(alice):
    begun = auth.begin_second_factor(alice.actor)

    answer = enter(alice, is_confirmed=False).get(PAGE)

    assert answer.url == f"{CONFIRM}?next={PAGE}"
    assert begun.seed not in answer.text


def test_where_it_is_demanded_nothing_else_opens_until_there_is_one(alice, root, settings):
    settings.REQUIRE_SECOND_FACTOR = True
    for person in (alice, root):
        client = first_step(person).client
        rows = rows_of(alice.organization)

        for address in (
            HOME,
            list_url(Server),
            page_url(rows[Server]),
            f"{list_url(ApiKey)}add/",
            "/admin/search/?s=a",
        ):
            assert client.get(address).url == PAGE, address
        assert client.post("/admin/switch-organization/", {"organization": ""}).url == PAGE
        assert client.post(deed_url(rows[Server], "approve")).url == PAGE
        assert client.get("/health/detailed").status_code == 403

        client.post(f"{PAGE}begin/")
        seed = re.search(r"<code[^>]*>([A-Z2-7]{32})</code>", client.get(PAGE).text)[1]
        client.post(f"{PAGE}confirm/", {"code": Authenticator(seed).code()})
        assert is_in(client)


def test_the_doctor_recommends_it_where_others_can_reach_the_control_room(root, settings):
    assert examine_second_factors().state == "ok"
    settings.PUBLIC_URL = "https://gatehouse.example.com"
    finding = examine_second_factors()
    assert (finding.state, finding.ok) == ("note", True)
    assert "GATEHOUSE_REQUIRE_SECOND_FACTOR" in finding.cure

    settings.REQUIRE_SECOND_FACTOR = True
    assert examine_second_factors().state == "ok"
    settings.REQUIRE_SECOND_FACTOR = False
    enrol(root)
    assert examine_second_factors().why == "every platform admin has one"


def test_platform_admins_take_it_from_others_and_everybody_sees_who_has_one(alice, adam, root):
    enrol(alice)
    user = alice.user

    assert enter(adam).post(deed_url(user, "remove_second_factor")).status_code == 403
    assert "Set up" in enter(adam).get(page_url(user)).text
    assert "None" in enter(adam).get(page_url(adam.user)).text
    assert enter(root).post(deed_url(user, "remove_second_factor")).status_code == 302
    assert not auth.has_second_factor(user)


# The proof


def test_signing_in_is_a_proof_for_a_while(alice, settings):
    client = first_step(alice).client
    assert client.get(f"{list_url(ApiKey)}add/").status_code == 200

    session = client.session
    session[CONFIRMED_AT] = time.time() - settings.CONFIRM_SECONDS
    session.save()
    assert client.get(f"{list_url(ApiKey)}add/").url == f"{CONFIRM}?next={list_url(ApiKey)}add/"
    for later in (time.time() + 60, -1):
        session[CONFIRMED_AT] = later
        session.save()
        assert client.get(f"{list_url(ApiKey)}add/").status_code == 302


def test_the_proof_is_the_password_and_goes_back_to_what_was_asked_for(alice):
    client = enter(alice, is_confirmed=False)
    asked = client.get(f"{list_url(ApiKey)}add/").url

    assert "do not belong together" in client.post(asked, {"password": "wrong"}).text
    assert client.get(f"{list_url(ApiKey)}add/").status_code == 302
    assert client.post(asked, {"password": alice.password}).url == f"{list_url(ApiKey)}add/"
    assert client.get(f"{list_url(ApiKey)}add/").status_code == 200
    assert Entry.objects.filter(action="session.confirmed", actor_label=alice.email).count() == 1


def test_with_a_second_factor_the_proof_is_its_code_and_not_the_password(alice):
    authenticator, _ = enrol(alice)
    client = enter(alice, is_confirmed=False)

    client.post(CONFIRM, {"password": alice.password, "code": alice.password})
    assert CONFIRMED_AT not in client.session
    client.post(CONFIRM, {"code": authenticator.code()})
    assert CONFIRMED_AT in client.session


@pytest.mark.parametrize("has_factor", [False, True])
def test_guesses_at_the_proof_are_counted(alice, settings, has_factor):
    authenticator = enrol(alice)[0] if has_factor else None
    client = enter(alice, is_confirmed=False)
    name, wrong, right = (
        ("code", authenticator.wrong(), authenticator.code())
        if authenticator
        else ("password", "wrong", alice.password)
    )

    for _ in range(settings.LOGIN_FAILURES):
        client.post(CONFIRM, {name: wrong})

    assert "Too many" in client.post(CONFIRM, {name: right}).text
    assert CONFIRMED_AT not in client.session


def test_guesses_at_the_old_password_are_counted(alice, settings):
    client = enter(alice)
    sent = {"new_password1": "another long password", "new_password2": "another long password"}

    for _ in range(settings.LOGIN_FAILURES):
        client.post("/admin/password_change/", {**sent, "old_password": "wrong"})

    answer = client.post("/admin/password_change/", {**sent, "old_password": alice.password})
    assert "Too many failed logins" in answer.text


def what_opens_doors(alice: Person, root: Person) -> Iterator[tuple[Person, str, dict[str, Any]]]:
    """Every request of the control room that makes, changes or takes what opens doors."""
    here = alice.organization
    server, stdio = (
        ServerFactory(organization=here),
        ServerFactory(
            organization=here, transport="stdio", url="", command=["mcp-server-time", "--local-timezone", "UTC"]
        ),
    )
    key, credential = ApiKeyFactory(organization=here), CredentialFactory(server=server)
    member = MembershipFactory(organization=here)
    yield alice, f"{list_url(ApiKey)}add/", {"name": "ci", "user": str(alice.user.pk), "once": "x"}
    yield alice, f"{list_url(Credential)}add/", {"server": str(server.pk), "kind": "bearer", "secret": "canary"}
    yield alice, f"{list_url(Invitation)}add/", {"email": "new@acme.example", "role": "admin"}
    yield alice, page_url(member), {"role": "admin"}
    yield alice, deed_url(key, "revoke"), {}
    yield alice, deed_url(key, "rotate"), {"overlap_seconds": "0"}
    yield alice, deed_url(credential, "remove"), {}
    yield alice, deed_url(member, "remove"), {}
    yield alice, deed_url(stdio, "approve"), {}
    yield alice, list_url(ApiKey), {"action": "revoke", "_selected_action": [str(key.pk)]}
    yield alice, list_url(Server), {"action": "approve", "_selected_action": [str(stdio.pk)]}
    yield root, f"{list_url(type(alice.user))}add/", {"email": "new@acme.example", "is_platform_admin": "on"}
    yield root, deed_url(alice.user, "set_password"), {"password": "another long password"}
    yield root, deed_url(alice.user, "deactivate"), {}
    yield root, f"{list_url(Server)}add/", {
        **blank(server), "name": "Time", "slug": "time2", "transport": "stdio",
        "command": "mcp-server-time\n--local-timezone\nUTC",
    }  # fmt: skip
    yield (
        root,
        page_url(stdio),
        {**blank(stdio), "name": "Another", "command": "mcp-server-time\n--local-timezone\nUTC"},
    )
    yield alice, "/admin/password_change/", {"old_password": alice.password}
    yield alice, f"{PAGE}begin/", {}


def blank(server: Server) -> dict[str, Any]:
    """A server's form as it is, without what is empty."""
    names = (
        "name", "slug", "transport", "url", "environment", "timeout_seconds", "max_concurrency",
        "check_interval_seconds", "check_timeout_seconds", "check_retries",
    )  # fmt: skip
    return {name: value for name in names if (value := getattr(server, name)) is not None}


def test_whatever_opens_doors_asks_for_a_proof_first_and_changes_nothing_without(alice, root):
    asked = list(what_opens_doors(alice, root))
    rows = (ApiKey, Credential, Invitation, Membership, Secret, Server, type(alice.user), SecondFactor)
    before = [sorted(model.objects.values_list("pk", "updated_at")) for model in rows]
    entries = Entry.objects.count()

    for person, address, sent in asked:
        organization = alice.organization if person is root else None
        answer = enter(person, organization, is_confirmed=False).post(address, sent)
        assert answer.status_code == 302 and answer.url.startswith(f"{CONFIRM}?next=/admin/"), (
            address,
            answer.status_code,
        )

    assert [sorted(model.objects.values_list("pk", "updated_at")) for model in rows] == before
    assert Entry.objects.count() == entries


def test_looking_and_what_opens_nothing_asks_for_no_proof(alice):
    client = enter(alice, is_confirmed=False)
    rows = rows_of(alice.organization)

    for model, row in rows.items():
        assert client.get(list_url(model)).status_code in (200, 403), model
        assert client.get(page_url(row)).status_code in (200, 403), model
    assert client.post(deed_url(rows[Server], "approve")).url == page_url(rows[Server])
    assert Server.objects.get(pk=rows[Server].pk).approved_at


# Where links may lead


def test_o04_nobody_goes_on_anywhere_but_inside(alice):
    request = RequestFactory().get(LOGIN)

    assert {safe_next(request, goal) for goal in ELSEWHERE} == {HOME}
    for inside in (JOURNAL, f"{JOURNAL}?q=a%2Fb//c&page=2", page_url(alice.user), f"{list_url(Server)}add/"):
        assert safe_next(request, inside) == inside


def test_o04_no_link_of_the_control_room_leads_elsewhere(alice):
    here = str(alice.organization.pk)

    for goal in ELSEWHERE:
        client, ask = Client(), {"query_params": {"next": goal}}
        assert client.post(LOGIN, {**password_of(alice), "next": goal}, **ask).url == HOME, goal
        assert client.post("/admin/switch-organization/", {"organization": here, "next": goal}, **ask).url == HOME, goal
        assert client.post("/admin/logout/", {"next": goal}, **ask).url == LOGIN, goal


def test_o04_neither_does_the_second_step_or_the_proof(alice):
    authenticator, codes = enrol(alice)

    for goal, code in zip(ELSEWHERE, codes, strict=False):
        client, ask = Client(), {"query_params": {"next": goal}}
        assert client.post(LOGIN, password_of(alice), **ask).url == f"{CODE}?next={HOME}"
        assert client.post(CODE, {"code": code}, **ask).url == HOME
    assert client.post(CONFIRM, {"code": authenticator.code()}, **ask).url == HOME


# Forged requests


def test_o02_no_form_of_the_control_room_is_believed_without_its_token(alice, root):
    rows = rows_of(alice.organization)
    addresses = [LOGIN, CODE, CONFIRM, "/admin/logout/", "/admin/password_change/", "/admin/switch-organization/"]
    addresses += [f"{PAGE}{name}/" for name in ("begin", "confirm", "renew", "remove")]
    for model, page in admin.site._registry.items():
        addresses += [list_url(model), f"{list_url(model)}add/"]
        if model in rows:
            addresses += [page_url(rows[model]), *(deed_url(rows[model], each.name) for each in deeds_of(type(page)))]
    assert len(addresses) > 60

    client = enter(root, alice.organization, checks_csrf=True)
    for number, address in enumerate(addresses):
        kind = KINDS[number % len(KINDS)]
        assert client.post(address, b'{"a": "b"}', content_type=kind).status_code == 403, (address, kind)


def test_o02_a_token_of_another_session_or_origin_is_no_token(alice):
    client = enter(alice, checks_csrf=True)
    client.get(HOME)
    token = client.cookies["csrftoken"].value
    address = "/admin/switch-organization/"

    for sent, headers in (
        ({"csrfmiddlewaretoken": "x" * 64}, {}),
        ({"csrfmiddlewaretoken": token}, {"origin": "https://evil.example"}),
        ({"csrfmiddlewaretoken": token}, {"origin": "null"}),
        ({"csrfmiddlewaretoken": token}, {"origin": "http://testserver.evil.example"}),
    ):
        assert client.post(address, {"organization": "", **sent}, headers=headers).status_code == 403, headers
    assert client.post(address, {"organization": "", "csrfmiddlewaretoken": token}).status_code == 302


def test_a_session_of_one_person_is_confirmed_for_no_other(alice, bob):
    """A proof stands in the session, so it must end with it."""
    client = first_step(alice).client
    assert CONFIRMED_AT in client.session
    client.post("/admin/logout/")
    assert CONFIRMED_AT not in client.session

    client = first_step(alice).client
    client.force_login(bob.user)
    assert CONFIRMED_AT not in client.session
    assert reverse("admin:index") == HOME
