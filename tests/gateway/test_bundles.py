"""Bundles: what is in them, by which names, for whom, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import uuid4

import pytest
from django.db import connections
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.core.errors import Conflict, InvalidInput, NotFound, NotPermitted
from apps.core.schemas import PageQuery
from apps.gateway import services as gateway
from apps.gateway.models import Bundle, BundleItem
from apps.gateway.schemas import BundleFilters, BundleItemIn
from apps.registry import services as registry
from apps.registry.models import Capability, Server
from tests.factories.gateway import BundleItemFactory
from tests.gateway.shelf import listed, offer, seen_by, server_of
from tests.people import Person

pytestmark = pytest.mark.django_db


@pytest.fixture
def up(alice: Person) -> Server:
    """A server with two tools, a prompt and a resource."""
    server = server_of(alice, "up")
    offer(server, "tool", "echo", description="Says it again.")
    offer(server, "tool", "drop.table")
    offer(server, "prompt", "greet")
    offer(server, "resource", "test://one")
    return server


def one(capability: Capability, **options: str) -> BundleItemIn:
    """An item that takes in one capability."""
    return BundleItemIn(capability_id=capability.pk, **options)


def named(server: Server, name: str) -> Capability:
    """What a server offers by this name."""
    found: Capability = Capability.objects.get(server=server, name=name)
    return found


def bundle_of(person: Person, *items: BundleItemIn, slug: str = "desk", **more: Any) -> Bundle:
    """A bundle."""
    return gateway.create_bundle(person.actor, name="Help desk", slug=slug, items=items, **more)


def test_a_bundle_shows_what_was_chosen_and_nothing_else(dora: Person, up: Server) -> None:
    bundle_of(dora, one(named(up, "echo")), one(named(up, "test://one")), instructions="Be kind.")

    view = seen_by(dora, bundle="desk")

    assert list(view.tools) == ["up__echo"]
    assert list(view.resources) == ["test://one"]
    assert not view.prompts
    assert (view.name, view.title, view.instructions) == ("desk", "Help desk", "Be kind.")
    with pytest.raises(gateway.UnknownTool):
        view.find_tool("search")


def test_things_are_renamed_and_described_anew_in_their_bundle_alone(dora: Person, up: Server) -> None:
    bundle_of(
        dora, one(named(up, "echo"), alias="repeat", description_override="Repeats."),
        one(named(up, "greet"), alias="hello"), BundleItemIn(native="search", alias="find"),
    )  # fmt: skip

    view = seen_by(dora, bundle="desk")

    assert list(view.tools) == ["repeat", "find"]
    assert (listed(view, "tools")[0]["name"], listed(view, "tools")[0]["description"]) == ("repeat", "Repeats.")
    assert view.find_tool("repeat").resource.name == "up__echo", "what is decided about keeps its name"
    assert view.find_tool("find").native is not None
    assert view.find_prompt("hello").upstream.name == "greet"
    assert "up__echo" in seen_by(dora).tools


def test_what_the_caller_may_not_use_is_not_in_the_bundle_either(dora: Person, victor: Person, up: Server) -> None:
    bundle_of(dora, BundleItemIn(server_id=up.pk), BundleItemIn(native="search"))

    assert list(seen_by(victor, bundle="desk").tools) == ["search"]
    assert not seen_by(victor, bundle="desk").prompts


def test_a_key_for_some_tools_keeps_to_them_whatever_they_are_called(dora: Person, up: Server) -> None:
    bundle_of(dora, one(named(up, "echo"), alias="repeat"), one(named(up, "drop.table"), alias="up__echo"))
    key = auth.create_key(dora.actor, name="x", scopes=["tool.call:up__echo"])
    actor = auth.actor_from_bearer(key.plain, surface="mcp", audience="")

    gateway.forget_snapshots()
    view = gateway.read_view(actor, bundle="desk")

    assert list(view.tools) == ["repeat"]


def test_all_of_a_server_keeps_its_names_verbatim(dora: Person, up: Server) -> None:
    offer(up, "resource_template", "test://{id}")
    bundle_of(dora, BundleItemIn(server_id=up.pk), names_verbatim=True)

    view = seen_by(dora, bundle="desk")

    assert set(view.tools) == {"drop.table", "echo"}
    assert list(view.prompts) == ["greet"]
    assert listed(view, "tools")[-1] == named(up, "echo").definition
    assert view.find_resource("test://seven").uri == "test://seven"


def test_what_the_server_adds_later_comes_in_and_what_is_withheld_goes(dora: Person, alice: Person, up: Server) -> None:
    bundle_of(dora, BundleItemIn(server_id=up.pk))
    offer(up, "tool", "later")
    Capability.objects.filter(name="echo").update(digest="another")
    assert {"up__later"} < set(seen_by(dora, bundle="desk").tools)
    assert "up__echo" not in seen_by(dora, bundle="desk").tools

    registry.disable_server(alice.actor, server_id=up.pk)

    assert not seen_by(dora, bundle="desk").tools


def test_a_line_of_its_own_goes_before_the_whole_server(dora: Person, up: Server) -> None:
    bundle_of(dora, BundleItemIn(server_id=up.pk), one(named(up, "echo"), alias="repeat"))

    assert "up__echo" not in seen_by(dora, bundle="desk").tools
    assert "repeat" in seen_by(dora, bundle="desk").tools


def test_of_two_things_with_one_name_that_came_later_the_first_is_shown(dora: Person, up: Server) -> None:
    bundle_of(dora, one(named(up, "echo"), alias="up__later"), BundleItemIn(server_id=up.pk))
    offer(up, "tool", "later")

    shown = seen_by(dora, bundle="desk").find_tool("up__later")

    assert shown.upstream is not None and shown.upstream.name == "echo"
    # Whoever only closes the bundle is not kept from it by that.
    assert not gateway.update_bundle(dora.actor, bundle_id=Bundle.objects.get().pk, is_enabled=False).is_enabled


def test_a_bundle_that_is_switched_off_or_of_somebody_else_is_not_there(dora: Person, bob: Person, up: Server) -> None:
    made = bundle_of(dora, BundleItemIn(server_id=up.pk))

    for person, slug in ((bob, "desk"), (dora, "never")):
        with pytest.raises(NotFound):
            seen_by(person, bundle=slug)
    with pytest.raises(NotFound):
        gateway.known_view(dora.actor, bundle="never")
    gateway.update_bundle(dora.actor, bundle_id=made.pk, is_enabled=False)
    with pytest.raises(NotFound):
        seen_by(dora, bundle="desk")


def test_a_bundle_that_is_removed_is_gone_and_its_slug_is_free(dora: Person, up: Server) -> None:
    gateway.delete_bundle(dora.actor, bundle_id=bundle_of(dora, BundleItemIn(server_id=up.pk)).pk)

    with pytest.raises(NotFound):
        seen_by(dora, bundle="desk")
    assert not BundleItem.objects.exists()
    assert bundle_of(dora).slug == "desk"
    assert Entry.objects.filter(action="bundle.deleted").get().details["items"] == ["up"]


# What is refused --------------------------------------------------------------------------------------------------


def test_a_slug_belongs_to_one_bundle_of_the_platform(dora: Person, bob: Person) -> None:
    bundle_of(dora)

    with pytest.raises(Conflict, match="taken"):
        bundle_of(bob)


@pytest.mark.parametrize(
    "slug", ["prompts", "tools", "resources", "v1", "sse", "messages", "Desk", "a b", "a" * 21, ""]
)
def test_a_slug_that_is_no_address_is_refused(dora: Person, slug: str) -> None:
    with pytest.raises(InvalidInput):
        bundle_of(dora, slug=slug)


@pytest.mark.parametrize(("alias", "other"), [("drop", "drop"), ("drop", "DROP"), ("up__Later", ""), ("up__later", "")])
def test_two_things_of_one_name_are_refused(dora: Person, up: Server, alias: str, other: str) -> None:
    offer(up, "tool", "later")
    items = [
        one(named(up, "drop.table"), alias=alias),
        one(named(up, "echo"), alias=other),
        BundleItemIn(server_id=up.pk),
    ]

    with pytest.raises(Conflict, match="would be called"):
        bundle_of(dora, *items)
    assert not Bundle.objects.exists()


def test_an_alias_cannot_pass_for_a_tool_of_another_server(dora: Person, up: Server) -> None:
    for item in (one(named(up, "echo"), alias="bank__pay"), BundleItemIn(native="search", alias="bank__pay")):
        with pytest.raises(InvalidInput, match="underscores"):
            bundle_of(dora, item)


def test_names_are_kept_only_where_all_is_of_one_server(dora: Person, alice: Person, up: Server) -> None:
    other = offer(server_of(alice, "other"), "tool", "echo")
    for second in (one(other), BundleItemIn(native="search")):
        with pytest.raises(InvalidInput, match="one server"):
            bundle_of(dora, one(named(up, "echo")), second, names_verbatim=True)

    made = bundle_of(dora, one(named(up, "echo")), one(other))
    with pytest.raises(InvalidInput, match="one server"):
        gateway.update_bundle(dora.actor, bundle_id=made.pk, names_verbatim=True)
    assert not Bundle.objects.get().names_verbatim


def test_an_item_is_one_thing_that_is_there(dora: Person, bob: Person, up: Server) -> None:
    echo = named(up, "echo")
    bobs = offer(server_of(bob, "up"), "tool", "echo")
    refused: list[tuple[BundleItemIn, type[Exception]]] = [
        (BundleItemIn(), InvalidInput),
        (BundleItemIn(capability_id=echo.pk, server_id=up.pk), InvalidInput),
        (BundleItemIn(server_id=up.pk, alias="all"), InvalidInput),
        (BundleItemIn(native="no_such_tool"), InvalidInput),
        (one(named(up, "test://one"), alias="one"), InvalidInput),
        (one(echo, alias="no spaces"), InvalidInput),
        (one(bobs), NotFound),
        (BundleItemIn(server_id=bobs.server_id), NotFound),
        (BundleItemIn(capability_id=uuid4()), NotFound),
    ]

    for item, error in refused:
        with pytest.raises(error):
            bundle_of(dora, item)
    with pytest.raises(Conflict):
        bundle_of(dora, one(echo), one(echo))
    with pytest.raises(InvalidInput, match="at most"):
        bundle_of(dora, *[one(echo)] * 201)
    assert not Bundle.objects.exists()


def test_a_viewer_looks_and_changes_nothing(dora: Person, victor: Person, up: Server) -> None:
    made = bundle_of(dora, BundleItemIn(server_id=up.pk))
    item = made.items[0]

    assert gateway.get_bundle(victor.actor, bundle_id=made.pk) == made
    assert gateway.list_bundles(victor.actor, filters=BundleFilters(), page=PageQuery()).total == 1
    for attempt in (
        lambda: bundle_of(victor, slug="other"),
        lambda: gateway.update_bundle(victor.actor, bundle_id=made.pk, name="Mine"),
        lambda: gateway.add_item(victor.actor, bundle_id=made.pk, item=BundleItemIn(native="search")),
        lambda: gateway.update_item(victor.actor, bundle_id=made.pk, bundle_item_id=item.pk),
        lambda: gateway.remove_item(victor.actor, bundle_id=made.pk, bundle_item_id=item.pk),
        lambda: gateway.delete_bundle(victor.actor, bundle_id=made.pk),
    ):
        with pytest.raises(NotPermitted):
            attempt()


def test_a_row_of_another_organisation_that_names_this_bundle_changes_nothing(
    dora: Person, bob: Person, up: Server
) -> None:
    made = bundle_of(dora, one(named(up, "echo")))
    BundleItemFactory(bundle=made, organization=bob.organization, capability=named(up, "drop.table"))

    assert [item.takes_in for item in made.items] == ["up__echo"]
    assert list(seen_by(dora, bundle="desk").tools) == ["up__echo"]


# Changing -----------------------------------------------------------------------------------------------------------


def test_items_come_and_go_one_by_one_and_keep_their_ids(dora: Person, up: Server) -> None:
    made = bundle_of(dora, one(named(up, "echo")), one(named(up, "greet")))
    before = {item.takes_in: item.pk for item in made.items}

    gateway.add_item(dora.actor, bundle_id=made.pk, item=BundleItemIn(native="search"))
    gateway.update_item(dora.actor, bundle_id=made.pk, bundle_item_id=before["up__echo"], alias="repeat")
    gateway.remove_item(dora.actor, bundle_id=made.pk, bundle_item_id=before["up__greet"])

    after = {item.takes_in: item for item in gateway.get_bundle(dora.actor, bundle_id=made.pk).items}
    assert list(after) == ["up__echo", "search"]
    assert after["up__echo"].pk == before["up__echo"]
    assert list(seen_by(dora, bundle="desk").tools) == ["repeat", "search"]


def test_a_list_of_items_replaces_all_in_its_order_or_nothing(dora: Person, up: Server) -> None:
    made = bundle_of(dora, one(named(up, "echo")), BundleItemIn(native="search"))
    with pytest.raises(NotFound):
        gateway.set_items(
            dora.actor, bundle_id=made.pk, items=[BundleItemIn(native="fetch"), BundleItemIn(capability_id=uuid4())]
        )
    assert [item.takes_in for item in made.items] == ["up__echo", "search"]

    gateway.set_items(dora.actor, bundle_id=made.pk, items=[BundleItemIn(native="search"), one(named(up, "echo"))])

    assert [item.takes_in for item in made.items] == ["search", "up__echo"]


def test_every_change_is_in_the_journal_with_what_it_changed(dora: Person, up: Server) -> None:
    made = bundle_of(dora, one(named(up, "echo")))
    revision = auth.read_revision(dora.organization.id)

    gateway.update_bundle(dora.actor, bundle_id=made.pk, name="Desk", items=[one(named(up, "echo"), alias="repeat")])
    gateway.update_bundle(dora.actor, bundle_id=made.pk, name="Desk")

    created, updated = Entry.objects.filter(action__startswith="bundle.").order_by("sequence")
    assert (created.action, created.subject, created.details["items"]) == (
        "bundle.created",
        "bundle:desk",
        ["up__echo"],
    )
    assert updated.details["changes"] == {
        "name": {"from": "Help desk", "to": "Desk"},
        "items": {"from": ["up__echo"], "to": ["up__echo as repeat"]},
    }
    assert auth.read_revision(dora.organization.id) == revision + 1


@pytest.mark.django_db(transaction=True)
def test_what_two_people_add_at_the_same_time_is_all_there(dora: Person, alice: Person, up: Server) -> None:
    made = bundle_of(dora)
    names = sorted(gateway.native_tools())
    begin = Barrier(2)

    def add(person: Person, own: list[str]) -> None:
        begin.wait()
        for name in own:
            gateway.add_item(person.actor, bundle_id=made.pk, item=BundleItemIn(native=name))
        connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(add, dora, names[::2]), pool.submit(add, alice, names[1::2])]
    for each in work:
        each.result()

    assert sorted(item.takes_in for item in made.items) == names
    assert sorted(item.position for item in made.items) == list(range(len(names)))


def test_the_slug_never_changes(dora: Person) -> None:
    with pytest.raises(InvalidInput):
        gateway.update_bundle(dora.actor, bundle_id=bundle_of(dora).pk, slug="other")


def test_a_bundle_says_how_programs_are_connected_to_it(dora: Person, settings: Any) -> None:
    settings.MCP_AUDIENCE = "https://gatehouse.example.com/mcp"
    made = bundle_of(dora)

    for client in gateway.CLIENTS:
        said = gateway.connect_bundle(dora.actor, bundle_id=made.pk, client=client)
        assert "https://gatehouse.example.com/mcp/desk" in said.configuration
        assert "desk" in said.configuration.replace("/mcp/desk", "")
        assert gateway.PLACEHOLDER in said.configuration
    with pytest.raises(InvalidInput):
        gateway.connect_bundle(dora.actor, bundle_id=made.pk, client="telnet")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"removed_at": timezone.now()}, "does not offer it"), ({"approved_digest": ""}, "new, and waits"),
        ({"digest": "another"}, "has changed"), ({"is_enabled": False}, "It is disabled"),
        ({"server__approved_at": None}, "server waits"), ({"server__is_enabled": False}, "server is disabled"),
        ({"server__deleted_at": timezone.now()}, "server is removed"),
    ],
)  # fmt: skip
def test_an_item_says_why_agents_do_not_see_it(dora: Person, up: Server, changed: dict[str, Any], why: str) -> None:
    made = bundle_of(dora, one(named(up, "echo")))
    assert (made.items[0].is_usable, made.items[0].unusable_because) == (True, "")

    for field, value in changed.items():
        rows = (
            Server.objects.filter(pk=up.pk) if field.startswith("server__") else Capability.objects.filter(name="echo")
        )
        rows.update(**{field.removeprefix("server__"): value})

    assert why in made.items[0].unusable_because
    assert not made.items[0].is_usable
    assert not seen_by(dora, bundle="desk").tools


def test_several_things_are_taken_in_together_or_not_at_all(dora: Person, up: Server) -> None:
    made = bundle_of(dora)

    with pytest.raises(NotFound):
        gateway.add_items(
            dora.actor, bundle_id=made.pk, items=[one(named(up, "echo")), BundleItemIn(server_id=uuid4())]
        )
    assert not made.items
    gateway.add_items(dora.actor, bundle_id=made.pk, items=[one(named(up, "echo")), BundleItemIn(native="search")])

    assert gateway.count_shown(dora.actor, bundle_id=made.pk) == {"tool": 2}
    gateway.update_bundle(dora.actor, bundle_id=made.pk, is_enabled=False)
    assert gateway.count_shown(dora.actor, bundle_id=made.pk) == {}
