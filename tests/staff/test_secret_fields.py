"""No form of the control room writes a secret back into its page, not even after a mistake (K03)."""

import re

import pytest
from django.forms.widgets import Input, PasswordInput
from django.test import Client
from django.urls import reverse

from apps.core.staff.deeds import deeds_of
from tests.people import PASSWORD
from tests.staff.rooms import enter, list_url, pages, rows_of

CANARY = "Canary-in-a-secret-field-8c1f"
SECRET_INPUT = re.compile(r'<input[^>]*type="password"[^>]*>')
NAME = re.compile(r'name="([^"]+)"')
ELSEWHERE = ("admin:login", "admin:password_change")


def secret_names(page: str) -> list[str]:
    """The names of the fields of a page that take a secret."""
    return [NAME.search(field)[1] for field in SECRET_INPUT.findall(page)]


def addresses(organization) -> dict[str, str]:
    """Every page with a form: for adding, of a row, of a deed, and those of the person who is signed in."""
    found = {name: reverse(name) for name in ELSEWHERE}
    for model, _ in pages():
        found[f"add {model.__name__}"] = f"{list_url(model)}add/"
    for model, row in rows_of(organization).items():
        page = dict(pages()).get(model)
        if page is None or not hasattr(page, "deed_url"):
            continue
        found[model.__name__] = page.url_of(row)
        deeds = [deed.name for deed in deeds_of(type(page)) if deed.form]
        found |= {f"{name} {model.__name__}": page.deed_url(row, name) for name in deeds}
    return found


def with_mistakes(page: str) -> dict[str, str]:
    """A secret in each secret field, and nothing in the others, so that the form comes back."""
    return dict.fromkeys(secret_names(page), CANARY)


@pytest.mark.parametrize("who", ["alice", "root"])
def test_no_form_shows_a_secret_again_after_a_mistake(who, request, alice):
    person = request.getfixturevalue(who)
    client = enter(person, alice.organization)
    asked, told = [], []

    for name, address in addresses(alice.organization).items():
        opened = (Client() if name == "admin:login" else client).get(address)
        sent = with_mistakes(opened.text) if opened.status_code == 200 else {}
        if not sent:
            continue
        answer = (Client() if name == "admin:login" else client).post(address, sent, follow=True)
        asked.append(name)
        shown = [field for field in SECRET_INPUT.findall(opened.text + answer.text) if 'value="' in field]
        if CANARY in answer.text or shown:
            told.append(name)

    assert told == []
    assert {"admin:login", "admin:password_change", "add Credential"} <= set(asked)
    assert ("set_password User" in asked) is (who == "root")


def test_a_secret_that_came_back_would_be_seen(alice, monkeypatch):
    monkeypatch.setattr(PasswordInput, "get_context", Input.get_context)

    page = enter(alice).post(reverse("admin:password_change"), {"old_password": CANARY, "new_password1": PASSWORD})

    assert CANARY in page.text
