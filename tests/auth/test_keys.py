"""API keys (AUTH-6; attacks A24, A26, A27, B13)."""

import logging
import re
import sqlite3
import time
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core import serializers
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from apps.audit.models import Entry
from apps.auth import services
from apps.auth.models import ApiKey, Membership, User
from apps.auth.services.keys import ALPHABET
from apps.core import logs
from apps.core.actor import Actor, system_actor
from apps.core.errors import InvalidInput, NotAuthenticated, NotPermitted
from tests.auth.forge import client, knock, refused, sign_in
from tests.people import Person

KEYS = "/api/v1/auth/api-keys"
MANY = examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(person: Person, **fields: Any) -> services.NewKey:
    """A key of this person."""
    return services.create_key(person.actor, **{"name": "ci", **fields})


def actor_of(credential: str, **options: Any) -> Actor:
    """Who a credential is on the MCP endpoint."""
    return services.actor_from_bearer(credential, surface="mcp", audience=settings.MCP_AUDIENCE, **options)


# Making, showing, revoking ----------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_opens_rest_and_mcp(dora: Person) -> None:
    made = client(sign_in(dora).access).post(KEYS, {"name": "ci"}, format="json")
    plain = made.json()["key"]

    assert made.status_code == 201
    assert re.fullmatch(r"gate_[0-9A-Za-z]{16}_[0-9A-Za-z]{38}", plain)
    assert knock(plain).json()["key"]["name"] == "ci"
    assert actor_of(plain).user_id == dora.user.id

    shown = client(plain).get(f"{KEYS}/{made.json()['id']}").content + client(plain).get(KEYS).content
    assert plain.encode() not in shown
    assert plain.split("_")[2].encode() not in shown


def test_a_key_acts_with_its_owners_role_in_its_own_organisation(dora: Person, bob: Person) -> None:
    actor = actor_of(make(dora).plain)

    assert (actor.kind, actor.role, actor.grants) == ("key", "developer", dora.actor.grants)
    assert actor.organization_id == dora.organization.id
    assert not actor.is_platform_admin


def test_everybody_sees_their_own_keys_and_staff_all_of_the_organisation(
    alice: Person, dora: Person, bob: Person
) -> None:
    mine, hers, foreign = make(dora).key, make(alice).key, make(bob).key

    seen_by_dora = client(sign_in(dora).access).get(KEYS).json()
    seen_by_alice = client(sign_in(alice).access).get(KEYS).json()

    assert [key["id"] for key in seen_by_dora["items"]] == [str(mine.id)]
    assert {key["id"] for key in seen_by_alice["items"]} == {str(mine.id), str(hers.id)}
    assert seen_by_alice["total"] == 2
    for stranger in (hers, foreign):
        assert client(sign_in(dora).access).get(f"{KEYS}/{stranger.id}").status_code == 404
        assert client(sign_in(dora).access).delete(f"{KEYS}/{stranger.id}").status_code == 404
    assert ApiKey.objects.filter(revoked_at=None).count() == 3


def test_staff_revoke_anybodys_key_of_the_organisation(alice: Person, dora: Person) -> None:
    made = make(dora)

    assert client(sign_in(alice).access).delete(f"{KEYS}/{made.key.id}").status_code == 204
    assert refused(knock(made.plain))


def test_making_and_revoking_are_in_the_journal(dora: Person) -> None:
    made = make(dora)
    services.revoke_key(dora.actor, key_id=made.key.id)
    services.revoke_key(dora.actor, key_id=made.key.id)

    actions = list(
        Entry.objects.filter(action__startswith="key.").order_by("sequence").values_list("action", flat=True)
    )
    assert actions == ["key.created", "key.revoked"]
    assert made.plain not in serializers.serialize("json", Entry.objects.all())


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": ""}, {"name": "x" * 101}, {"name": "x", "scopes": "tool.*"},
        {"name": "x", "scopes": ["nothing.known"]},
        {"name": "x", "scopes": ["tool.*; drop table"]}, {"name": "x", "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "x", "expires_at": "2100-01-01T00:00:00"}, {"name": "x", "expires_at": "soon"},
        {"name": "x", "digest": "0" * 64}, {"name": "x", "user_id": "me"}, {"name": "x", "organization": "globex"},
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_is_refused_by_field(dora: Person, body: dict[str, Any]) -> None:
    answer = client(sign_in(dora).access).post(KEYS, body, format="json")

    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["fields"]
    assert not ApiKey.objects.exists()


def test_only_members_own_keys(alice: Person, bob: Person, root: Person) -> None:
    for user_id in (bob.user.id, root.user.id):
        with pytest.raises(InvalidInput):
            services.create_key(alice.actor, name="x", user_id=user_id)


# A24: what the database knows -------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_dump_of_the_database_holds_no_usable_key(alice: Person, dora: Person) -> None:
    keys = [make(alice), make(dora), make(dora, scopes=["tool.*"])]
    for each in keys:
        actor_of(each.plain)

    dump = _dump()

    for each in keys:
        lookup, rest = each.plain.split("_")[1:]
        assert lookup in dump, "the dump is no dump if it does not even hold the look-up id"
        assert each.plain not in dump
        assert rest not in dump
        assert rest[:-6] not in dump


def _dump() -> str:
    """Everything that the database holds, as text."""
    if connection.vendor == "sqlite":
        with sqlite3.connect(connection.settings_dict["NAME"]) as own:
            return "\n".join(own.iterdump())
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        rows: list[Any] = []
        for table in tables:
            cursor.execute(f'SELECT row_to_json(t)::text FROM "{table}" t')  # noqa: S608 - names of our own tables
            rows.extend(cursor.fetchall())
        return "\n".join(str(row) for row in rows)


def test_the_hash_needs_the_pepper(dora: Person, settings: Any) -> None:
    plain = make(dora).plain
    assert actor_of(plain)
    services.raise_revision(dora.organization.id)

    settings.KEY_PEPPERS = {1: "another pepper of thirty-two characters"}

    with pytest.raises(NotAuthenticated):
        actor_of(plain)


def test_a_new_pepper_leaves_old_keys_working(dora: Person, settings: Any) -> None:
    old = make(dora).plain
    settings.KEY_PEPPERS = {**settings.KEY_PEPPERS, 2: "another pepper of thirty-two characters"}

    new = make(dora)

    assert new.key.pepper_number == 2
    assert actor_of(old).user_id == actor_of(new.plain).user_id == dora.user.id


def test_the_logs_mask_a_key(dora: Person, caplog: pytest.LogCaptureFixture) -> None:
    plain = make(dora).plain

    line = logs.JsonFormatter().format(logging.makeLogRecord({"msg": f"somebody sent {plain}"}))

    assert plain not in line
    assert plain.split("_")[2] not in line


# A26: refused without a query -------------------------------------------------------------------------------------


def test_a_bad_checksum_costs_no_query(dora: Person, django_assert_num_queries: Any) -> None:
    plain = make(dora).plain
    head, secret = plain[:-38], plain[-38:]
    spoilt = [
        plain[:-1] + ("a" if plain[-1] != "a" else "b"), plain[:-1], plain[:-6], plain + "a",
        plain.lower(), plain.upper(),
        plain.swapcase(), f" {plain}", f"{plain} ", f"{plain}\n", plain.replace("_", " "), f"{head} {secret}",
        head + ("A" if secret[0] != "A" else "B") + secret[1:], f"Gate_{plain[5:]}", "gate_", "gate__", "gate_a_b",
        f"gate_{'0' * 16}_{'0' * 38}", f"gate_{'9' * 5000}",
    ]  # fmt: skip

    for text in spoilt:
        with django_assert_num_queries(0), pytest.raises(NotAuthenticated):
            actor_of(text)


@MANY
@given(place=st.integers(5, 58), letter=st.sampled_from(ALPHABET))
def test_any_one_changed_letter_costs_no_query(
    dora: Person, django_assert_num_queries: Any, place: int, letter: str
) -> None:
    plain = make(dora).plain
    spoilt = plain[:place] + letter + plain[place + 1 :]
    if spoilt == plain:
        return

    with django_assert_num_queries(0), pytest.raises(NotAuthenticated):
        actor_of(spoilt)


def test_a_wrong_secret_costs_one_query_whether_the_key_exists_or_not(
    dora: Person, django_assert_num_queries: Any
) -> None:
    from apps.auth.services.keys import _checksum

    lookup = make(dora).key.lookup
    secret = "x" * 32
    for guess in (lookup, "x" * 16):
        with django_assert_num_queries(1), pytest.raises(NotAuthenticated):
            actor_of(f"gate_{guess}_{secret}{_checksum(guess, secret)}")


@pytest.mark.parametrize("scheme", ["Basic", "Token", "", "Bearer gate_x"])
def test_a_key_comes_as_a_bearer_credential_only(dora: Person, scheme: str) -> None:
    plain = make(dora).plain
    caller = client()
    caller.credentials(HTTP_AUTHORIZATION=f"{scheme} {plain}".strip())

    assert refused(caller.get("/api/v1/auth/me"))


# A27: scopes, expiry, revocation ----------------------------------------------------------------------------------


def test_a_key_for_reading_does_not_write(alice: Person) -> None:
    reader = make(alice, scopes=["org.read", "key.read"]).plain

    assert client(reader).get(f"/api/v1/orgs/{alice.organization.id}").status_code == 200
    answer = client(reader).patch(f"/api/v1/orgs/{alice.organization.id}", {"name": "Mine"}, format="json")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "NOT_PERMITTED"
    assert client(reader).post(KEYS, {"name": "more"}, format="json").status_code == 403


def test_a_key_for_some_tools_calls_no_other(alice: Person) -> None:
    actor = actor_of(make(alice, scopes=["tool.call:time__*"]).plain)

    assert actor.can("tool.call", "time__get_current_time")
    assert not actor.can("tool.call", "files__delete")
    assert not actor.can("server.read")


def test_a_scope_narrows_even_when_the_owner_rises(dora: Person, alice: Person) -> None:
    plain = make(dora, scopes=["tool.read"]).plain
    Membership.objects.filter(user=dora.user).update(role="owner")
    services.raise_revision(dora.organization.id)

    assert actor_of(plain).grants == {"tool.read"}


def test_a_key_shrinks_with_its_owner(dora: Person) -> None:
    plain = make(dora, scopes=["tool.call", "tool.read"]).plain
    Membership.objects.filter(user=dora.user).update(role="viewer")
    services.raise_revision(dora.organization.id)

    assert actor_of(plain).grants == {"tool.read"}


def test_an_expired_key_opens_nothing(dora: Person) -> None:
    made = make(dora, expires_at=timezone.now() + timedelta(hours=1))
    assert knock(made.plain).status_code == 200

    ApiKey.objects.filter(pk=made.key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    services.raise_revision(dora.organization.id)

    answer = knock(made.plain)
    assert refused(answer)
    assert "expired" in answer.json()["error"]["message"]


def test_what_was_remembered_does_not_outlive_the_expiry(dora: Person) -> None:
    plain = make(dora, expires_at=timezone.now() + timedelta(seconds=0.3)).plain
    assert knock(plain).status_code == 200

    time.sleep(0.35)

    assert refused(knock(plain))


def test_a_revoked_key_opens_nothing_at_once(dora: Person) -> None:
    made = make(dora)
    assert knock(made.plain).status_code == 200

    client(sign_in(dora).access).delete(f"{KEYS}/{made.key.id}")

    assert refused(knock(made.plain))


@pytest.mark.parametrize(
    "behind_our_back",
    [
        lambda person: ApiKey.objects.update(revoked_at=timezone.now()),
        lambda person: User.objects.filter(pk=person.user.id).update(is_active=False),
        lambda person: Membership.objects.filter(user=person.user).delete(),
        lambda person: type(person.organization).objects.update(is_active=False),
        lambda person: ApiKey.objects.all().delete(),
    ],
)
def test_what_another_process_ended_ends_here_in_a_second(dora: Person, behind_our_back: Any) -> None:
    plain = make(dora).plain
    assert knock(plain).status_code == 200

    behind_our_back(dora)
    time.sleep(1.0)

    assert refused(knock(plain))


def test_a_key_is_not_revived_when_its_owner_comes_back(dora: Person, alice: Person) -> None:
    plain = make(dora).plain
    place = {"organization_id": alice.organization.id, "membership_id": dora.user.memberships.get().id}
    services.remove_member(alice.actor, **place)
    services.add_member(system_actor(), organization_id=alice.organization.id, user_id=dora.user.id, role="developer")

    assert refused(knock(plain))


# B13: nobody gives away what they do not hold ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "scopes", [["server.approve"], ["server.*"], ["*"], ["audit.read", "tool.read"], ["member.write"]]
)
def test_a_developer_gets_no_key_with_more_than_their_own(dora: Person, scopes: list[str]) -> None:
    answer = client(sign_in(dora).access).post(KEYS, {"name": "x", "scopes": scopes}, format="json")

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "NOT_PERMITTED"
    assert not ApiKey.objects.exists()


def test_a_narrow_key_makes_no_wider_one(alice: Person) -> None:
    narrow = client(make(alice, scopes=["key.write", "tool.call:time__*"]).plain)

    for scopes in ([], ["*"], ["tool.call"], ["tool.call:*"], ["org.read"]):
        assert narrow.post(KEYS, {"name": "x", "scopes": scopes}, format="json").status_code == 403
    assert narrow.post(KEYS, {"name": "x", "scopes": ["tool.call:time__*"]}, format="json").status_code == 201


def test_a_key_never_holds_more_than_its_owner_even_when_staff_make_it(alice: Person, victor: Person) -> None:
    with pytest.raises(NotPermitted):
        services.create_key(alice.actor, name="x", scopes=["server.write"], user_id=victor.user.id)


# Last use ---------------------------------------------------------------------------------------------------------


def test_the_last_use_is_kept_once_a_minute(dora: Person, django_assert_num_queries: Any) -> None:
    made = make(dora)
    actor_of(made.plain, address="203.0.113.7")
    first = ApiKey.objects.get(pk=made.key.pk)
    assert first.last_used_address == "203.0.113.7"

    services.raise_revision(dora.organization.id)
    actor_of(made.plain, address="203.0.113.8")
    assert ApiKey.objects.get(pk=made.key.pk).last_used_at == first.last_used_at

    ApiKey.objects.update(last_used_at=timezone.now() - timedelta(seconds=61))
    services.raise_revision(dora.organization.id)
    actor_of(made.plain, address="203.0.113.8")
    assert ApiKey.objects.get(pk=made.key.pk).last_used_address == "203.0.113.8"
