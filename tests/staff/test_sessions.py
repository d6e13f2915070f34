"""What a session of the control room leaves in the database opens no session."""

import pytest
from django.contrib.sessions.models import Session
from django.test import Client

from tests.people import Person
from tests.staff.rooms import enter

pytestmark = pytest.mark.django_db


def test_the_row_of_a_session_is_not_its_cookie(alice: Person) -> None:
    browser = enter(alice)
    cookie = browser.cookies["sessionid"].value

    [row] = Session.objects.all()

    assert cookie not in (row.session_key, row.session_data)
    assert browser.get("/admin/").status_code == 200
    thief = Client()
    thief.cookies["sessionid"] = row.session_key
    assert thief.get("/admin/").status_code == 302


def test_a_session_ends_with_its_row_and_signing_out_ends_the_row(alice: Person) -> None:
    first, second = enter(alice), enter(alice)
    assert Session.objects.count() == 2

    first.post("/admin/logout/")

    assert Session.objects.count() == 1
    assert first.get("/admin/").status_code == 302
    assert second.get("/admin/").status_code == 200
    Session.objects.all().delete()
    assert second.get("/admin/").status_code == 302


def test_a_session_that_has_expired_opens_nothing(alice: Person) -> None:
    browser = enter(alice)
    Session.objects.update(expire_date="2020-01-01T00:00:00Z")

    assert browser.get("/admin/").status_code == 302
