"""Bundles in the control room: made, filled, connected to, and closed."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.gateway import services as gateway
from apps.gateway.models import Bundle, BundleItem
from apps.gateway.schemas import BundleItemIn
from apps.registry.models import Capability, Server
from tests.gateway.shelf import offer, seen_by, server_of
from tests.people import Person
from tests.staff.rooms import deed_url, enter, page_url

pytestmark = pytest.mark.django_db


@pytest.fixture
def up(alice: Person) -> Server:
    """A server with two tools."""
    server = server_of(alice, "up")
    offer(server, "tool", "echo")
    offer(server, "tool", "add")
    return server


def make(client: Client, **given: Any) -> Any:
    """Send the form for a new bundle."""
    sent = {"name": "Help desk", "slug": "desk", "description": "", "instructions": "", **given}
    return client.post(reverse("admin:gateway_bundle_add"), sent, follow=True)


def add(client: Client, bundle: Bundle, **given: Any) -> Any:
    """Send the form for a new item."""
    sent = {"bundle": bundle.pk, "capability": "", "server": "", "native": "", "alias": "", "description_override": ""}
    return client.post(reverse("admin:gateway_bundleitem_add"), {**sent, **given}, follow=True)


def test_one_server_under_its_own_names_is_one_form(adam: Person, up: Server) -> None:
    page = make(enter(adam), server=up.pk, names_verbatim="on", instructions="Be kind.").content.decode()

    assert list(seen_by(adam, bundle="desk").tools) == ["add", "echo"]
    assert "all of up" in page
    for client in gateway.CLIENTS:
        assert f"<summary>{client}</summary>" in page
    assert page.count(Bundle.objects.get().url) > len(gateway.CLIENTS)


def test_things_are_added_named_and_taken_out_on_the_page(adam: Person, up: Server) -> None:
    client = enter(adam)
    make(client)
    bundle = Bundle.objects.get()
    echo, plus = (Capability.objects.get(name=name) for name in ("echo", "add"))

    page = add(client, bundle, capability=echo.pk, alias="repeat", description_override="Says it again.")
    assert "repeat is in Help desk now." in page.content.decode()
    add(client, bundle, native="search")
    refused = add(client, bundle, capability=plus.pk, alias="Repeat").content.decode()
    assert "Something else in the bundle has this name." in refused
    both = add(client, bundle, capability=plus.pk, native="fetch").content.decode()
    assert "exactly one of them" in both
    assert list(seen_by(adam, bundle="desk").tools) == ["repeat", "search"]

    item = BundleItem.objects.get(capability=echo)
    client.post(page_url(item), {"alias": "again", "description_override": ""})
    assert list(seen_by(adam, bundle="desk").tools) == ["again", "search"]
    out = client.post(deed_url(item, "take_out"), follow=True).content.decode()

    assert "again is not in Help desk any more." in out
    assert list(seen_by(adam, bundle="desk").tools) == ["search"]


def test_a_bundle_is_changed_closed_and_removed(adam: Person, up: Server) -> None:
    client = enter(adam)
    made = gateway.create_bundle(
        adam.actor, name="Help desk", slug="desk", items=[BundleItemIn(server_id=up.pk), BundleItemIn(native="search")]
    )

    given = {"name": "Desk", "description": "", "instructions": "Be brief.", "names_verbatim": "on"}
    refused = client.post(page_url(made), given, follow=True).content.decode()
    assert "only where all items are of one server" in refused
    client.post(page_url(made), {**given, "names_verbatim": ""}, follow=True)
    made.refresh_from_db()
    assert (made.name, made.instructions, made.slug) == ("Desk", "Be brief.", "desk")

    client.post(deed_url(made, "disable"))
    assert not Bundle.objects.get().is_enabled
    client.post(deed_url(made, "enable"))
    assert Bundle.objects.get().is_enabled
    assert "bundle.updated" in client.get(page_url(made).replace("/change/", "/history/")).content.decode()
    client.post(deed_url(made, "remove"))

    assert not Bundle.objects.exists()


def test_the_choices_are_searched_among_what_is_the_organisations_own(adam: Person, bob: Person, up: Server) -> None:
    offer(server_of(bob, "other"), "tool", "echo")
    asked = {"app_label": "gateway", "model_name": "bundleitem", "field_name": "capability", "term": "echo"}

    found = enter(adam).get(reverse("admin:autocomplete"), asked).json()

    assert [each["text"] for each in found["results"]] == ["up__echo"]
