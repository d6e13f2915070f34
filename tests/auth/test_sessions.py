"""Signing in, going on and signing out (AUTH-3, AUTH-8; attacks A13, A14, A15, A28, A29)."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.hashers import identify_hasher, make_password
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.auth import services
from apps.auth.models import LoginFailure, Membership, Organization, RefreshToken, User
from apps.auth.services import passwords, sessions
from apps.auth.tasks import forget_ended
from apps.core.actor import system_actor
from apps.core.errors import RateLimited
from tests.auth.forge import ME, client, knock, opens_mcp, refused, sign_in
from tests.factories.auth import RefreshTokenFactory
from tests.people import PASSWORD, Person, make_person
from tests.waiting import and_disconnect, count_waiting_for_rows, wait_until

LOGIN = "/api/v1/auth/login"
REFRESH = "/api/v1/auth/refresh"
LOGOUT = "/api/v1/auth/logout"


def log_in(email: str, password: str = PASSWORD, *, address: str = "203.0.113.1", **more: Any) -> Any:
    """What POST /auth/login answers."""
    body = {"email": email, "password": password, **more}
    return Client(REMOTE_ADDR=address).post(LOGIN, body, content_type="application/json")


def exchange(refresh: str) -> Any:
    """What POST /auth/refresh answers."""
    return client().post(REFRESH, {"refresh": refresh}, format="json")


def leave(refresh: str) -> Any:
    """What POST /auth/logout answers."""
    return client().post(LOGOUT, {"refresh": refresh}, format="json")


# Login ------------------------------------------------------------------------------------------------------------


def test_a_login_gives_a_pair_and_says_where(alice: Person) -> None:
    answer = log_in(alice.email)

    assert answer.status_code == 200
    assert set(answer.json()) == {"access", "refresh", "token_type", "expires_in", "organization"}
    assert answer.json()["expires_in"] == 900
    assert answer.json()["organization"]["slug"] == "acme"
    assert knock(answer.json()["access"]).status_code == 200


def test_me_tells_user_place_role_and_permissions(dora: Person) -> None:
    answer = knock(sign_in(dora).access).json()

    assert answer["user"]["email"] == dora.email
    assert answer["organization"]["slug"] == "acme"
    assert answer["role"] == "developer"
    assert answer["permissions"] == sorted(dora.actor.grants)
    assert [place["role"] for place in answer["organizations"]] == ["developer"]


@pytest.mark.parametrize(
    "spelling",
    ["ALICE@ACME.EXAMPLE", " alice@acme.example ", "\uff41\uff4c\uff49\uff43\uff45@acme.example", "Alice@acme.example"],
)
def test_an_address_is_the_same_in_any_case_and_width(alice: Person, spelling: str) -> None:
    assert log_in(spelling).status_code == 200


def test_nobody_gets_an_address_that_differs_in_case_or_width_only(root: Person, alice: Person) -> None:
    for spelling in ("ALICE@acme.example", "\uff41\uff4c\uff49\uff43\uff45@acme.example"):
        with pytest.raises(Exception, match="exists already"):
            services.create_user(root.actor, email=spelling, password=PASSWORD)


def test_spaces_around_a_password_belong_to_it(root: Person) -> None:
    services.create_user(root.actor, email="eve@acme.example", password="  two spaces around  ")

    assert log_in("eve@acme.example", "  two spaces around  ").status_code == 200
    assert log_in("eve@acme.example", "two spaces around").status_code == 401


def test_a_member_of_two_organisations_chooses_one_or_names_one_by_request(alice: Person, bob: Person) -> None:
    services.add_member(system_actor(), organization_id=bob.organization.id, user_id=alice.user.id, role="viewer")

    undecided = log_in(alice.email).json()
    decided = log_in(alice.email, organization=str(bob.organization.id)).json()

    assert undecided["organization"] is None
    assert client(undecided["access"], HTTP_X_ORGANIZATION="globex").get(ME).json()["role"] == "viewer"
    assert client(undecided["access"], HTTP_X_ORGANIZATION="acme").get(ME).json()["role"] == "owner"
    assert client(undecided["access"]).get(ME).json()["permissions"] == []
    assert decided["organization"]["slug"] == "globex"


def test_a_login_for_a_place_where_one_does_not_belong_finds_nothing(alice: Person, bob: Person) -> None:
    assert log_in(alice.email, organization="globex").status_code == 404
    assert log_in(alice.email, organization="nowhere").status_code == 404


def test_a_platform_admin_names_an_organisation_or_none(root: Person, alice: Person) -> None:
    assert log_in(root.email).json()["organization"] is None
    assert log_in(root.email, organization="acme").json()["organization"]["slug"] == "acme"


def test_a_resource_asks_for_tokens_of_the_mcp_endpoint(alice: Person) -> None:
    access = log_in(alice.email, resource=settings.MCP_AUDIENCE).json()["access"]

    assert opens_mcp(access)
    assert refused(knock(access))


@pytest.mark.parametrize("resource", ["https://evil.example/mcp", "/mcp", "", "x"])
def test_a_resource_that_is_not_ours_is_refused(alice: Person, resource: str) -> None:
    answer = log_in(alice.email, resource=resource)

    assert answer.status_code == 422
    assert "resource" in answer.json()["error"]["details"]["fields"]


def test_a_body_with_names_that_we_do_not_know_is_refused(alice: Person) -> None:
    answer = log_in(alice.email, is_superuser=True)

    assert answer.status_code == 422
    assert "is_superuser" in answer.json()["error"]["details"]["fields"]


@pytest.mark.parametrize(
    "body", [{}, {"email": "a@b.example"}, {"email": 1, "password": 2}, {"email": "a", "password": ""}]
)
def test_half_a_login_is_refused_by_field(db: None, body: dict[str, Any]) -> None:
    answer = Client().post(LOGIN, body, content_type="application/json")

    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["fields"]


def test_a_query_is_no_place_for_a_password(alice: Person) -> None:
    body = {"email": alice.email, "password": PASSWORD}

    assert Client().post(f"{LOGIN}?password=x", body, content_type="application/json").status_code == 400


# A29: nothing to learn ---------------------------------------------------------------------------------------------


def test_missing_inactive_and_wrong_get_the_same_answer_after_the_same_work(
    alice: Person, adam: Person, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.deactivate_user(root.actor, user_id=adam.user.id)
    unusable = User.objects.create_user("nopassword@acme.example")
    hashed: list[str] = []
    real = passwords._turn_to_hash

    def counted() -> Any:
        hashed.append("once")
        return real()

    monkeypatch.setattr(passwords, "_turn_to_hash", counted)
    answers = [
        log_in("nobody@acme.example"),
        log_in(adam.email),
        log_in(alice.email, "wrong wrong wrong"),
        log_in(unusable.email),
    ]

    shown = [{**answer.json()["error"], "timestamp": "", "request_id": ""} for answer in answers]
    assert all(refused(answer) for answer in answers)
    assert all(each == shown[0] for each in shown)
    assert len(hashed) == len(answers)


def test_who_exists_is_not_told_by_the_lock_out_either(alice: Person, adam: Person, root: Person) -> None:
    services.deactivate_user(root.actor, user_id=adam.user.id)

    def told(email: str) -> list[tuple[int, str, str]]:
        answers = [log_in(email, "wrong wrong wrong") for _ in range(7)]
        return [
            (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["message"])
            for answer in answers
        ]

    existing, inactive, missing = (told(email) for email in (alice.email, adam.email, "nobody@acme.example"))
    assert [status for status, _, _ in existing] == [401] * 5 + [429] * 2
    assert existing == inactive == missing


def test_passwords_are_hashed_with_argon2(settings: Any) -> None:
    from config import settings as ours

    settings.PASSWORD_HASHERS = ours.PASSWORD_HASHERS

    assert identify_hasher(make_password("a password")).algorithm == "argon2"


@pytest.mark.parametrize("password", ["short", "password1234", "alice@acme.example"])
def test_a_weak_password_is_refused(alice: Person, password: str) -> None:
    with pytest.raises(Exception, match="better password") as refusal:
        services.set_password(alice.actor, user_id=alice.user.id, password=password)
    assert refusal.value.details["fields"]["password"]


# A28: lock-out ----------------------------------------------------------------------------------------------------


def test_five_failures_lock_out_even_the_right_password(alice: Person) -> None:
    statuses = [log_in(alice.email, "wrong wrong wrong").status_code for _ in range(6)]
    answer = log_in(alice.email)

    assert statuses == [401] * 5 + [429]
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "RATE_LIMITED"
    assert 0 < int(answer.headers["Retry-After"]) <= 300


def test_the_lock_is_not_opened_by_another_spelling(alice: Person) -> None:
    for spelling in (
        "alice@acme.example",
        "ALICE@acme.example",
        "\uff41lice@acme.example",
        " alice@acme.example",
        "Alice@ACME.example",
    ):
        log_in(spelling, "wrong wrong wrong")

    assert log_in(alice.email).status_code == 429


def test_a_header_that_names_another_address_does_not_open_the_lock(alice: Person) -> None:
    for number in range(5):
        Client(REMOTE_ADDR="203.0.113.1", HTTP_X_FORWARDED_FOR=f"198.51.100.{number}").post(
            LOGIN, {"email": alice.email, "password": "wrong wrong"}, content_type="application/json"
        )

    assert log_in(alice.email).status_code == 429


def test_an_attacker_does_not_lock_out_the_victim_elsewhere(alice: Person) -> None:
    for _ in range(8):
        log_in(alice.email, "wrong wrong wrong", address="198.51.100.66")

    assert log_in(alice.email, address="203.0.113.1").status_code == 200


def test_addresses_of_one_ipv6_network_count_as_one(alice: Person) -> None:
    for number in range(5):
        log_in(alice.email, "wrong wrong wrong", address=f"2001:db8::{number + 1}")

    assert log_in(alice.email, address="2001:db8::99").status_code == 429
    assert log_in(alice.email, address="2001:db8:0:1::1").status_code == 200


def test_a_success_forgives_and_a_lock_ends(alice: Person) -> None:
    for _ in range(4):
        log_in(alice.email, "wrong wrong wrong")
    assert log_in(alice.email).status_code == 200
    assert not LoginFailure.objects.exists()

    for _ in range(5):
        log_in(alice.email, "wrong wrong wrong")
    LoginFailure.objects.update(locked_until=timezone.now() - timedelta(seconds=1))
    assert log_in(alice.email, "wrong wrong wrong").status_code == 401
    assert log_in(alice.email).status_code == 200


def test_a_failed_login_and_a_lock_are_in_the_journal_although_they_were_refused(alice: Person) -> None:
    for _ in range(5):
        log_in(alice.email, "wrong wrong wrong")

    entries = Entry.objects.filter(outcome="refused")
    assert entries.filter(action="login.failed").count() == 5
    assert entries.filter(action="login.locked", actor_label=alice.email, address="203.0.113.1").count() == 1


def test_a_password_typed_in_the_wrong_field_is_not_in_the_journal(db: None) -> None:
    log_in("correct horse battery", "x")

    assert Entry.objects.get().actor_label == "somebody"


@pytest.mark.django_db(transaction=True)
def test_many_guesses_at_once_are_not_many_guesses(alice: Person) -> None:
    def guess(number: int) -> str:
        try:
            services.verify_password(email=alice.email, password=f"wrong {number}", address="203.0.113.1")
        except RateLimited:
            return "locked"
        except Exception as error:
            return type(error).__name__
        finally:
            connection.close()
        return "in"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(guess, range(24)))

    assert results.count("NotAuthenticated") == 5
    assert results.count("locked") == 19


def test_the_admins_door_shares_the_lock(alice: Person, settings: Any) -> None:
    from django.contrib.auth import authenticate
    from django.test import RequestFactory

    request = RequestFactory().post("/admin/login/", REMOTE_ADDR="203.0.113.1")
    assert authenticate(request, username=alice.email, password=PASSWORD) == alice.user

    for _ in range(5):
        assert authenticate(request, username=alice.email, password="wrong wrong") is None

    assert authenticate(request, username=alice.email, password=PASSWORD) is None
    assert log_in(alice.email).status_code == 429


def test_an_address_that_floods_the_login_is_slowed_down(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.auth.api.floods.LOGIN_RATE", "3/h")

    statuses = [log_in(f"someone{number}@acme.example").status_code for number in range(5)]

    assert statuses == [401, 401, 401, 429, 429]
    assert log_in(alice.email, address="203.0.113.2").status_code == 200


def test_a_cache_that_is_down_does_not_close_the_login(alice: Person, settings: Any) -> None:
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    }

    assert log_in(alice.email).status_code == 200


# Refresh: A13, A15 ------------------------------------------------------------------------------------------------


def test_a_refresh_token_is_exchanged_for_the_next_pair(alice: Person) -> None:
    first = sign_in(alice)

    second = exchange(first.refresh)

    assert second.status_code == 200
    assert second.json()["refresh"] != first.refresh
    assert knock(second.json()["access"]).status_code == 200
    assert exchange(second.json()["refresh"]).status_code == 200


def test_a_spent_token_that_comes_back_ends_its_whole_family(alice: Person) -> None:
    stolen = sign_in(alice)
    thief = exchange(stolen.refresh).json()
    assert knock(thief["access"]).status_code == 200

    victim = exchange(stolen.refresh)

    assert refused(victim)
    assert refused(exchange(thief["refresh"]))
    assert refused(knock(thief["access"]))
    assert refused(knock(stolen.access))
    entry = Entry.objects.get(action="session.token_reused")
    assert (entry.outcome, entry.actor_id) == ("refused", str(alice.user.id))


def test_another_login_of_the_same_person_goes_on(alice: Person) -> None:
    stolen, other = sign_in(alice), sign_in(alice)
    exchange(stolen.refresh)
    exchange(stolen.refresh)

    assert knock(other.access).status_code == 200
    assert exchange(other.refresh).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_exchanges_at_once_one_wins_and_the_family_ends(alice: Person) -> None:
    given = sign_in(alice)
    start = threading.Barrier(4)

    def attempt(_: int) -> int:
        start.wait()
        try:
            return int(exchange(given.refresh).status_code)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(attempt, range(4)))

    assert statuses == [200, 401, 401, 401]
    assert not RefreshToken.objects.alive().exists()


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_who_waited_in_vain_for_a_token_keeps_nothing_when_the_chain_is_asked_for(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends the family holds the chain and wants the token's row: this one must not hold it the other way."""
    given, were_free = sign_in(alice), []
    rows = RefreshToken.objects.all()
    hold_chain = audit.hold_chain

    @transaction.atomic
    def is_free() -> bool:
        return rows.select_for_update(skip_locked=True).exists()

    def look_and_hold(organization_id: Any) -> None:
        were_free.append(pool.submit(and_disconnect, is_free).result())
        hold_chain(organization_id)

    monkeypatch.setattr(audit, "hold_chain", look_and_hold)
    with ThreadPoolExecutor(2) as pool:
        with transaction.atomic():
            rows.update(spent_at=timezone.now())
            late = pool.submit(and_disconnect, lambda: exchange(given.refresh))
            wait_until(count_waiting_for_rows)
        assert refused(late.result())

    assert were_free == [True]
    assert not rows.alive().exists()


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_logout_also_ends_the_pair_that_is_being_given_out(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sign_in(alice)
    issue = sessions._issue

    def issue_when_the_logout_waits(*arguments: Any, **named: Any) -> services.Tokens:
        pair = issue(*arguments, **named)
        leaving.append(pool.submit(and_disconnect, lambda: leave(given.refresh)))
        wait_until(count_waiting_for_rows)
        return pair

    monkeypatch.setattr(sessions, "_issue", issue_when_the_logout_waits)
    leaving: list[Future[Any]] = []
    with ThreadPoolExecutor(1) as pool:
        pair = exchange(given.refresh).json()

    assert leaving[0].result().status_code == 204
    assert refused(exchange(pair["refresh"]))
    assert refused(knock(pair["access"]))


def test_nobody_refreshes_whose_account_is_gone_or_switched_off(alice: Person, adam: Person, root: Person) -> None:
    deleted, inactive = sign_in(adam), sign_in(alice)

    Membership.objects.filter(user=adam.user).delete()
    adam.user.delete()
    User.objects.filter(pk=alice.user.id).update(is_active=False)

    assert refused(exchange(deleted.refresh))
    assert refused(exchange(inactive.refresh))


@pytest.mark.parametrize("refresh", ["", "x", "eyJ.eyJ.x", "a" * 9000, "\x00", 7, None, ["a"]])
def test_what_is_no_refresh_token_is_refused(db: None, refresh: Any) -> None:
    assert exchange(refresh).status_code in (401, 422)


def test_an_expired_row_is_not_exchanged(alice: Person) -> None:
    given = sign_in(alice)
    RefreshToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))

    assert refused(exchange(given.refresh))


# A14: what ends tokens --------------------------------------------------------------------------------------------


def _log_out(person: Person, pair: services.Tokens, root: Person) -> None:
    assert leave(pair.refresh).status_code == 204


def _change_password(person: Person, pair: services.Tokens, root: Person) -> None:
    services.set_password(person.actor, user_id=person.user.id, password="another good passphrase")


def _switch_off(person: Person, pair: services.Tokens, root: Person) -> None:
    services.deactivate_user(root.actor, user_id=person.user.id)


def _change_role(person: Person, pair: services.Tokens, root: Person) -> None:
    place = {"organization_id": person.organization.id, "membership_id": person.user.memberships.get().id}
    services.change_role(root.actor, role="viewer", **place)


def _remove(person: Person, pair: services.Tokens, root: Person) -> None:
    place = {"organization_id": person.organization.id, "membership_id": person.user.memberships.get().id}
    services.remove_member(root.actor, **place)


def _close_organization(person: Person, pair: services.Tokens, root: Person) -> None:
    services.update_organization(root.actor, organization_id=person.organization.id, is_active=False)


@pytest.mark.parametrize("end", [_log_out, _change_password, _switch_off, _change_role, _remove, _close_organization])
def test_the_end_of_a_session_ends_access_and_refresh_at_once(
    adam: Person, root: Person, end: Callable[..., None]
) -> None:
    pair = sign_in(adam)
    assert knock(pair.access).status_code == 200

    end(adam, pair, root)

    assert refused(knock(pair.access))
    assert refused(exchange(pair.refresh))


@pytest.mark.parametrize(
    "behind_our_back",
    [
        lambda person: RefreshToken.objects.update(revoked_at=timezone.now()),
        lambda person: User.objects.filter(pk=person.user.id).update(token_epoch=2),
        lambda person: User.objects.filter(pk=person.user.id).update(is_active=False),
        lambda person: Membership.objects.filter(user=person.user).delete(),
        lambda person: Organization.objects.update(is_active=False),
    ],
)
def test_what_another_process_ended_ends_here_within_a_second(
    adam: Person, behind_our_back: Callable[..., None]
) -> None:
    pair = sign_in(adam)
    assert knock(pair.access).status_code == 200

    behind_our_back(adam)
    time.sleep(1.0)

    assert refused(knock(pair.access))


def test_switching_a_user_on_again_needs_a_new_login(adam: Person, root: Person) -> None:
    pair = sign_in(adam)
    services.deactivate_user(root.actor, user_id=adam.user.id)
    services.activate_user(root.actor, user_id=adam.user.id)

    assert refused(knock(pair.access))
    assert knock(sign_in(adam).access).status_code == 200


def test_one_does_not_end_the_session_of_another(alice: Person, bob: Person) -> None:
    pair = sign_in(alice)

    with pytest.raises(Exception, match="ended"):
        services.logout(bob.actor, refresh=pair.refresh)

    assert knock(pair.access).status_code == 200


def test_a_person_who_is_made_by_hand_can_sign_in(root: Person) -> None:
    person = make_person("hand", "initech", "viewer")

    assert log_in(person.email).status_code == 200


def test_what_has_ended_is_forgotten_and_what_has_not_is_kept(alice: Person, bob: Person) -> None:
    log_in(alice.email, "wrong wrong wrong")
    log_in(bob.email, "wrong wrong wrong")
    kept = RefreshTokenFactory()
    RefreshTokenFactory(expires_at=timezone.now() - timedelta(seconds=1))
    LoginFailure.objects.filter(pk=LoginFailure.objects.earliest("last_failed_at").pk).update(
        last_failed_at=timezone.now() - timedelta(days=2)
    )

    forget_ended()

    assert list(RefreshToken.objects.all()) == [kept]
    assert LoginFailure.objects.count() == 1
