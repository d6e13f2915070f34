"""Bundles in an export and an import: taken to another installation by names, as a whole or not at all."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import Entry
from apps.gateway import services as gateway
from apps.gateway.models import Bundle
from apps.gateway.schemas import BundleItemIn
from apps.registry import services as registry
from apps.registry.models import Capability, Server
from config.transfer.imports import import_document, rehearse
from config.transfer.items import carry, read_document
from tests.gateway.shelf import offer, seen_by, server_of
from tests.people import Person
from tests.staff.rooms import enter
from tests.staff.test_transfer import ALLOWED, NOTES, confirm, export, lines, preview, text

pytestmark = pytest.mark.django_db
SEARCH = {"server": "notes", "kind": "tool", "name": "search", "alias": "find", "description_override": "Finds notes."}
DESK: dict[str, Any] = {
    "slug": "desk", "name": "Help desk", "description": "For the desk", "instructions": "Be kind.", "is_enabled": True,
    "names_verbatim": False,
    "items": [SEARCH, {"server": "notes", "kind": "resource", "name": "test://one"}, {"native": "search"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _allowed(settings: Any) -> None:
    settings.EGRESS_ALLOW = frozenset({ALLOWED})


@pytest.fixture
def notes(alice: Person) -> Server:
    """A server that is approved and discovered."""
    server = server_of(alice, "notes")
    for kind, name in (("tool", "search"), ("tool", "add"), ("resource", "test://one")):
        offer(server, kind, name)
    return server


def document(*bundles: Any, servers: Any = (), **more: Any) -> dict[str, Any]:
    """A configuration that holds bundles."""
    return {"gatehouse": 1, "servers": list(servers), "bundles": list(bundles), **more}


def bring(person: Person, content: Any) -> Any:
    """Look at what would be done, and do it; the preview."""
    client = enter(person)
    page = preview(client, content)
    confirm(client, page)
    return page


def written(person: Person) -> list[dict[str, Any]]:
    """The bundles as an export has them."""
    found: list[dict[str, Any]] = json.loads(export(person, "json"))["bundles"]
    return found


# There and back


def test_a_bundle_comes_out_as_it_came_in_and_the_same_file_again_changes_nothing(alice: Person, notes: Server) -> None:
    page = bring(alice, document(DESK))

    assert lines(page)["Bundle", "desk"][0] == "Made"
    assert "the tool search of notes as find: Finds notes." in lines(page)["Bundle", "desk"][1]
    view = seen_by(alice, bundle="desk")
    assert (list(view.tools), list(view.resources), view.instructions) == (
        ["find", "search"],
        ["test://one"],
        "Be kind.",
    )
    assert written(alice) == [DESK]

    ids, entries = [item.pk for item in Bundle.objects.get().items], Entry.objects.count()
    again = preview(enter(alice), export(alice, "json"))
    assert lines(again)["Bundle", "desk"] == ("Left as it is", "")
    assert not again.context["plan"].does_something
    assert [item.pk for item in Bundle.objects.get().items] == ids
    assert Entry.objects.filter(action__startswith="bundle.").count() == 1
    assert Entry.objects.count() == entries + 1, "the export, and nothing else"


def test_a_bundle_is_taken_to_another_organisation_by_names_alone(alice: Person, bob: Person, notes: Server) -> None:
    bring(alice, document(DESK))
    file = export(alice, "json")
    assert str(notes.pk) not in file
    gateway.delete_bundle(alice.actor, bundle_id=Bundle.objects.get().pk)
    theirs = server_of(bob, "notes")
    found = offer(theirs, "tool", "search"), offer(theirs, "resource", "test://one")

    bring(bob, file)

    made = Bundle.objects.get()
    assert made.organization_id == bob.organization.pk
    assert [item.capability_id for item in made.items] == [*(each.pk for each in found), None]
    assert list(seen_by(bob, bundle="desk").tools) == ["find", "search"]


def test_a_changed_file_changes_what_differs_and_what_it_leaves_out_stays(alice: Person, notes: Server) -> None:
    bring(alice, document(DESK))
    before = Bundle.objects.get()

    page = bring(alice, document({"slug": "desk", "name": "Desk", "items": [{"server": "notes"}]}))

    outcome, said = lines(page)["Bundle", "desk"]
    assert outcome == "Changed" and "name: Help desk → Desk" in said and "all of notes" in said
    after = Bundle.objects.get()
    assert (after.pk, after.name, after.instructions) == (before.pk, "Desk", "Be kind.")
    assert [str(item) for item in after.items] == ["notes"]
    bring(alice, document({"slug": "desk", "is_enabled": False}))
    assert not Bundle.objects.get().is_enabled
    assert [str(item) for item in Bundle.objects.get().items] == ["notes"]
    assert Entry.objects.filter(action="bundle.updated").count() == 2


def test_bundles_leave_as_a_table_with_a_line_for_each_thing(alice: Person, notes: Server) -> None:
    bring(alice, document(DESK, {"slug": "empty", "name": "=1+1"}))

    rows = list(csv.DictReader(io.StringIO(export(alice, "bundles.csv"), newline="")))

    columns = ("slug", "item_server", "item_name", "item_native", "item_alias")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("empty", "", "", "", ""), ("desk", "notes", "search", "", "find"), ("desk", "notes", "test://one", "", ""),
        ("desk", "", "", "search", ""),
    ]  # fmt: skip
    assert rows[0]["name"] == "'=1+1"


def test_what_cannot_be_named_elsewhere_is_left_out_and_said_to_be_missing(alice: Person, notes: Server) -> None:
    gone = server_of(alice, "gone")
    secret = offer(notes, "resource", "https://x.example/?token=canary-4x4")
    gateway.create_bundle(
        alice.actor, name="Desk", slug="desk",
        items=[
            BundleItemIn(server_id=gone.pk), BundleItemIn(server_id=notes.pk), BundleItemIn(capability_id=secret.pk),
        ],
    )  # fmt: skip
    registry.delete_server(alice.actor, server_id=gone.pk)
    server_of(alice, "gone")  # another one under its name

    [bundle] = written(alice)
    again = preview(enter(alice), export(alice, "json"))
    hand = preview(enter(alice), document({"slug": "x", "items": [
        {"server": "notes", "kind": "resource", "name": "https://x.example/?token=canary-4x4"},
    ]}))  # fmt: skip

    assert bundle["items"] == [{"server": "notes"}]
    assert bundle["missing"] == ["all of gone", "the resource https://x.example/?[redacted] of notes"]
    assert lines(again)["Bundle", "desk"][0] == "Left as it is"
    assert "all of gone" in lines(again)["Bundle", "desk"][1]
    assert "looks like a secret" in lines(hand)["Bundle", "x"][1]
    for page in (again, hand):
        assert "canary" not in page.content.decode()
    assert "canary" not in export(alice, "json") + export(alice, "bundles.csv")


def test_what_is_offered_no_longer_stays_selected_and_is_said_to_wait(alice: Person, notes: Server) -> None:
    bring(alice, document(DESK))
    Capability.objects.filter(name="search").update(removed_at=timezone.now())
    file = export(alice, "json")

    assert lines(preview(enter(alice), file))["Bundle", "desk"][0] == "Left as it is"
    gateway.delete_bundle(alice.actor, bundle_id=Bundle.objects.get().pk)
    page = bring(alice, file)

    assert lines(page)["Bundle", "desk"][0] == "Made"
    assert "before they may be used: the tool search of notes as find" in lines(page)["Bundle", "desk"][1]
    assert list(seen_by(alice, bundle="desk").tools) == ["search"]


# What is not there yet


def test_a_server_and_its_bundle_come_in_one_file_as_far_as_names_are_known(alice: Person) -> None:
    whole = {"slug": "all", "names_verbatim": True, "items": [{"server": "notes"}]}
    file = document(whole, DESK, servers=[NOTES])

    page = bring(alice, file)

    assert lines(page)["Bundle", "all"][0] == "Made"
    assert "before they may be used: all of notes" in lines(page)["Bundle", "all"][1]
    outcome, said = lines(page)["Bundle", "desk"]
    assert outcome == "Refused"
    assert "as a whole or not at all" in said
    assert "notes is new, and has to be discovered" in said and "the tool search, the resource test://one" in said
    assert list(Bundle.objects.values_list("slug", flat=True)) == ["all"]

    notes = Server.objects.get()
    registry.approve_server(alice.actor, server_id=notes.pk)
    for kind, name in (("tool", "search"), ("resource", "test://one")):
        offer(notes, kind, name)
    later = bring(alice, file)

    assert {name: outcome for (_, name), (outcome, _) in lines(later).items()} == {
        "notes": "Left as it is", "all": "Left as it is", "desk": "Made",
    }  # fmt: skip
    assert list(seen_by(alice, bundle="all").tools) == ["search"]
    assert list(seen_by(alice, bundle="desk").tools) == ["find", "search"]


def test_a_bundle_is_never_there_by_halves_and_every_lack_is_named(alice: Person, notes: Server) -> None:
    bring(alice, document(DESK))
    lacking = {**DESK, "items": [
        {"server": "notes", "kind": "tool", "name": "add"}, {"server": "notes", "kind": "prompt", "name": "search"},
        {"server": "maps"}, {"server": "trains", "kind": "tool", "name": "go"}, {"native": "nothing"},
    ]}  # fmt: skip

    page = bring(
        alice, document(lacking, {**lacking, "slug": "other"}, {"slug": "fine", "items": [{"server": "notes"}]})
    )

    for slug in ("desk", "other"):
        outcome, said = lines(page)["Bundle", slug]
        assert outcome == "Refused"
        assert "notes does not offer the prompt search. Discover it, then import this again." in said
        assert "There is no server maps, trains, and this file makes none." in said
        assert "The platform has no tool nothing." in said
    assert lines(page)["Bundle", "fine"][0] == "Made"
    assert sorted(Bundle.objects.values_list("slug", flat=True)) == ["desk", "fine"]
    assert DESK in written(alice)


def test_a_server_that_the_file_could_not_make_is_lacking_too(alice: Person) -> None:
    inside = {"slug": "inside", "url": "http://127.0.0.1:5432/"}

    page = preview(enter(alice), document({"slug": "desk", "items": [{"server": "inside"}]}, servers=[inside]))

    assert lines(page)["Server", "inside"][0] == "Refused"
    assert "There is no server inside" in lines(page)["Bundle", "desk"][1]


# Who may, and hostile files


def test_who_may_not_manage_bundles_brings_none_in(alice: Person, victor: Person, notes: Server) -> None:
    lacking = {"slug": "other", "items": [{"server": "maps"}]}
    file = read_document(json.dumps(document(DESK, lacking)).encode())
    less = replace(alice.actor, grants=alice.actor.grants - {"bundle.write"})

    for actor in (victor.actor, less):
        plan = rehearse(actor, file)
        assert [line.outcome for line in plan.lines] == ["refuse", "refuse"]
        assert all("bundle.write" in line.why and not line.notes for line in plan.lines), (
            "before what is lacking is told"
        )
        import_document(actor, file, digest=plan.digest)
    assert not Bundle.objects.exists()


def test_an_import_takes_no_address_from_another_organisation(alice: Person, bob: Person, notes: Server) -> None:
    theirs = gateway.create_bundle(bob.actor, name="Theirs", slug="desk")

    page = preview(enter(alice), document(DESK))

    assert lines(page)["Bundle", "desk"][0] == "Refused"
    assert "This slug is taken" in lines(page)["Bundle", "desk"][1]
    assert "Theirs" not in page.content.decode()
    assert list(Bundle.objects.values_list("pk", "name")) == [(theirs.pk, "Theirs")]


ONE = {"server": "notes", "kind": "tool", "name": "search"}


@pytest.mark.parametrize(
    ("bundle", "why"),
    [
        (1, "not an object"), (None, "not an object"), ([], "not an object"), ({}, "slug"), ({"slug": ["x"]}, "slug"),
        ({"slug": "UPPER"}, "small letters"), ({"slug": "prompts"}, "reserved"), ({"slug": "a" * 21}, "20 characters"),
        ({"slug": "x", "id": "1"}, "id"), ({"slug": "x", "organization": "globex"}, "organization"),
        ({"slug": "x", "name": "n" * 101}, "100 characters"), ({"slug": "x", "instructions": 5}, "valid string"),
        ({"slug": "x", "names_verbatim": "perhaps"}, "valid boolean"), ({"slug": "x", "items": {}}, "valid list"),
        ({"slug": "x", "items": [7]}, "items.0"), ({"slug": "x", "items": [{}]}, "Name a server"),
        ({"slug": "x", "items": [{"server": "notes", "native": "search"}]}, "Name a server"),
        ({"slug": "x", "items": [{"native": "search", "kind": "tool", "name": "y"}]}, "Name a server"),
        ({"slug": "x", "items": [{"server": "notes", "kind": "tool"}]}, "by its kind and its name"),
        ({"slug": "x", "items": [{"server": "notes", "name": "search"}]}, "by its kind and its name"),
        ({"slug": "x", "items": [{"server": "notes", "kind": "user", "name": "search"}]}, "kind"),
        ({"slug": "x", "items": [{"capability_id": "0198c0de-0000-7000-8000-000000000000"}]}, "capability_id"),
        ({"slug": "x", "items": [ONE, ONE]}, "twice"), ({"slug": "x", "items": [ONE] * 201}, "at most 200"),
        ({"slug": "x", "items": [{"server": "notes", "alias": "all"}]}, "not a whole server"),
        ({"slug": "x", "items": [{**ONE, "alias": "no spaces"}]}, "letters, digits"),
        ({"slug": "x", "items": [{**ONE, "alias": "bank__pay"}]}, "underscores"),
        ({"slug": "x", "items": [{**ONE, "alias": "search"}, {"native": "search"}]}, "has this name"),
        ({"slug": "x", "names_verbatim": True, "items": [ONE, {"native": "search"}]}, "one server"),
        ({"slug": "x", "name": "<script>alert(1)</script>", "description": "d" * 2001}, "2000 characters"),
    ],
)  # fmt: skip
def test_a_bad_bundle_is_refused_with_the_reason_and_leaves_the_others(
    alice: Person, notes: Server, bundle: Any, why: str
) -> None:
    page = bring(alice, document(bundle, {"slug": "fine", "name": "Fine"}))

    found = lines(page)
    [refused] = [said for outcome, said in found.values() if outcome == "Refused"]
    assert why in refused
    assert found["Bundle", "fine"][0] == "Made"
    assert list(Bundle.objects.values_list("slug", flat=True)) == ["fine"]
    assert "<script>alert(1)" not in page.content.decode()


def test_a_bundle_that_stands_twice_is_taken_once(alice: Person, notes: Server) -> None:
    page = bring(alice, document(DESK, {**DESK, "name": "Second"}))

    assert [text(line["outcome"]) for line in page.context["lines"]] == ["Made", "Refused"]
    assert Bundle.objects.get().name == "Help desk"


@pytest.mark.parametrize(
    ("content", "status", "why"),
    [
        ({"gatehouse": 1, "bundles": {}}, 400, "bundles is a list"),
        (
            document(*({"slug": f"b{number}", "items": [{"native": "search"}] * 200} for number in range(30))), 413,
            "6,030",
        ),
    ],
)  # fmt: skip
def test_a_file_of_the_wrong_form_or_size_is_refused_whole(alice: Person, content: Any, status: int, why: str) -> None:
    answer = preview(enter(alice), content)

    assert answer.status_code == status and why in answer.content.decode()


def test_what_a_page_carries_is_held_to_the_same_size(alice: Person) -> None:
    client = enter(alice)
    page = preview(client, document({"slug": "fine"}))
    many = read_document(json.dumps(document(*({"slug": f"b{number}"} for number in range(26)))).encode())
    forged = json.loads(carry(many))
    for each in forged["items"]:
        each["given"]["items"] = [{"native": "search"}] * 200

    answer = client.post(
        reverse("admin:configuration_import"),
        {"document": json.dumps(forged), "digest": page.context["plan"].digest}, follow=True,
    )  # fmt: skip

    assert "Divide it" in answer.content.decode()
    assert not Bundle.objects.exists()


def test_what_is_in_a_bundle_counts_among_the_changes_made_at_once(
    alice: Person, notes: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.transfer.imports.MOST_CHANGES", 5)
    file = document(DESK, {**DESK, "slug": "second"}, {"slug": "third"})

    first, second = bring(alice, file), bring(alice, file)

    assert [text(line["outcome"]) for line in first.context["lines"]] == ["Made", "Refused", "Made"]
    assert "Import the file again" in lines(first)["Bundle", "second"][1]
    assert [text(line["outcome"]) for line in second.context["lines"]] == ["Left as it is", "Made", "Left as it is"]


def test_an_import_does_not_put_together_one_bad_bundle_after_the_other(
    alice: Person, notes: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.transfer.imports.MOST_CHANGES", 4)
    clash = {"items": [{"server": "notes"}, {**ONE, "alias": "notes__add"}]}
    lacking = {"slug": "lacking", "items": [{"server": "maps"}]}

    page = preview(enter(alice), document(lacking, *({**clash, "slug": f"b{number}"} for number in range(3))))

    said = [lines(page)["Bundle", f"b{number}"][1] for number in range(3)]
    assert ["has this name" in each for each in said] == [True, True, False]
    assert "Too many bundles before this one are refused" in said[2]
