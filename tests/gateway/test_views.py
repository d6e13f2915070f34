"""What one caller sees: tools, prompts, resources and templates, and what a name or a URI of theirs leads to."""

import orjson
import pytest

from apps.gateway import services as gateway
from apps.gateway.services import catalogue
from apps.gateway.services.results import under_listed_uris
from apps.gateway.services.templates import UriTemplate
from apps.registry import services as registry
from apps.registry.models import Capability
from tests.gateway.shelf import listed, offer, seen_by, server_of
from tests.people import Person

pytestmark = pytest.mark.django_db


def test_everything_that_a_server_offers_is_seen_by_whoever_may_use_it(dora: Person, alice: Person) -> None:
    server = server_of(alice, "up")
    offer(server, "tool", "echo")
    offer(server, "prompt", "greet", arguments=[{"name": "who", "required": True}])
    offer(server, "resource", "test://one", mimeType="text/plain")
    offer(server, "resource_template", "test://{id}/x")

    view = seen_by(dora)

    assert "up__echo" in view.tools
    assert listed(view, "prompts") == [{"name": "up__greet", "arguments": [{"name": "who", "required": True}]}]
    assert listed(view, "resources") == [{"uri": "test://one", "name": "test://one", "mimeType": "text/plain"}]
    assert listed(view, "templates") == [{"uriTemplate": "test://{id}/x", "name": "test://{id}/x"}]
    assert view.find_prompt("up__greet").upstream.name == "greet"
    assert view.find_resource("test://one").uri == "test://one"
    assert view.find_resource("test://7/x").offer.name == view.find_template("test://{id}/x").name == "test://{id}/x"


def test_what_is_not_approved_is_not_seen(dora: Person, alice: Person) -> None:
    server = server_of(alice, "up")
    for kind, name in (("prompt", "greet"), ("resource", "test://one"), ("resource_template", "test://{id}")):
        offer(server, kind, name)
    Capability.objects.update(approved_digest="")

    view = seen_by(dora)

    assert not view.prompts and not view.resources and not view.templates
    with pytest.raises(gateway.UnknownPrompt):
        view.find_prompt("up__greet")


def test_a_viewer_sees_what_staff_marked_as_low_risk(victor: Person, alice: Person) -> None:
    server = server_of(alice, "up")
    offer(server, "prompt", "greet")
    offer(server, "resource", "test://one")
    harmless = offer(server, "resource", "test://two")
    registry.update_capability(alice.actor, capability_id=harmless.id, risk="low")

    view = seen_by(victor)

    assert not view.prompts
    assert list(view.resources) == ["test://two"]
    with pytest.raises(gateway.UnknownResource):
        view.find_resource("test://one")


def test_an_override_changes_the_description_and_nothing_else(alice: Person) -> None:
    one = offer(server_of(alice, "up"), "resource", "test://one", description="Theirs.", title="One")
    registry.update_capability(alice.actor, capability_id=one.id, description_override="Ours.")

    [shown] = listed(seen_by(alice), "resources")

    assert shown == {"uri": "test://one", "name": "test://one", "description": "Ours.", "title": "One"}


def test_of_two_servers_with_one_uri_the_first_has_it_and_the_other_is_told_apart(alice: Person) -> None:
    for slug in ("beta", "alpha", "7up"):
        server = server_of(alice, slug)
        offer(server, "resource", "file:///a")
        offer(server, "resource_template", "file:///{name}/of")

    view = seen_by(alice)

    found = {uri: view.find_resource(uri) for uri in view.resources}
    assert {uri: (each.offer.server, each.uri) for uri, each in found.items()} == {
        "file:///a": ("7up", "file:///a"),
        "alpha+file:///a": ("alpha", "file:///a"),
        "beta+file:///a": ("beta", "file:///a"),
    }
    assert [each["uri"] for each in listed(view, "resources")] == list(found)
    assert view.find_resource("beta+file:///x/of").uri == "file:///x/of"
    assert view.find_resource("beta+file:///x/of").offer.server == "beta"
    assert view.find_resource("file:///x/of").offer.server == "7up"
    server_id = found["beta+file:///a"].offer.upstream.server_id
    assert view.listed_uri(server_id, "file:///a") == "beta+file:///a"
    assert view.listed_uri(server_id, "file:///x/of") == "beta+file:///x/of"
    assert view.listed_uri(server_id, "file:///unlisted") == "file:///unlisted"
    first = found["file:///a"].offer.upstream.server_id
    assert view.listed_uri(first, "file:///a") == "file:///a" and not view.shares_uris(first)


def test_links_in_a_result_lead_to_the_server_that_gave_it() -> None:
    """Another server's resource of the same URI would be read in the place of the one that was meant."""
    link = {"type": "resource_link", "uri": "file:///a", "name": "a"}
    within = {"type": "resource", "resource": {"uri": "file:///a", "text": "A"}}
    text = {"type": "text", "text": "file:///a"}
    renamed = {"file:///a": "beta+file:///a"}.__getitem__

    told = under_listed_uris({"content": [link, within, text, {"type": "resource"}], "isError": True}, renamed)
    prompt = under_listed_uris({"messages": [{"role": "user", "content": within}]}, renamed)

    assert [block.get("uri") for block in told["content"]] == ["beta+file:///a", None, None, None]
    assert told["content"][1]["resource"] == {"uri": "beta+file:///a", "text": "A"}
    assert told["content"][2:] == [text, {"type": "resource"}] and told["isError"]
    assert prompt["messages"][0]["content"]["resource"]["uri"] == "beta+file:///a"
    assert link["uri"] == within["resource"]["uri"] == "file:///a"


def test_a_slug_that_begins_with_a_digit_gets_a_letter_where_a_scheme_stands(alice: Person) -> None:
    for slug in ("1st", "2nd"):
        offer(server_of(alice, slug), "resource", "file:///a")

    assert list(seen_by(alice).resources) == ["file:///a", "s-2nd+file:///a"]


def test_a_server_cannot_take_anothers_uri_with_its_slug(alice: Person) -> None:
    evil, good = server_of(alice, "aaa"), server_of(alice, "good")
    offer(evil, "resource", "file:///a")
    offer(evil, "resource", "good+file:///a")
    offer(good, "resource", "file:///a")

    view = seen_by(alice)

    assert view.find_resource("good+file:///a").offer.server == "aaa"
    assert view.find_resource("good+good+file:///a").offer.server == "good"
    assert len(view.resources) == 3


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "file:///a/../../etc/passwd", "test://", "",
        "a" * 9000,
    ],
)  # fmt: skip
def test_a_uri_that_nobody_offers_leads_nowhere(alice: Person, uri: str) -> None:
    server = server_of(alice, "up")
    offer(server, "resource", "file:///a")
    offer(server, "resource_template", "test://{id}/data")
    offer(server, "resource_template", "file:///{name}")

    with pytest.raises(gateway.UnknownResource):
        seen_by(alice).find_resource(uri)


def test_no_template_leads_to_a_resource_that_its_reader_may_not_have(alice: Person, victor: Person) -> None:
    server = server_of(alice, "up")
    off = offer(server, "resource", "test://off")
    offer(server, "resource", "test://scoped")
    template = offer(server, "resource_template", "test://{id}")
    registry.update_capability(alice.actor, capability_id=off.id, is_enabled=False)
    registry.update_capability(alice.actor, capability_id=template.id, risk="low")

    assert seen_by(alice).find_resource("test://scoped").uri == "test://scoped"
    for person, withheld in ((alice, "test://off"), (victor, "test://off"), (victor, "test://scoped")):
        assert seen_by(person).find_resource("test://other").offer.name == "test://{id}"
        with pytest.raises(gateway.UnknownResource):
            seen_by(person).find_resource(withheld)


def test_another_organisations_resource_is_unknown(alice: Person, bob: Person) -> None:
    offer(server_of(bob, "up"), "resource", "test://bobs")

    with pytest.raises(gateway.UnknownResource):
        seen_by(alice).find_resource("test://bobs")


def test_the_fingerprint_of_a_list_changes_exactly_with_the_list(alice: Person, victor: Person) -> None:
    server = server_of(alice, "up")
    one = offer(server, "prompt", "greet")
    before = seen_by(alice)
    registry.update_capability(alice.actor, capability_id=one.id, tags=["x"])
    same = seen_by(alice)
    registry.update_capability(alice.actor, capability_id=one.id, description_override="Says hello.")
    after = seen_by(alice)

    assert same.revision > before.revision
    assert same.fingerprint("prompts") == before.fingerprint("prompts") != after.fingerprint("prompts")
    assert after.fingerprint("tools") == before.fingerprint("tools")
    assert seen_by(victor).fingerprint("prompts") != after.fingerprint("prompts")


def test_a_view_is_known_from_memory_once_it_was_read(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "REREAD_SECONDS", 60.0)
    gateway.forget_snapshots()
    assert gateway.known_view(alice.actor) is None

    read = gateway.read_view(alice.actor)

    assert gateway.known_view(alice.actor) is read


def test_lists_of_each_era_and_kind_are_kept_apart(alice: Person) -> None:
    server = server_of(alice, "up")
    offer(server, "tool", "count", outputSchema={"type": "array"})
    view = seen_by(alice)

    for _ in range(2):
        modern, legacy = (
            {tool["name"]: tool for tool in orjson.loads(view.encoded("tools", is_modern=is_modern))}
            for is_modern in (True, False)
        )
        assert modern["up__count"]["outputSchema"] == {"type": "array"}
        assert "outputSchema" not in legacy["up__count"]
        assert view.encoded("prompts", is_modern=True) == view.encoded("prompts", is_modern=False) == b"[]"


# Templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "fits", "does_not"),
    [
        (
            "test://{id}/data",
            ["test://1/data", "test://%C3%BC-x/data"],
            ["test:///data", "test://1/2/data", "test://1/dat"],
        ),
        ("file:///{+path}", ["file:///a/b.txt"], ["file:///", "files:///a"]),
        ("a://{x}{y}", ["a://12"], ["a://1"]),
        ("a://b{?q,r}", ["a://b", "a://b?q=1&r=2"], ["a://b&q=1", "a://c?q=1"]),
        ("a://b{/x}", ["a://b/1"], ["a://b/1/2"]),
        ("a://b{/x*}", ["a://b/1/2"], ["a://bc"]),
        ("a://b{.x}", ["a://b.json"], ["a://b.tar.gz"]),
        ("a://b{#part}", ["a://b#c/d?e"], ["a://bc"]),
        ("a://{x}-{y}-{x}", ["a://1-2-3", "a://--x-y-z"], ["a://1-2"]),
    ],
)
def test_a_template_fits_what_it_can_become(template: str, fits: list[str], does_not: list[str]) -> None:
    read = UriTemplate.read(template)

    assert read is not None
    assert [uri for uri in fits if not read.matches(uri)] == []
    assert [uri for uri in does_not if read.matches(uri)] == []


@pytest.mark.parametrize("text", ["a://b", "a://{", "a://}b{x}", "a://{a b}", "a://{}", "a://{{x}}"])
def test_what_is_no_template_fits_nothing(text: str) -> None:
    assert UriTemplate.read(text) is None


def test_no_template_can_stop_the_process() -> None:
    """Whoever tries one division of the URI after the other would still be at it tomorrow."""
    hostile = UriTemplate.read("a:" + "{+x}{y}" * 130)

    assert hostile is not None
    assert not hostile.matches("a:" + "b" * 1_990 + "/#")
