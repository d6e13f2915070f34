"""Counting failures before they are judged, so that many guesses at once are not many guesses."""

from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.auth.models import LoginFailure

FAILURES_KEPT = timedelta(days=1)
MOST_DOUBLINGS = 20


def key_of_codes(user_id: UUID) -> str:
    """Under what wrong codes of a second factor are counted: the account, wherever they come from."""
    return sha256(f"second factor\n{user_id}".encode()).hexdigest()


def count_attempt(key: str, *, grows: bool = False) -> int:
    """Count this attempt before it is judged; the seconds still to wait if it must not be judged at all.

    With `grows`, each lock is twice as long as the one before, until a day has passed without an attempt: for what is
    short enough to be guessed in time.
    """
    now = timezone.now()
    with transaction.atomic():
        row = _held_row(key, now)
        if row.locked_until and row.locked_until > now:
            return _seconds_between(now, row.locked_until)
        failures = 1 if _is_forgotten(row, now, grows) else row.failures + 1
        until = now + _lock_after(failures) if failures % settings.LOGIN_FAILURES == 0 else None
        LoginFailure.objects.filter(pk=key).update(failures=failures, last_failed_at=now, locked_until=until)
    return 0


def is_locked(key: str) -> bool:
    """Whether the attempt just counted was the last for a while."""
    return LoginFailure.objects.filter(pk=key).exclude(locked_until=None).exists()


def forgive(key: str) -> None:
    """Forget the failures: somebody has proved who they are."""
    LoginFailure.objects.filter(pk=key).delete()


def forget_old_failures() -> None:
    """Delete the counts that no lock depends on."""
    LoginFailure.objects.filter(last_failed_at__lt=timezone.now() - FAILURES_KEPT).delete()


def _held_row(key: str, now: datetime) -> LoginFailure:
    """The count, held until the transaction ends; somebody may forgive it between its making and its holding."""
    while True:
        LoginFailure.objects.bulk_create([LoginFailure(pk=key, last_failed_at=now)], ignore_conflicts=True)
        row = LoginFailure.objects.select_for_update().filter(pk=key).first()
        if row is not None:
            return row


def _is_forgotten(row: LoginFailure, now: datetime, grows: bool) -> bool:
    quiet = now - row.last_failed_at
    if grows:
        return quiet > FAILURES_KEPT
    return row.locked_until is not None or quiet > timedelta(seconds=settings.LOGIN_LOCK_SECONDS)


def _lock_after(failures: int) -> timedelta:
    doublings = min(failures // settings.LOGIN_FAILURES, MOST_DOUBLINGS) - 1
    return min(timedelta(seconds=settings.LOGIN_LOCK_SECONDS * 2**doublings), FAILURES_KEPT)


def _seconds_between(now: datetime, until: datetime) -> int:
    return max(1, round((until - now).total_seconds()))
