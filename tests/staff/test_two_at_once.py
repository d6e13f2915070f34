"""Two people who have the form of the same row open: neither puts an old value back over the other's."""

from html.parser import HTMLParser
from typing import Any

import pytest
from django.db.models import Model
from django.test import Client

from apps.audit.models import Entry
from apps.registry.models import Server
from tests.factories.gateway import BundleFactory
from tests.factories.registry import CapabilityFactory, ServerFactory
from tests.people import Person
from tests.staff.rooms import enter, list_url, page_url


class Sent(HTMLParser):
    """What a browser sends of the form of a page, as long as nobody touches it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self._is_in_form = False
        self._text = self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._is_in_form = given.get("id", "").endswith("_form")
        name = given.get("name", "")
        if tag == "option" and self._select and (self._select not in self.values or "selected" in given):
            self.values[self._select] = given.get("value", "")
        if not self._is_in_form:
            return
        if tag == "input" and name and given.get("type") not in ("submit", "file"):
            if given.get("type") != "checkbox" or "checked" in given:
                self.values[name] = given.get("value", "on" if given.get("type") == "checkbox" else "")
        elif tag == "textarea":
            self._text, self.values[name] = name, ""
        elif tag == "select":
            self._select = name

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_in_form = False
        elif tag == "textarea":
            self.values[self._text] = self.values[self._text].removeprefix("\n")
            self._text = ""
        elif tag == "select":
            self._select = ""

    def handle_data(self, data: str) -> None:
        if self._text:
            self.values[self._text] += data


def opened(client: Client, row: Model) -> dict[str, str]:
    """The form of a row as it is sent untouched, with the line ends of a browser."""
    values = Sent(client.get(page_url(row)).text).values
    return {name: value.replace("\n", "\r\n") for name, value in values.items()}


def save(client: Client, row: Model, sent: dict[str, str], **changed: str) -> Any:
    """Send the form, with these fields changed; an empty checkbox is not sent."""
    values = {name: value for name, value in {**sent, **changed}.items() if value != "unchecked"}
    return client.post(page_url(row), values)


ROWS = {
    "server": (
        ServerFactory, {"description": "Tides\nand weather", "tags": ["a", "b"], "is_critical": True},
        {"description": "Tides only", "tags": "c, d", "is_critical": "unchecked"}, {"max_concurrency": "3"},
    ),
    "capability": (
        CapabilityFactory, {"description_override": "One\ntwo", "risk": "low"},
        {"description_override": "Three", "risk": "high"}, {"tags": "x"},
    ),
    "bundle": (
        BundleFactory, {"description": "For the team", "instructions": "Ask\nfirst"},
        {"description": "For all", "instructions": "Ask never"}, {"name": "Other"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_whoever_saves_another_field_leaves_what_a_colleague_saved_meanwhile(alice: Person, kind: str) -> None:
    make, held, theirs, mine = ROWS[kind]
    row: Any = make(organization=alice.organization, **held)
    client = enter(alice)
    before = opened(client, row)

    first = save(client, row, before, **theirs)
    row.refresh_from_db()
    saved = {name: getattr(row, name) for name in theirs}
    second = save(client, row, before, **mine)

    row.refresh_from_db()
    assert first.status_code == second.status_code == 302
    assert {name: getattr(row, name) for name in theirs} == saved
    assert saved != {name: held.get(name) for name in theirs}
    assert [str(getattr(row, name)).strip("['\"]") for name in mine] == list(mine.values())


def test_two_who_change_the_same_field_are_told_and_the_second_saves_once_more_to_replace_it(alice: Person) -> None:
    server = ServerFactory(organization=alice.organization, name="Tides", environment="production")
    client = enter(alice)
    before = opened(client, server)

    save(client, server, before, name="Waves", environment="staging")
    refused = save(client, server, before, name="Currents", environment="development", description="Mine")
    server.refresh_from_db()
    now = server.name, server.environment, server.description
    again = save(client, server, Sent(refused.text).values)

    server.refresh_from_db()
    assert refused.status_code == 200
    assert "It reads now: “Waves”. Save again to replace it." in refused.text
    assert "It reads now: “Staging”." in refused.text
    assert now == ("Waves", "staging", "")
    assert again.status_code == 302
    assert (server.name, server.environment, server.description) == ("Currents", "development", "Mine")


def test_both_who_make_the_same_change_are_content(alice: Person) -> None:
    server = ServerFactory(organization=alice.organization, is_critical=False)
    client = enter(alice)
    before = opened(client, server)

    answers = [save(client, server, before, name="Waves", is_critical="on") for _ in range(2)]

    server.refresh_from_db()
    assert [answer.status_code for answer in answers] == [302, 302]
    assert server.name == "Waves" and server.is_critical
    assert Entry.objects.for_org(alice.organization.pk).filter(action="server.updated").count() == 1


@pytest.mark.parametrize("kind", ROWS)
def test_a_form_that_nobody_touched_saves_nothing(alice: Person, kind: str) -> None:
    make, held, *_ = ROWS[kind]
    row: Any = make(organization=alice.organization, **held)
    client = enter(alice)

    answer = save(client, row, opened(client, row))

    assert answer.status_code == 302
    assert not Entry.objects.for_org(alice.organization.pk).filter(action__endswith=".updated").exists()


def test_what_the_form_says_it_showed_cannot_break_it(alice: Person) -> None:
    server = ServerFactory(organization=alice.organization)
    client = enter(alice)
    sent = opened(client, server)
    forged = {name: "no number" if name.startswith("initial-") else value for name, value in sent.items()}

    answer = save(client, server, forged, max_concurrency="5")

    assert answer.status_code == 200
    assert "Changed meanwhile." in answer.text


def test_a_form_says_nothing_of_what_is_secret_and_a_new_row_showed_nothing(alice: Person, root: Person) -> None:
    server = ServerFactory(
        organization=alice.organization, transport="stdio", command=["time"], env={"TOKEN": "canary-of-env"}
    )
    client = enter(root, alice.organization)

    page, new = client.get(page_url(server)).text, client.get(list_url(Server) + "add/").text

    assert "initial-name" in page and "canary-of-env" not in page
    assert "initial-name" not in new
