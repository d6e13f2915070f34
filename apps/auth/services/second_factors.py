"""The second factor: a code that changes with the time (RFC 6238), or one of a few recovery codes, each once.

The seed is a sealed secret of the platform. Wrong codes are counted for each account, wherever they come from, and each
lock is longer than the one before: six digits are few.
"""

import base64
import hmac
import secrets as randomness
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import RecoveryCode, SecondFactor, User, plain_email
from apps.auth.services.lockouts import count_attempt, forgive, is_locked, key_of_codes
from apps.auth.services.passwords import verify_password
from apps.auth.services.people import end_everything, get_user
from apps.core.actor import Actor
from apps.core.errors import (
    Conflict,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RateLimited,
    SecondFactorNeeded,
)
from apps.secrets import services as secrets

ISSUER = "Gatehouse"
DIGITS = 6
STEP_SECONDS = 30
DRIFT_STEPS = 1
"""A clock may be half a minute off, and a person slow."""
SEED_BYTES = 20
RECOVERY_CODES = 10
RECOVERY_BYTES = 10
LONGEST_CODE = 64
WRONG = "This code is not right, or it has been used. Wait for the next one and try again."


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a person's authenticator needs, to be shown until a first code has come back."""

    seed: str
    uri: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with somebody's second factor."""

    confirmed_at: datetime | None
    is_pending: bool
    recovery_codes_left: int
    is_required: bool


# Signing in ------------------------------------------------------------------------------------------------------


def check_second_factor(user: User, *, code: str | None, address: str) -> None:
    """Let only those pass who need no second factor, or show theirs.

    Raises SecondFactorNeeded without a code, NotAuthenticated for a wrong one, RateLimited after too many, NotPermitted
    for staff who must have one and have none.
    """
    if has_second_factor(user):
        if not code:
            raise SecondFactorNeeded
        verify_code(user, code=code, address=address)
    elif is_second_factor_missing(user):
        raise NotPermitted("Staff need a second factor here. Sign in to the control room, which sets one up with you.")


def verify_code(user: User, *, code: str, address: str) -> None:
    """Use up a code of this user's second factor; raises NotAuthenticated, or RateLimited after too many wrong ones."""
    factor = _confirmed(user)
    if factor is None:
        raise NotAuthenticated(WRONG)
    key = key_of_codes(user.pk)
    locked = count_attempt(key, grows=True)
    if locked:
        raise RateLimited("Too many wrong codes. Wait, then try again.", details={"retry_after": locked})
    if not _use(factor, code, address):
        _record_failure(user, key, address)
        raise NotAuthenticated(WRONG)
    forgive(key)


def confirm_identity(actor: Actor, *, proof: str) -> None:
    """Check that it is still the same person: by a code of their second factor, or without one by their password.

    Raises NotAuthenticated, RateLimited.
    """
    user = _oneself(actor)
    if has_second_factor(user):
        verify_code(user, code=proof, address=actor.address)
    else:
        verify_password(email=user.email, password=proof, address=actor.address)
    audit.record(actor, "session.confirmed", f"user:{user.email}")


def has_second_factor(user: User) -> bool:
    """Whether this user proves a second thing besides the password."""
    return _confirmed(user) is not None


def is_second_factor_missing(user: User) -> bool:
    """Whether this installation demands a second factor of staff, and this member of staff has none."""
    return bool(settings.REQUIRE_SECOND_FACTOR) and user.is_staff and not has_second_factor(user)


def count_unprotected_admins() -> int:
    """How many active platform admins have no second factor."""
    admins = User.objects.filter(is_active=True, is_superuser=True)
    return admins.exclude(second_factor__confirmed_at__isnull=False).count()


# Setting it up ---------------------------------------------------------------------------------------------------


def describe_second_factor(actor: Actor) -> Standing:
    """How it stands with one's own."""
    user = _oneself(actor)
    factor = SecondFactor.objects.filter(user=user).first()
    at = factor.confirmed_at if factor else None
    left = factor.recovery_codes.filter(used_at=None).count() if factor else 0
    return Standing(at, bool(factor and not at), left, bool(settings.REQUIRE_SECOND_FACTOR))


def begin_second_factor(actor: Actor) -> Enrolment:
    """Make a seed for oneself; nothing asks for it until it is confirmed. Raises Conflict where there is one."""
    actor.require_confirmed()
    user = _oneself(actor)
    seed = base64.b32encode(randomness.token_bytes(SEED_BYTES)).decode()
    with transaction.atomic():
        _hold(user)
        if has_second_factor(user):
            raise Conflict("There is a second factor already. Take it away before you set up another.")
        _discard(actor, user)
        purpose = f"second factor of {user.email}"
        secret = secrets.keep(replace(actor, organization_id=secrets.PLATFORM), purpose=purpose, plain=seed)
        SecondFactor(user=user, secret_id=secret.id).store()
    return _enrolment(user, seed)


def pending_second_factor(actor: Actor) -> Enrolment | None:
    """The seed that waits for its first code; it is shown to nobody who has not lately proved who they are."""
    actor.require_confirmed()
    user = _oneself(actor)
    factor = SecondFactor.objects.filter(user=user, confirmed_at=None).first()
    return _enrolment(user, _seed_of(factor)) if factor else None


def confirm_second_factor(actor: Actor, *, code: str) -> list[str]:
    """Begin to ask for the second factor, now that a first code is right; returns the recovery codes, this once.

    Every other session of the user ends: they were begun without it. Raises NotFound, InvalidInput, RateLimited.
    """
    actor.require_confirmed()
    user = _oneself(actor)
    factor = SecondFactor.objects.filter(user=user, confirmed_at=None).first()
    if factor is None:
        raise NotFound("Nothing waits to be confirmed. Begin anew.")
    key = key_of_codes(user.pk)
    locked = count_attempt(key, grows=True)
    if locked:
        raise RateLimited("Too many wrong codes. Wait, then try again.", details={"retry_after": locked})
    with transaction.atomic():
        _hold(user)
        if not _use_time_code(factor, code):
            raise InvalidInput.for_field("code", WRONG)
        SecondFactor.objects.filter(pk=factor.pk).update(confirmed_at=timezone.now())
        codes = _new_recovery_codes(factor)
        end_everything(actor, user)
        audit.record(actor, "second_factor.added", f"user:{user.email}")
    forgive(key)
    return codes


def renew_recovery_codes(actor: Actor) -> list[str]:
    """Make new recovery codes in place of the old ones, shown this once. Raises NotFound."""
    actor.require_confirmed()
    user = _oneself(actor)
    with transaction.atomic():
        _hold(user)
        factor = _confirmed(user)
        if factor is None:
            raise NotFound("There is no second factor to recover.")
        codes = _new_recovery_codes(factor)
        audit.record(actor, "second_factor.codes_renewed", f"user:{user.email}")
    return codes


def remove_second_factor(actor: Actor, *, user_id: UUID) -> User:
    """Take a second factor away: one's own, or for a platform admin anybody's. Every session of the user ends."""
    actor.require_confirmed()
    if actor.kind == "key" or user_id != actor.user_id:
        actor.require_platform_admin()
    user = get_user(actor, user_id=user_id)
    with transaction.atomic():
        _hold(user)
        if not has_second_factor(user):
            raise NotFound("This account has no second factor.")
        _discard(actor, user)
        end_everything(actor, user)
        audit.record(actor, "second_factor.removed", f"user:{user.email}")
    forgive(key_of_codes(user.pk))
    return user


def remove_second_factor_of(actor: Actor, *, email: str) -> User:
    """The same by e-mail address, for platform admins."""
    actor.require_platform_admin()
    user = User.objects.filter(email=plain_email(email)).first()
    if user is None:
        raise NotFound("There is no user with this e-mail address.")
    return remove_second_factor(actor, user_id=user.pk)


# One code --------------------------------------------------------------------------------------------------------


def _use(factor: SecondFactor, code: str, address: str) -> bool:
    plain = "".join(code[:LONGEST_CODE].split()).lower()
    if plain.isascii() and plain.isdigit():
        return _use_time_code(factor, plain)
    return _use_recovery_code(factor, plain, address)


def _use_time_code(factor: SecondFactor, code: str) -> bool:
    """Whether this is the code of a moment near now, and of a later one than the last that was used."""
    plain = "".join(code[:LONGEST_CODE].split()).encode()
    clock = TOTP(_key_of(_seed_of(factor)), DIGITS, SHA1(), STEP_SECONDS)  # noqa: S303 - what authenticators speak
    found = [step for step in _steps() if hmac.compare_digest(clock.generate(step * STEP_SECONDS), plain)]
    # In one statement: of two who send the same code at the same time only one gets in.
    unused = SecondFactor.objects.filter(pk=factor.pk, last_step__lt=max(found, default=0))
    return bool(found) and bool(unused.update(last_step=max(found)))


def _steps() -> Iterator[int]:
    now = int(timezone.now().timestamp()) // STEP_SECONDS
    yield from range(now - DRIFT_STEPS, now + DRIFT_STEPS + 1)


def _use_recovery_code(factor: SecondFactor, code: str, address: str) -> bool:
    digests = [_digest(factor, code, number) for number in settings.KEY_PEPPERS]
    unused = RecoveryCode.objects.filter(factor=factor, used_at=None, digest__in=digests)
    if not unused.update(used_at=timezone.now()):
        return False
    left = factor.recovery_codes.filter(used_at=None).count()
    audit.record(_plain_actor(factor.user, address), "second_factor.code_used", details={"recovery_codes_left": left})
    return True


def _new_recovery_codes(factor: SecondFactor) -> list[str]:
    codes = [_new_recovery_code() for _ in range(RECOVERY_CODES)]
    number = max(settings.KEY_PEPPERS)
    factor.recovery_codes.all().delete()
    for code in codes:
        RecoveryCode(factor=factor, digest=_digest(factor, code, number), pepper_number=number).store()
    return codes


def _new_recovery_code() -> str:
    text = base64.b32encode(randomness.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(text[place : place + 4] for place in range(0, len(text), 4))


def _digest(factor: SecondFactor, code: str, pepper_number: int) -> str:
    pepper: str = settings.KEY_PEPPERS[pepper_number]
    said = f"{factor.pk}.{code.replace('-', '')}"
    return hmac.new(pepper.encode(), said.encode(), "sha256").hexdigest()


# Rows and seeds --------------------------------------------------------------------------------------------------


def _confirmed(user: User) -> SecondFactor | None:
    return SecondFactor.objects.filter(user=user).exclude(confirmed_at=None).first()


def _oneself(actor: Actor) -> User:
    if actor.kind != "user" or actor.user_id is None:
        raise NotPermitted("A second factor belongs to a person.")
    return User.objects.get(pk=actor.user_id)


def _hold(user: User) -> None:
    """Let nobody else change this user's factor meanwhile: the row before the journals' chains, as at every login."""
    User.objects.select_for_update(no_key=True).get(pk=user.pk)
    audit.hold_chain(secrets.PLATFORM)


def _discard(actor: Actor, user: User) -> None:
    """Delete the row and its seed, in the caller's transaction."""
    factor = SecondFactor.objects.filter(user=user).first()
    if factor is not None:
        secrets.forget(replace(actor, organization_id=secrets.PLATFORM), secret_id=factor.secret_id)
        factor.delete()


def _seed_of(factor: SecondFactor) -> str:
    return secrets.open_secret(factor.secret_id, organization_id=secrets.PLATFORM)


def _key_of(seed: str) -> bytes:
    return base64.b32decode(seed)


def _enrolment(user: User, seed: str) -> Enrolment:
    clock = TOTP(_key_of(seed), DIGITS, SHA1(), STEP_SECONDS)  # noqa: S303 - what authenticators speak
    return Enrolment(seed, clock.get_provisioning_uri(user.email, ISSUER))


def _record_failure(user: User, key: str, address: str) -> None:
    actor = _plain_actor(user, address)
    audit.record(actor, "second_factor.failed", outcome="refused")
    if is_locked(key):
        audit.record(actor, "second_factor.locked", outcome="refused")


def _plain_actor(user: User, address: str) -> Actor:
    return Actor(kind="user", id=user.pk, label=user.email[:200], surface="rest", user_id=user.pk, address=address)
