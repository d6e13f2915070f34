"""Rights and passwords that change between the moment when they are looked at and the one when they are used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from apps.audit import services as audit
from apps.auth import services
from apps.auth.models import ApiKey, Invitation, Membership, Role, User
from apps.auth.services import bearer, invitations, keys, passwords
from apps.core.actor import system_actor
from apps.core.errors import NotAuthenticated, NotFound, NotPermitted
from config import settings as ours
from tests.auth.forge import sign_in
from tests.people import PASSWORD, Person


def before(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, deed: Callable[[], object]) -> None:
    """Something happens once, just before a function is called."""
    original = getattr(place, name)
    is_done: list[bool] = []

    def first_the_deed(*arguments: Any, **named: Any) -> Any:
        if not is_done:
            is_done.append(True)
            deed()
        return original(*arguments, **named)

    monkeypatch.setattr(place, name, first_the_deed)


def removed(alice: Person, adam: Person) -> None:
    membership = Membership.objects.get(user=adam.user)
    services.remove_member(alice.actor, organization_id=alice.organization.id, membership_id=membership.id)


def switched_off(alice: Person, adam: Person) -> None:
    services.deactivate_user(system_actor(), user_id=adam.user.id)


@pytest.mark.parametrize("end", [removed, switched_off])
def test_an_invitation_lets_nobody_in_whose_maker_is_gone_when_the_password_has_been_looked_at(
    alice: Person, adam: Person, bob: Person, monkeypatch: pytest.MonkeyPatch, end: Callable[..., None]
) -> None:
    made = services.invite_member(adam.actor, organization_id=alice.organization.id, email=bob.email)
    before(monkeypatch, invitations, "verify_password", lambda: end(alice, adam))

    with pytest.raises(NotFound):
        services.accept_invitation(token=made.link.partition("#")[2], password=PASSWORD)

    assert not Membership.objects.for_org(alice.organization.id).filter(user=bob.user).exists()
    assert Invitation.objects.exists()


def test_no_key_is_made_for_a_member_who_is_removed_meanwhile(
    alice: Person, dora: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = Membership.objects.get(user=dora.user)
    before(monkeypatch, keys, "_random", lambda: services.remove_member(
        alice.actor, organization_id=alice.organization.id, membership_id=membership.id
    ))  # fmt: skip

    with pytest.raises(NotFound):
        services.create_key(alice.actor, name="hers", user_id=dora.user.id)

    assert not ApiKey.objects.exists()


def test_a_key_that_is_revoked_meanwhile_makes_no_other(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = services.create_key(alice.actor, name="maker", allowed_addresses=["127.0.0.0/8"])
    actor = services.actor_from_bearer(maker.plain, surface="rest", audience="", address="127.0.0.1")
    before(monkeypatch, keys, "checked_networks", lambda: services.revoke_key(alice.actor, key_id=maker.key.id))

    with pytest.raises(NotAuthenticated):
        services.create_key(actor, name="free")

    assert ApiKey.objects.count() == 1


@pytest.fixture
def dear(settings: Any) -> None:
    """The hashers of the platform; the tests have a cheap one."""
    settings.PASSWORD_HASHERS = ours.PASSWORD_HASHERS


@pytest.mark.usefixtures("dear")
def test_a_login_with_the_old_password_does_not_bring_it_back(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is of another kind, so a login renews it; the person chooses a new one while the login waits."""
    User.objects.filter(pk=alice.user.pk).update(password=PBKDF2PasswordHasher().encode(PASSWORD, "salt", 1000))
    fresh = "a new one for all this"

    @contextmanager
    def turn() -> Iterator[None]:
        services.set_password(alice.actor, user_id=alice.user.id, password=fresh)
        yield

    with monkeypatch.context() as patched:
        patched.setattr(passwords, "_turn_to_hash", turn)
        services.verify_password(email=alice.email, password=PASSWORD, address="")

    assert services.login(email=alice.email, password=fresh).access


@pytest.mark.usefixtures("dear")
def test_a_hash_of_yesterday_s_cost_is_renewed_at_a_login(alice: Person) -> None:
    User.objects.filter(pk=alice.user.pk).update(password=PBKDF2PasswordHasher().encode(PASSWORD, "salt", 1000))

    sign_in(alice)

    assert User.objects.get(pk=alice.user.pk).password.startswith("argon2")


def test_who_is_demoted_while_they_wait_changes_nobody(
    alice: Person, adam: Person, dora: Person, monkeypatch: pytest.MonkeyPatch, _locks_out_of_order: list[str]
) -> None:
    hers = Membership.objects.get(user=dora.user)
    before(monkeypatch, audit, "hold_chain", lambda: Membership.objects.filter(user=adam.user).update(
        role=Role.VIEWER
    ))  # fmt: skip

    with pytest.raises(NotPermitted):
        services.remove_member(adam.actor, organization_id=alice.organization.id, membership_id=hers.id)

    assert Membership.objects.filter(pk=hers.pk).exists()
    _locks_out_of_order.clear()  # in truth the other deed is a transaction of its own


def test_a_key_that_is_revoked_while_it_is_read_is_not_remembered(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = services.create_key(alice.actor, name="ci")

    def ask() -> Any:
        return services.actor_from_bearer(made.plain, surface="rest", audience="")

    before(monkeypatch, bearer, "_seen_at", lambda: services.revoke_key(alice.actor, key_id=made.key.id))
    assert ask().key_id == made.key.id  # it was good when it was read

    with pytest.raises(NotAuthenticated):
        ask()
