"""Every error has one shape and the status that the house gives it."""

from datetime import datetime

import pytest
from django.db import InternalError, connection, transaction

from apps.audit import services as audit
from apps.core import errors
from apps.core.schemas import ErrorOut
from config.outages import as_outage

STATUSES = {
    "Malformed": ("MALFORMED", 400), "InvalidInput": ("INVALID_INPUT", 422),
    "NotAuthenticated": ("NOT_AUTHENTICATED", 401), "NotPermitted": ("NOT_PERMITTED", 403),
    "QuotaExceeded": ("QUOTA_EXCEEDED", 403), "ApprovalNeeded": ("APPROVAL_NEEDED", 403),
    "NotFound": ("NOT_FOUND", 404), "Conflict": ("CONFLICT", 409), "TooLarge": ("TOO_LARGE", 413),
    "RateLimited": ("RATE_LIMITED", 429), "BackendError": ("BACKEND_FAILED", 502),
    "BackendTimeout": ("BACKEND_TIMEOUT", 504), "BackendDown": ("BACKEND_DOWN", 503),
}  # fmt: skip


@pytest.mark.parametrize("name", STATUSES)
def test_an_error_has_its_code_its_status_and_a_sentence(name):
    kind = getattr(errors, name)

    assert (kind.code, kind.status) == STATUSES[name]
    assert kind().message.endswith(".") and kind().details == {}


def test_no_two_kinds_of_error_share_a_code():
    codes = [code for code, _ in STATUSES.values()]

    assert len(set(codes)) == len(codes)


def test_an_error_is_rendered_in_the_envelope():
    error = errors.InvalidInput.for_field("slug", "Use small letters.")

    shape = errors.render(error, "r-1")["error"]

    assert set(shape) == {"code", "message", "details", "timestamp", "request_id"}
    assert (shape["code"], shape["request_id"]) == ("INVALID_INPUT", "r-1")
    assert shape["details"] == {"fields": {"slug": ["Use small letters."]}}
    assert datetime.fromisoformat(shape["timestamp"]).tzinfo is not None
    ErrorOut.model_validate({"error": shape})


def test_details_are_a_copy_that_later_changes_do_not_reach():
    details = {"retry_after": 1}
    error = errors.RateLimited(details=details)

    details["retry_after"] = 2

    assert error.details == {"retry_after": 1}


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_postgresql_that_takes_no_writes_is_told_as_an_outage(alice):
    with pytest.raises(InternalError) as caught, transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        audit.record(alice.actor, "work.done", "x")

    outage = as_outage(caught.value)
    assert outage is not None and outage.message.startswith("The database cannot be written.")
    assert as_outage(InternalError("current transaction is aborted")) is None
