"""Keys that are replaced with an overlap, and keys that are bound to addresses (AUTH-6; attacks A27, K10, K11)."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services
from apps.auth.models import ApiKey, Membership
from apps.auth.services.addresses import check_address, checked_networks
from apps.core import errors
from tests.auth.forge import ME, client, knock, refused, sign_in
from tests.people import Person

KEYS = "/api/v1/auth/api-keys"
OFFICE = ["192.0.2.0/24", "2001:db8::/32"]


def make(person: Person, **fields: Any) -> services.NewKey:
    """A key of this person."""
    return services.create_key(person.actor, **{"name": "ci", **fields})


def rotate(caller: Any, key: ApiKey, **body: Any) -> Any:
    """What the address says."""
    return client(caller).post(f"{KEYS}/{key.id}/rotate", body, format="json")


# Rotation ---------------------------------------------------------------------------------------------------------


def test_the_new_key_is_shown_once_and_both_open_during_the_overlap(dora: Person) -> None:
    old = make(dora, scopes=["key.write", "tool.read"], allowed_addresses=["127.0.0.0/8"])
    token = sign_in(dora).access

    answer = rotate(token, old.key, overlap_seconds=3600)

    new = answer.json()
    assert answer.status_code == 201
    assert knock(new["key"]).status_code == knock(old.plain).status_code == 200
    assert (new["name"], new["scopes"], new["allowed_addresses"]) == ("ci", old.key.scopes, ["127.0.0.0/8"])
    shown = client(token).get(KEYS).content + client(token).get(f"{KEYS}/{new['id']}").content
    assert new["key"].split("_")[2].encode() not in shown
    before = client(token).get(f"{KEYS}/{old.key.id}").json()
    assert before["successor_id"] == new["id"]
    assert new["expires_at"] is None and before["expires_at"] is not None


def test_the_old_key_ends_with_the_overlap_and_the_new_one_goes_on(dora: Person) -> None:
    old = make(dora)
    new = services.rotate_key(dora.actor, key_id=old.key.id, overlap_seconds=1)
    assert knock(old.plain).status_code == 200

    time.sleep(1.1)

    assert refused(knock(old.plain))
    assert knock(new.plain).status_code == 200


def test_without_an_overlap_the_old_key_ends_at_once(dora: Person) -> None:
    old = make(dora)
    assert knock(old.plain).status_code == 200

    new = rotate(sign_in(dora).access, old.key, overlap_seconds=0).json()["key"]

    assert refused(knock(old.plain))
    assert knock(new).status_code == 200


def test_an_overlap_never_lengthens_a_life_and_the_successor_lives_as_long_as_its_forerunner(dora: Person) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    old = make(dora, expires_at=soon)

    new = services.rotate_key(dora.actor, key_id=old.key.id, overlap_seconds=86_400).key

    assert ApiKey.objects.get(pk=old.key.pk).expires_at == soon
    assert new.expires_at is not None
    assert abs((new.expires_at - timezone.now()) - timedelta(minutes=5)) < timedelta(seconds=10)


def test_a_key_has_one_successor_at_a_time_and_another_when_that_was_lost(dora: Person) -> None:
    old = make(dora)
    lost = services.rotate_key(dora.actor, key_id=old.key.id)

    assert rotate(sign_in(dora).access, old.key).status_code == 409
    services.revoke_key(dora.actor, key_id=lost.key.id)
    again = services.rotate_key(dora.actor, key_id=old.key.id)

    assert knock(again.plain).status_code == 200 and again.key.expires_at is None


def test_what_opens_nothing_is_not_rotated(dora: Person) -> None:
    revoked, expired = make(dora), make(dora)
    services.revoke_key(dora.actor, key_id=revoked.key.id)
    ApiKey.objects.filter(pk=expired.key.pk).update(expires_at=timezone.now())

    for dead in (revoked, expired):
        assert rotate(sign_in(dora).access, dead.key).status_code == 409
    assert ApiKey.objects.count() == 2


@pytest.mark.parametrize("body", [{"overlap_seconds": each} for each in (-1, 10**9, "1", 1.5, True, None)] + [{"x": 1}])
def test_an_overlap_that_cannot_be_is_refused_by_field(dora: Person, body: dict[str, Any]) -> None:
    answer = rotate(sign_in(dora).access, make(dora).key, **body)

    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["fields"]


def test_a_foreign_key_is_not_found_and_a_colleagues_is_staffs(alice: Person, dora: Person, bob: Person) -> None:
    made = make(dora)

    assert rotate(sign_in(bob).access, made.key).status_code == 404
    assert rotate(sign_in(dora).access, make(alice).key).status_code == 404
    assert rotate(sign_in(alice).access, made.key).status_code == 201


def test_nobody_gets_more_by_rotating_than_they_hold(alice: Person, dora: Person) -> None:
    wide = make(alice, scopes=["*"])
    narrow = make(alice, scopes=["key.write", "key.manage", "key.read"])
    assert rotate(narrow.plain, wide.key).status_code == 403
    assert rotate(narrow.plain, make(alice).key).status_code == 403
    assert rotate(narrow.plain, narrow.key).status_code == 201

    once_owner = make(dora, scopes=["tool.read"])
    Membership.objects.filter(user=dora.user).update(role="owner")
    ApiKey.objects.filter(pk=once_owner.key.pk).update(scopes=["server.approve"])
    Membership.objects.filter(user=dora.user).update(role="developer")
    with pytest.raises(errors.NotPermitted):
        services.rotate_key(dora.actor, key_id=once_owner.key.id)


def test_a_rotation_is_in_the_journal_without_the_key(dora: Person) -> None:
    old = make(dora)
    new = services.rotate_key(dora.actor, key_id=old.key.id)

    entry = Entry.objects.get(action="key.rotated")

    assert entry.details["successor"] == new.key.prefix
    assert not [row for row in Entry.objects.all() if new.plain.split("_")[2] in str(row.details)]


@pytest.mark.django_db(transaction=True)
def test_under_traffic_no_request_fails_while_a_key_is_rotated(live: Any, dora: Person) -> None:
    plain, statuses = make(dora, scopes=["key.write"]).plain, []
    for _ in range(5):
        caller = live.with_key(plain)
        statuses += [caller.get(ME).status for _ in range(10)]
        key = caller.get(ME).json()["key"]["id"]
        made = caller.post(f"{KEYS}/{key}/rotate", {"overlap_seconds": 60})
        statuses += [made.status, caller.get(ME).status, live.with_key(made.json()["key"]).get(ME).status]
        plain = made.json()["key"]

    assert set(statuses) == {200, 201}


@pytest.mark.django_db(transaction=True)
def test_of_many_who_rotate_a_key_at_once_one_gets_a_successor(dora: Person) -> None:
    old = make(dora)
    start = threading.Barrier(5)

    def deed(number: int) -> str:
        start.wait(10)
        try:
            if number == 0:
                services.revoke_key(dora.actor, key_id=make(dora).key.id)
                return "other"
            return services.rotate_key(dora.actor, key_id=old.key.id).plain
        except errors.Conflict:
            return "conflict"
        finally:
            connection.close()

    with ThreadPoolExecutor(5) as pool:
        said = list(pool.map(deed, range(5)))

    (plain,) = [each for each in said if each.startswith("gate_")]
    assert sorted(each for each in said if each != plain) == ["conflict"] * 3 + ["other"]
    assert knock(plain).status_code == 200
    assert ApiKey.objects.filter(name="ci", revoked_at=None).count() == 2


def test_scanners_recognise_a_key_that_was_issued(dora: Person) -> None:
    made = make(dora)
    new = services.rotate_key(dora.actor, key_id=made.key.id)
    text = f"export KEY='{made.plain}'\nkey: {new.plain},"

    assert re.findall(r"\bgate_[0-9A-Za-z]{16}_[0-9A-Za-z]{38}\b", text) == [made.plain, new.plain]


# A27: addresses ---------------------------------------------------------------------------------------------------


def at(address: str, credential: str, **more: Any) -> Any:
    """What is answered to a key from an address."""
    return services.actor_from_bearer(
        credential, surface="mcp", audience=django_settings.MCP_AUDIENCE, address=address, **more
    )


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.255", "::ffff:192.0.2.9", "2001:db8::1", "2001:DB8:0::1"])
def test_a_key_opens_from_its_networks(dora: Person, address: str) -> None:
    assert at(address, make(dora, allowed_addresses=OFFICE).plain).user_id == dora.user.id


@pytest.mark.parametrize(
    "address",
    [
        "192.0.3.1", "203.0.113.1", "::1", "2001:db9::1", "", "testserver", "192.0.2.1:80", "192.0.2.1, 203.0.113.1",
        "192.0.2.01", "3221225985", "0xC0000201", "192.0.2.1%eth0", "192.0.2.0/24", " 192.0.2.1", "١٩٢.0.2.1",
    ],
)  # fmt: skip
def test_a_key_opens_from_nowhere_else(dora: Person, address: str) -> None:
    plain = make(dora, allowed_addresses=OFFICE).plain
    assert at("192.0.2.1", plain), "remembered for its own address only"

    for _ in range(2):
        with pytest.raises(errors.NotPermitted, match="may not be used from"):
            at(address, plain)
    assert services.known_actor(plain, surface="mcp", audience=django_settings.MCP_AUDIENCE, address=address) is None
    assert ApiKey.objects.get().last_used_address == "192.0.2.1"


def test_rest_answers_403_with_the_reason(dora: Person) -> None:
    plain = make(dora, allowed_addresses=OFFICE).plain

    answer = knock(plain)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "NOT_PERMITTED"
    assert "127.0.0.1" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "networks",
    [
        ["nonsense"], ["10.0.0.1/8"], ["10.0.0.0/33"], [""], ["10.0.0.0/8/8"], ["0x0a000000/8"], ["fe80::1%eth0"],
        ["::ffff:10.0.0.0/104"], ["10.0.0.0/-1"], ["10.0.0.0/255.0.0.0, 1.1.1.1"], ["example.com"], "10.0.0.0/8", [7],
        [None], ["10.0.0.0/8"] * 51, ["x" * 51],
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_by_field(dora: Person, networks: Any) -> None:
    body = {"name": "x", "allowed_addresses": networks}

    answer = client(sign_in(dora).access).post(KEYS, body, format="json")

    assert answer.status_code == 422
    assert [name for name in answer.json()["error"]["details"]["fields"] if name.startswith("allowed_addresses")]
    assert not ApiKey.objects.exists()


def test_networks_are_kept_in_one_form_each_once() -> None:
    given = ["203.0.113.7", "203.0.113.7/32", "10.0.0.0/255.0.0.0", "2001:DB8::/32"]

    assert checked_networks(given) == ["203.0.113.7/32", "10.0.0.0/8", "2001:db8::/32"]
    check_address("anything", [])


def test_a_bound_key_makes_and_rotates_no_key_that_works_elsewhere(alice: Person) -> None:
    bound = make(alice, allowed_addresses=["127.0.0.0/24"])
    free = make(alice)

    for networks in ([], ["127.0.0.0/8"], ["127.0.0.1", "::1"], ["0.0.0.0/0"]):
        body = {"name": "x", "allowed_addresses": networks}
        assert client(bound.plain).post(KEYS, body, format="json").status_code == 403
    assert rotate(bound.plain, free.key).status_code == 403
    body = {"name": "x", "allowed_addresses": ["127.0.0.1"]}
    assert client(bound.plain).post(KEYS, body, format="json").status_code == 201
    assert rotate(bound.plain, bound.key).status_code == 201


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
FORGED = ["192.0.2.1", "192.0.2.1, 192.0.2.1", "192.0.2.1, 203.0.113.5", "2001:db8::1"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("proxies", [0, 1])
def test_a_forged_header_opens_no_door(live: Any, dora: Person, settings: Any, proxies: int) -> None:
    settings.TRUSTED_PROXIES = proxies
    caller = live.with_key(make(dora, allowed_addresses=OFFICE).plain)
    # The proxy that we trust appends whom it saw: that is the last part, and what the caller wrote comes before it.
    seen = ", 203.0.113.9" if proxies else ""

    for forged in FORGED:
        headers = {"X-Forwarded-For": forged + seen, "X-Real-IP": "192.0.2.1", "Forwarded": "for=192.0.2.1"}
        mcp = {**headers, "Accept": "application/json, text/event-stream"}
        assert caller.get(ME, headers=headers).status == 403
        assert caller.get("/api/v1/mcp/servers", headers=headers).status == 403
        assert caller.post("/mcp", PING, headers=mcp).status == 403
    if proxies:
        headers = {"X-Forwarded-For": "203.0.113.9, 192.0.2.1", "Accept": "application/json, text/event-stream"}
        assert caller.get(ME, headers=headers).status == 200
        assert caller.post("/mcp", PING, headers=headers).status not in (401, 403)


def test_work_that_a_bound_key_began_goes_on_in_the_background(dora: Person) -> None:
    key = make(dora, allowed_addresses=OFFICE).key

    assert services.actor_for_job("key", key.id, key.organization_id).user_id == dora.user.id
