"""A second factor is asked for at every door that a password opens, its codes work once, and guesses are few (O06)."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.db import connection, connections

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import LoginFailure, RecoveryCode, SecondFactor
from apps.core.errors import (
    ConfirmationNeeded,
    Conflict,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RateLimited,
    SecondFactorNeeded,
)
from apps.secrets import services as secrets
from apps.secrets.models import Secret
from tests.authenticator import Authenticator, enrol

pytestmark = pytest.mark.django_db
HERE = "192.0.2.1"


def login(person, code=None, **more):
    return auth.login(email=person.email, password=person.password, code=code, address=HERE, **more)


def actions(person):
    return list(Entry.objects.filter(actor_label=person.email).values_list("action", flat=True))


# Signing in


def test_whoever_has_none_signs_in_as_before(alice):
    assert login(alice).access


def test_a_password_alone_opens_no_door_of_an_account_with_a_second_factor(alice):
    authenticator, _ = enrol(alice)

    for more in ({}, {"code": ""}, {"resource": "http://127.0.0.1:8000/mcp"}):
        with pytest.raises(SecondFactorNeeded):
            login(alice, **more)
    assert authenticate(username=alice.email, password=alice.password) is None
    assert login(alice, authenticator.code()).access


def test_rest_asks_for_the_code_with_an_error_of_its_own(alice, client):
    authenticator, codes = enrol(alice)
    told = {}

    for code in (None, authenticator.wrong(), codes[0]):
        body = {"email": alice.email, "password": alice.password, "code": code}
        answer = client.post("/api/v1/auth/login", body, content_type="application/json")
        told[answer.status_code, answer.json().get("error", {}).get("code")] = answer

    assert list(told) == [(401, "SECOND_FACTOR_NEEDED"), (401, "NOT_AUTHENTICATED"), (200, None)]
    assert "Bearer" in told[401, "SECOND_FACTOR_NEEDED"]["WWW-Authenticate"]


def test_a_wrong_password_is_told_nothing_of_a_second_factor(alice):
    authenticator, _ = enrol(alice)

    with pytest.raises(NotAuthenticated) as refusal:
        auth.login(email=alice.email, password="wrong", code=authenticator.code(), address=HERE)

    assert refusal.value.code == "NOT_AUTHENTICATED"
    assert login(alice, authenticator.code()).access  # the code was not used up


def test_a_code_opens_once(alice):
    authenticator, _ = enrol(alice)
    code = authenticator.code()

    assert login(alice, f" {code[:3]} {code[3:]} ").access
    with pytest.raises(NotAuthenticated):
        login(alice, code)
    with pytest.raises(NotAuthenticated):
        login(alice, authenticator.code(seconds_from_now=-30))  # nor one from before it
    assert login(alice, authenticator.code(seconds_from_now=30)).access


@pytest.mark.parametrize("seconds", [-90, 90, 3600])
def test_a_code_of_another_time_opens_nothing(alice, seconds):
    authenticator, _ = enrol(alice)

    with pytest.raises(NotAuthenticated):
        login(alice, authenticator.code(seconds_from_now=seconds))


@pytest.mark.parametrize(
    "code", ["", "0", "-1", "1e5", "١٢٣٤٥٦", "123456\n123456", "\0", "a" * 10_000, "None", "------"]
)
def test_what_is_no_code_is_refused(alice, code):
    enrol(alice)

    with pytest.raises((NotAuthenticated, SecondFactorNeeded)):
        login(alice, code)


def test_a_recovery_code_opens_once_and_its_use_stands_in_the_journal(alice):
    _, codes = enrol(alice)

    assert len(set(codes)) == 10
    assert login(alice, codes[0].upper().replace("-", " ")).access
    with pytest.raises(NotAuthenticated):
        login(alice, codes[0])
    assert auth.describe_second_factor(alice.actor).recovery_codes_left == 9
    assert "second_factor.code_used" in actions(alice)


def test_the_code_of_somebody_else_opens_nothing(alice, bob):
    _, codes = enrol(alice)
    theirs, _ = enrol(bob)

    for code in (codes[0], Authenticator(theirs.seed).code(seconds_from_now=30)):
        with pytest.raises(NotAuthenticated):
            login(bob if code in codes else alice, code)


def test_a_token_is_renewed_without_a_code(alice):
    authenticator, _ = enrol(alice)
    given = login(alice, authenticator.code())

    assert auth.refresh_tokens(refresh=given.refresh).access


# Guessing


def test_wrong_codes_lock_the_account_wherever_they_come_from_and_each_lock_is_longer(alice, settings, monkeypatch):
    authenticator, codes = enrol(alice)
    settings.LOGIN_FAILURES = 3

    waits = []
    for _ in range(3):
        for number in range(settings.LOGIN_FAILURES):
            with pytest.raises(NotAuthenticated):
                auth.login(
                    email=alice.email,
                    password=alice.password,
                    code=authenticator.wrong(),
                    address=f"198.51.100.{number}",
                )
        for code in (authenticator.code(), codes[0]):
            with pytest.raises(RateLimited) as refusal:
                login(alice, code)
        waits.append(refusal.value.details["retry_after"])
        LoginFailure.objects.update(locked_until=None)  # the lock is over

    assert waits == pytest.approx([300, 600, 1200], abs=3)
    assert actions(alice).count("second_factor.locked") == 3
    assert login(alice, authenticator.code()).access
    assert not LoginFailure.objects.exists()


def test_asking_without_a_code_forgives_no_wrong_code(alice, settings):
    authenticator, _ = enrol(alice)

    for _ in range(settings.LOGIN_FAILURES):
        with pytest.raises(SecondFactorNeeded):
            login(alice)
        with pytest.raises(NotAuthenticated):
            login(alice, authenticator.wrong())

    with pytest.raises(RateLimited):
        login(alice, authenticator.code())


def test_a_new_password_ends_the_lock_of_codes(alice, root, settings):
    authenticator, _ = enrol(alice)
    for _ in range(settings.LOGIN_FAILURES):
        with pytest.raises(NotAuthenticated):
            login(alice, authenticator.wrong())

    auth.set_password(root.actor, user_id=alice.user.pk, password="another long password")

    given = auth.login(email=alice.email, password="another long password", code=authenticator.code(), address=HERE)
    assert given.access


def test_the_failures_of_a_day_ago_are_forgotten(alice, settings):
    authenticator, _ = enrol(alice)
    with pytest.raises(NotAuthenticated):
        login(alice, authenticator.wrong())
    row = LoginFailure.objects.get()
    LoginFailure.objects.update(last_failed_at=row.last_failed_at - timedelta(days=1, seconds=1))

    auth.forget_ended()

    assert not LoginFailure.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_many_who_send_one_code_at_the_same_time_one_gets_in(alice):
    authenticator, codes = enrol(alice)

    for code in (authenticator.code(), codes[0]):
        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(lambda _, code=code: tried(alice, code), range(6)))
        LoginFailure.objects.all().delete()

        assert found.count("in") == 1, found


def tried(person, code):
    """What became of one who sends this code."""
    try:
        auth.verify_code(person.user, code=code, address=HERE)
        return "in"
    except (NotAuthenticated, RateLimited) as refusal:
        return refusal.code
    finally:
        connections.close_all()


# Setting it up


def test_nothing_is_asked_for_until_a_first_code_is_right(alice):
    begun = auth.begin_second_factor(alice.actor)

    with pytest.raises(InvalidInput):
        auth.confirm_second_factor(alice.actor, code=Authenticator(begun.seed).wrong())
    assert login(alice).access
    assert not auth.has_second_factor(alice.user)

    auth.confirm_second_factor(alice.actor, code=Authenticator(begun.seed).code())
    with pytest.raises(SecondFactorNeeded):
        login(alice)
    with pytest.raises(Conflict):
        auth.begin_second_factor(alice.actor)


def test_beginning_anew_makes_another_seed_and_leaves_none_behind(alice):
    first, second = auth.begin_second_factor(alice.actor), auth.begin_second_factor(alice.actor)

    assert first.seed != second.seed
    with pytest.raises(InvalidInput):
        auth.confirm_second_factor(alice.actor, code=Authenticator(first.seed).code())
    assert Secret.objects.filter(purpose__contains=alice.email).count() == 1


def test_what_an_authenticator_is_given_names_the_account_and_the_seed(alice):
    begun = auth.begin_second_factor(alice.actor)

    assert begun.uri.startswith("otpauth://totp/Gatehouse:alice%40acme.example?")
    assert f"secret={begun.seed}" in begun.uri
    assert {"digits=6", "issuer=Gatehouse", "period=30", "algorithm=SHA1"} <= set(
        begun.uri.partition("?")[2].split("&")
    )


def test_setting_it_up_ends_every_session_that_was_begun_without_it(alice):
    before = login(alice)
    enrol(alice)

    with pytest.raises(NotAuthenticated):
        auth.refresh_tokens(refresh=before.refresh)


def test_new_recovery_codes_replace_the_old_ones(alice):
    _, old = enrol(alice)

    new = auth.renew_recovery_codes(alice.actor)

    assert not set(old) & set(new)
    with pytest.raises(NotAuthenticated):
        login(alice, old[0])
    assert login(alice, new[0]).access
    assert "second_factor.codes_renewed" in actions(alice)


def test_one_takes_away_ones_own_and_a_platform_admin_anybodys(alice, bob, adam, root):
    enrol(alice)
    enrol(bob)

    for person, other in ((adam, alice), (alice, bob)):
        with pytest.raises((NotPermitted, NotFound)):
            auth.remove_second_factor(person.actor, user_id=other.user.pk)
    auth.remove_second_factor(alice.actor, user_id=alice.user.pk)
    auth.remove_second_factor(root.actor, user_id=bob.user.pk)

    assert login(alice).access and login(bob).access
    assert not SecondFactor.objects.exists() and not RecoveryCode.objects.exists() and not Secret.objects.exists()


def test_a_key_and_somebody_unconfirmed_in_the_control_room_change_nothing(alice):
    key = auth.create_key(alice.actor, name="ci")
    as_key = auth.actor_from_bearer(key.plain, surface="rest", audience="")
    unconfirmed = alice.actor.at("admin")

    for actor, error in ((as_key, NotPermitted), (unconfirmed, ConfirmationNeeded)):
        for verb in (auth.begin_second_factor, auth.renew_recovery_codes):
            with pytest.raises(error):
                verb(actor)
        with pytest.raises(error):
            auth.remove_second_factor(actor, user_id=alice.user.pk)


# What is kept


def test_neither_seed_nor_codes_lie_in_the_database_and_the_journal_knows_neither(alice, root):
    authenticator, codes = enrol(alice)
    login(alice, codes[0])
    told = json.dumps(list(Entry.objects.values("action", "subject", "details")))
    with connection.cursor() as cursor:
        dumped = "".join(str(rows) for rows in all_rows(cursor))

    for text in (authenticator.seed, *codes, *(code.replace("-", "") for code in codes)):
        assert text not in dumped and text not in told
    row = SecondFactor.objects.get()
    assert secrets.open_secret(row.secret_id, organization_id=secrets.PLATFORM) == authenticator.seed
    with pytest.raises(NotFound):
        secrets.open_secret(row.secret_id, organization_id=alice.organization.id)


def all_rows(cursor):
    """Everything in the tables of ours."""
    for table in connection.introspection.table_names(cursor):
        if table.startswith(("accounts_", "secrets_", "audit_", "django_session")):
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - a table's own name
            yield cursor.fetchall()


def test_a_seed_is_sealed_anew_with_all_other_secrets_and_still_opens(alice, settings):
    authenticator, _ = enrol(alice)
    settings.SEALING_KEYS = {**settings.SEALING_KEYS, 99: b"k" * 32}

    call_command("secrets_rekey")

    assert Secret.objects.get().value.startswith("v1.99.")
    assert login(alice, authenticator.code()).access


# Demanded of staff


def test_where_it_is_demanded_staff_without_one_get_no_token_and_others_do(alice, adam, root, dora, settings):
    before = login(alice)
    settings.REQUIRE_SECOND_FACTOR = True

    for person in (alice, adam, root):
        with pytest.raises(NotPermitted, match="second factor"):
            login(person)
    with pytest.raises(NotAuthenticated):
        auth.refresh_tokens(refresh=before.refresh)
    assert login(dora).access

    authenticator, _ = enrol(alice)
    assert login(alice, authenticator.code()).access


def test_the_command_for_a_lost_device_takes_it_away(root, capsys):
    enrol(root)

    call_command("second_factor_remove", root.email.upper())

    assert login(root).access
    assert "no second factor any more" in capsys.readouterr().out
    assert Entry.objects.filter(action="second_factor.removed", surface="command").exists()


# What must be confirmed


def test_keys_that_sign_and_seal_are_changed_by_nobody_unconfirmed(root):
    unconfirmed = root.actor.at("admin")

    for verb in (auth.rotate_signing_key, secrets.rotate_sealing_key, secrets.drop_older_keys):
        with pytest.raises(ConfirmationNeeded):
            verb(unconfirmed)


def test_no_service_that_gives_or_takes_rights_listens_to_somebody_unconfirmed(alice, adam, root):
    key = auth.create_key(alice.actor, name="ci").key
    here, staff, platform = alice.organization.id, alice.actor.at("admin"), root.actor.at("admin")
    platform = replace(platform, organization_id=here)
    member = adam.user.memberships.get()
    deeds = [
        lambda: auth.create_key(staff, name="other"),
        lambda: auth.rotate_key(staff, key_id=key.pk),
        lambda: auth.revoke_key(staff, key_id=key.pk),
        lambda: auth.invite_member(staff, organization_id=here, email="new@acme.example"),
        lambda: auth.add_member(staff, organization_id=here, user_id=adam.user.pk),
        lambda: auth.change_role(staff, organization_id=here, membership_id=member.pk, role="viewer"),
        lambda: auth.remove_member(staff, organization_id=here, membership_id=member.pk),
        lambda: auth.set_password(staff, user_id=alice.user.pk, password="another long password"),
        lambda: auth.create_user(platform, email="new@acme.example", password=None),
        lambda: auth.deactivate_user(platform, user_id=adam.user.pk),
        lambda: auth.activate_user(platform, user_id=adam.user.pk),
        lambda: secrets.keep(staff, purpose="server:x", plain="x"),
    ]

    before = Entry.objects.count()
    for deed in deeds:
        with pytest.raises(ConfirmationNeeded):
            deed()
    assert Entry.objects.count() == before
