"""The history of a row: who changed what, when, from what to what; the journal is its only source."""

import re
from dataclasses import replace

import pytest
from django.contrib.admin.models import LogEntry

from apps.audit import services as audit
from apps.audit.models import PLATFORM_CHAIN, Entry
from apps.auth import services as auth
from apps.core.actor import Actor
from apps.registry import services as registry
from tests.factories.auth import MembershipFactory
from tests.factories.registry import CapabilityFactory, ServerFactory
from tests.staff.rooms import enter, page_url, rows_of

ALLOWED = "10.9.8.7:9000"


@pytest.fixture(autouse=True)
def _allowed(settings):
    settings.EGRESS_ALLOW = frozenset({ALLOWED})


def history(person, row, query=""):
    """The history page of a row as this person sees it."""
    return enter(person).get(page_url(row).replace("/change/", "/history/") + query)


def text_of(answer):
    """What a person reads on a page."""
    content = answer.content.decode()
    return re.sub(r"(<[^>]*>|\s)+", " ", content[content.index("What the journal says") :])


def register(person, slug="notes", **more):
    """A server of this person's organisation."""
    return registry.register_server(person.actor, name="Notes", slug=slug, url=f"http://{ALLOWED}/mcp", **more)


def test_a_server_s_history_tells_who_changed_what_from_what_to_what(alice, adam):
    server = register(alice, description="All our notes")
    registry.update_server(adam.actor, server_id=server.pk, description="All your notes", max_concurrency=4)
    registry.disable_server(adam.actor, server_id=server.pk)

    answer = history(alice, server)
    page, shown = answer.content.decode(), text_of(answer)

    assert re.search(r"Disabled by adam@acme.example .* is enabled Before: yes After: no", shown)
    assert re.search(r"Updated by adam@acme.example .* max concurrency Before: 16 After: 4", shown)
    assert re.search(r"Registered by alice@acme.example .* description All our notes", shown)
    assert '<del class="gh-del">our</del>' in page and '<ins class="gh-ins">your</ins>' in page


def test_the_history_of_each_kind_of_configuration_shows_its_change(alice, adam):
    server = register(alice)
    tool = CapabilityFactory(server=server, name="search", public_name="notes__search")
    credential = registry.add_credential(
        alice.actor, server_id=server.pk, kind="header", header="X-Team", secret="canary-9x7"
    )
    key = auth.create_key(alice.actor, name="ci", scopes=["tool.read"]).key
    auth.rotate_key(alice.actor, key_id=key.pk, overlap_seconds=0)
    auth.update_organization(alice.actor, organization_id=alice.organization.pk, name="Acme Ltd")
    member = MembershipFactory(organization=alice.organization, role="viewer")
    auth.change_role(alice.actor, organization_id=alice.organization.pk, membership_id=member.pk, role="developer")
    registry.update_capability(alice.actor, capability_id=tool.pk, alias="find", risk="high", tags=["slow"])
    tool.refresh_from_db()

    assert re.search(r"alias Before: nothing After: find risk Before: medium After: high", text_of(history(adam, tool)))
    assert re.search(r"Added by alice.* Header X-Team", text_of(history(adam, credential)))
    assert "canary-9x7" not in history(adam, credential).content.decode() + history(adam, server).content.decode()
    assert re.search(r"Rotated by alice.* expires at Before: nothing After: 20\d\d", text_of(history(adam, key)))
    assert re.search(r"Created by alice.* scopes tool.read", text_of(history(adam, key)))
    assert re.search(r"name Before: Acme After: Acme Ltd", text_of(history(adam, alice.organization)))
    assert re.search(r"Role changed by alice.* role Before: viewer After: developer", text_of(history(adam, member)))
    assert not audit.verify()


def test_values_of_variables_and_passwords_in_addresses_are_in_no_history(root, alice, settings):
    settings.STDIO_ALLOW = ("mcp-server-time",)
    root_in_acme = replace(root.actor, organization_id=alice.organization.pk)
    server = registry.register_server(
        root_in_acme,
        name="Notes",
        slug="notes",
        transport="stdio",
        command=["mcp-server-time"],
        env={"MODE": "canary-1x1"},
    )
    registry.update_server(root_in_acme, server_id=server.pk, env={"MODE": "canary-2x2", "LANG": "canary-3x3"})

    page = history(alice, server).content.decode()

    assert "canary" not in page
    assert "canary" not in str(list(Entry.objects.values_list("details", flat=True)))
    assert "another value" in page and "LANG" in page


def test_the_history_follows_the_row_and_not_its_name(alice):
    first = auth.create_key(alice.actor, name="ci").key
    second = auth.create_key(alice.actor, name="ci").key
    auth.revoke_key(alice.actor, key_id=first.pk)
    old = register(alice)
    registry.delete_server(alice.actor, server_id=old.pk)
    new = register(alice, description="Another one")

    assert "Revoked by" in text_of(history(alice, first)) and "Revoked by" not in text_of(history(alice, second))
    assert "Deleted by" in text_of(history(alice, old)) and "Deleted by" not in text_of(history(alice, new))


def test_what_was_written_without_an_id_is_found_by_its_name(alice):
    server = ServerFactory(organization=alice.organization, slug="old-one")
    audit.record(alice.actor, "server.updated", "server:old-one", details={"fields": ["url"]})

    assert "Updated by alice" in text_of(history(alice, server))


def test_what_a_platform_admin_changes_stands_in_the_history_of_the_organisation(alice, root):
    assert root.actor.organization_id is None
    auth.update_organization(root.actor, organization_id=alice.organization.pk, plan="premium")
    here = alice.organization.pk
    member = auth.add_member(root.actor, organization_id=here, user_id=MembershipFactory().user_id)

    assert re.search(
        r"Changed by root@.* plan Before: free After: premium", text_of(history(alice, alice.organization))
    )
    assert "Added by root@" in text_of(history(alice, member))
    assert not Entry.objects.filter(chain_id=PLATFORM_CHAIN, action__in=("organization.changed", "member.added"))


def test_nobody_reads_the_history_of_another_organisation(alice, bob):
    server = register(alice)
    assert history(bob, server).status_code == 404

    # Nor does an entry of theirs that names our row appear here.
    stranger: Actor = bob.actor
    audit.record(stranger, "server.updated", f"server:{server.slug}", details={"note": "from elsewhere"})
    assert "from elsewhere" not in text_of(history(alice, server))


def test_long_histories_have_pages(alice):
    server = register(alice)
    for number in range(30):
        registry.update_server(alice.actor, server_id=server.pk, description=f"Version {number}")

    newest, oldest = text_of(history(alice, server)), text_of(history(alice, server, "?p=2"))

    assert "Page 1 of 2" in newest and "Registered by" not in newest
    assert "Registered by" in oldest
    assert history(alice, server, "?p=-7").status_code == history(alice, server, "?p=x").status_code == 200


def test_every_history_opens_and_djangos_own_log_says_nothing(alice):
    client = enter(alice)
    for row in rows_of(alice.organization).values():
        assert client.get(page_url(row).replace("/change/", "/history/")).status_code in (200, 302), row
    client.post(page_url(alice.organization), {"name": "Renamed"})

    assert "Renamed" in text_of(history(alice, alice.organization))
    assert not LogEntry.objects.exists()


def test_hostile_text_in_a_change_is_shown_and_not_run(alice):
    server = register(alice, description="fine <b>one</b>")
    registry.update_server(alice.actor, server_id=server.pk, description="<script>alert(1)</script>\u202eevil")

    page = history(alice, server).content.decode()

    assert "<script>alert" not in page and "<b>one" not in page
    assert "U+202E" in page


def test_long_texts_are_cut_and_still_told_apart(alice):
    server = register(alice)
    tool = CapabilityFactory(server=server)
    registry.update_capability(alice.actor, capability_id=tool.pk, description_override="a" * 3000)
    registry.update_capability(alice.actor, capability_id=tool.pk, description_override="a" * 2999 + "b")

    kept = Entry.objects.filter(action="capability.updated").first().details["changes"]["description_override"]

    assert kept["from"] != kept["to"]
    assert "(3,000 characters, SHA-256" in kept["to"] and len(kept["to"]) < 2000
