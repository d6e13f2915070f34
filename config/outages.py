"""What every door answers while the database is away or too slow: 503, and when to come back."""

from django.db import InterfaceError, InternalError, OperationalError

from apps.core.errors import BackendDown

RETRY_SECONDS = 2
_SLOW = ("statement timeout", "lock timeout", "database is locked", "deadlock")
_FULL = ("disk is full", "No space left on device", "could not extend file")
_UNWRITABLE = ("disk I/O error", "readonly database", "read-only transaction", "unable to open database file")


def as_outage(error: BaseException | None) -> BackendDown | None:
    """Our error for one of the database's that will pass; None for anything else."""
    is_outage = isinstance(error, OperationalError | InterfaceError)
    if not is_outage and not (isinstance(error, InternalError) and _says(error, _UNWRITABLE)):
        return None
    return BackendDown(_told(error), details={"retry_after": RETRY_SECONDS})


def _told(error: BaseException | None) -> str:
    if _says(error, _SLOW):
        return "The database is too busy. Try again in a moment."
    if _says(error, _FULL):
        return "The database has no room left. Reading goes on; nothing can be changed until its operator makes room."
    if _says(error, _UNWRITABLE):
        return "The database cannot be written. Reading goes on; its operator finds the cause in the log."
    return "The database cannot be reached. Try again in a moment."


def _says(error: BaseException | None, words: tuple[str, ...]) -> bool:
    return any(each in str(error) for each in words)
