"""Bundles in the control room: made, filled, connected to, and closed."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.gateway import services as gateway
from apps.gateway.admin.bundles import BundleAdmin
from apps.gateway.admin.items import BundleItemAdmin
from apps.gateway.models import Bundle, BundleItem
from apps.gateway.schemas import BundleItemIn
from apps.registry.models import Capability, Server
from tests.gateway.shelf import offer, seen_by, server_of
from tests.people import Person
from tests.staff.rooms import deed_url, enter, page_url
from tests.staff.test_cost import queries_of
from tests.staff.test_transfer import text

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
    assert "All of up" in text(page)
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


# Choosing, and naming anew where it stands


def choose_url(bundle: Bundle) -> str:
    """Where things are chosen for a bundle."""
    return reverse("admin:gateway_bundle_choose", args=[bundle.pk])


def shown_choices(page: Any) -> dict[str, bool]:
    """What the page offers, and whether the bundle has it already."""
    choices = [choice for group in page.context["offering"].groups for choice in group.choices]
    return {choice.value: choice.is_there for choice in choices}


def test_many_things_are_chosen_at_once_or_none(adam: Person, up: Server) -> None:
    echo, plus = (Capability.objects.get(name=name) for name in ("echo", "add"))
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk", items=[BundleItemIn(capability_id=echo.pk)])
    client = enter(adam)

    shown = shown_choices(client.get(choose_url(made)))
    assert shown[f"capability:{echo.pk}"] and not shown[f"capability:{plus.pk}"] and not shown[f"server:{up.pk}"]
    page = client.post(choose_url(made), {"thing": [f"capability:{plus.pk}", "native:search"]}, follow=True)
    assert "2 things are in Desk now." in page.content.decode()
    assert [item.takes_in for item in made.items] == ["up__echo", "up__add", "search"]

    twice = client.post(choose_url(made), {"thing": ["native:fetch", f"capability:{plus.pk}"]})
    assert "The bundle has this already." in twice.content.decode()
    fetch = next(each for group in twice.context["offering"].groups for each in group.choices if "fetch" in each.value)
    assert fetch.is_chosen, "what was chosen stays chosen"
    assert "Nothing was chosen." in client.post(choose_url(made)).content.decode()
    assert len(made.items) == 3


def test_a_search_finds_by_the_words_of_names_kinds_and_servers(adam: Person, up: Server) -> None:
    offer(server_of(adam, "maps"), "prompt", "add_route")
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk")
    client = enter(adam)

    def found(words: str) -> list[str]:
        groups = client.get(choose_url(made), {"q": words}).context["offering"].groups
        return [text(choice.name) for group in groups for choice in group.choices if "capability" in choice.value]

    assert found("ADD") == ["maps__add_route", "up__add"]
    assert found("add prompt") == ["maps__add_route"]
    assert found("up") == ["up__add", "up__echo"]
    assert found("%") == found("nothing") == []


def test_beyond_a_thousand_things_the_rest_is_found_by_a_search(
    adam: Person, up: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.gateway.admin.choosing.MOST_SHOWN", 1)
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk")
    client = enter(adam)

    page = client.get(choose_url(made))
    assert "Search to see others." in page.content.decode() and "up__echo" not in page.content.decode()
    assert "up__echo" in client.get(choose_url(made), {"q": "echo"}).content.decode()


def test_the_page_to_choose_from_asks_no_more_for_more_things(adam: Person, up: Server) -> None:
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk")
    client = enter(adam)
    few = queries_of(client, choose_url(made))
    for number in range(12):
        offer(up, "tool", f"more_{number}")

    many = queries_of(client, choose_url(made))

    assert len(many) <= len(few) + 1, "\n".join(many)


def test_nothing_of_others_is_offered_nor_taken_in(adam: Person, bob: Person, root: Person, up: Server) -> None:
    other = server_of(bob, "other")
    theirs = offer(other, "tool", "echo")
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk")

    for person in (adam, root):
        client = enter(person)
        assert not {f"capability:{theirs.pk}", f"server:{other.pk}"} & set(shown_choices(client.get(choose_url(made))))
    for forged in (f"capability:{theirs.pk}", f"server:{other.pk}", "capability:x", "user:1", "native:nothing", ""):
        client.post(choose_url(made), {"thing": [forged]})
    assert enter(bob).get(choose_url(made)).status_code == 404
    assert enter(bob).post(choose_url(made), {"thing": ["native:search"]}).status_code == 404
    assert not made.items


def test_a_bundle_says_what_agents_see_and_why_they_do_not_see_the_rest(adam: Person, up: Server) -> None:
    offer(up, "prompt", "greet")
    kept, gone, changed = (offer(up, "tool", name) for name in ("kept", "gone", "changed"))
    items = [BundleItemIn(capability_id=each.pk) for each in (kept, gone, changed)]
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk", items=[*items, BundleItemIn(native="search")])
    client = enter(adam)
    assert "An agent at this address sees 4 tools, less what" in client.get(page_url(made)).content.decode()

    Capability.objects.filter(pk=gone.pk).update(removed_at=timezone.now())
    Capability.objects.filter(pk=changed.pk).update(digest="another")
    gateway.add_items(adam.actor, bundle_id=made.pk, items=[BundleItemIn(server_id=up.pk)])
    page = client.get(page_url(made)).content.decode()

    assert "sees 4 tools and 1 prompt, less what" in page
    assert "2 of the selections below are not usable now." in page
    assert "Its server does not offer it any more." in page
    assert "Its definition has changed, and waits for approval." in page
    view = seen_by(adam, bundle="desk")
    assert (len(view.tools), len(view.prompts)) == (4, 1), "what is said is what is so"
    gateway.update_bundle(adam.actor, bundle_id=made.pk, is_enabled=False)
    assert "Agents do not find this address while" in client.get(page_url(made)).content.decode()


def test_a_thing_is_named_anew_on_the_page_of_its_bundle(adam: Person, up: Server) -> None:
    echo = Capability.objects.get(name="echo")
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk", items=[BundleItemIn(capability_id=echo.pk)])
    item, client = made.items[0], enter(adam)
    page = client.get(page_url(made)).content.decode()
    assert f'action="{page_url(item)}"' in page and f'action="{deed_url(item, "take_out")}"' in page

    answer = client.post(page_url(item), {"alias": "repeat", "description_override": "Says it again."})

    assert answer["Location"] == f"{page_url(made)}#item-{item.pk}"
    assert "renamed from" in client.get(page_url(made)).content.decode()
    assert list(seen_by(adam, bundle="desk").tools) == ["repeat"]


def test_who_may_only_look_is_offered_nothing_to_change(
    adam: Person, up: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = gateway.create_bundle(adam.actor, name="Desk", slug="desk", items=[BundleItemIn(native="search")])
    for page in (BundleAdmin, BundleItemAdmin):
        monkeypatch.setattr(page, "change_permission", "bundle.nobody")
    client = enter(adam)

    shown = client.get(page_url(made)).content.decode()

    assert "An agent at this address sees 1 tool" in shown
    assert "Choose things" not in shown and "Take out" not in shown and "describe anew" not in shown
    assert client.get(choose_url(made)).status_code == 403
    assert client.post(choose_url(made), {"thing": ["native:fetch"]}).status_code == 403
    assert len(made.items) == 1
