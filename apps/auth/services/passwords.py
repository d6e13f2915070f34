"""Checking a password, with a lock-out that counts before it looks."""

import hashlib
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password

from apps.audit import services as audit
from apps.auth.models import User, plain_email
from apps.auth.services.lockouts import count_attempt, forgive, is_locked
from apps.core.actor import Actor
from apps.core.errors import NotAuthenticated, RateLimited

LONGEST_PASSWORD = 1024
HASHES_AT_ONCE = 2
HASH_WAIT_SECONDS = 10.0
_IPV6_NETWORK_BITS = 64
WRONG = "E-mail address and password do not belong together."

# Argon2 takes 100 MiB for each hash; more than two at a time would let a flood of logins eat the machine's memory.
_hashing = threading.BoundedSemaphore(HASHES_AT_ONCE)


def verify_password(*, email: str, password: str, address: str) -> User:
    """The active user with this e-mail address and password.

    Raises NotAuthenticated, with the same words and after the same work whether the address is unknown, the user
    switched off or the password wrong; RateLimited once this address has failed too often at this e-mail address.
    """
    email = plain_email(email)
    key = _failure_key(email, address)
    locked = count_attempt(key)
    if locked:
        raise RateLimited("Too many failed logins. Wait, then try again.", details={"retry_after": locked})
    user = User.objects.filter(email=email).first()
    if not _is_right(user, password) or user is None or not user.is_active:
        _record_failure(email, address, key)
        raise NotAuthenticated(WRONG)
    forgive(key)
    return user


def _record_failure(email: str, address: str, key: str) -> None:
    actor = Actor(kind="user", id=None, label=_shown(email), surface="rest", address=address)
    audit.record(actor, "login.failed", outcome="refused")
    if is_locked(key):
        audit.record(actor, "login.locked", outcome="refused", details={"seconds": settings.LOGIN_LOCK_SECONDS})


def _is_right(user: User | None, password: str) -> bool:
    """Whether the password is right; for a user who does not exist, the same work and no."""
    with _turn_to_hash():
        if user is None or not user.has_usable_password():
            User().set_password(password[:LONGEST_PASSWORD])
            return False
        before = user.password

        def renew(raw: str) -> None:
            """Keep a hash of today's cost, but over no password that was chosen while we waited for our turn."""
            User.objects.filter(pk=user.pk, password=before).update(password=make_password(raw))

        return check_password(password[:LONGEST_PASSWORD], before, renew)


@contextmanager
def _turn_to_hash() -> Iterator[None]:
    if not _hashing.acquire(timeout=HASH_WAIT_SECONDS):
        raise RateLimited("Too many people are signing in. Try again in a moment.", details={"retry_after": 5})
    try:
        yield
    finally:
        _hashing.release()


def _shown(email: str) -> str:
    """What the journal calls whoever failed; some people type their password where the address belongs."""
    return email[:200] if "@" in email else "somebody"


def _failure_key(email: str, address: str) -> str:
    return hashlib.sha256(f"{email}\n{_network(address)}".encode()).hexdigest()


def _network(address: str) -> str:
    """An IPv6 caller has 2⁶⁴ addresses of their own; they count as one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return (
        str(ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False))
        if isinstance(ip, ipaddress.IPv6Address)
        else str(ip)
    )
