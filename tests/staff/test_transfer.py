"""Import and export: seen line by line before anything is done, done by the services, and never with a secret."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from apps.audit.models import Entry
from apps.auth.models import Membership
from apps.gateway import services as gateway
from apps.jobs.models import Job
from apps.registry import services as registry
from apps.registry.models import Capability, Server
from config.transfer.exports import FORMATS, guarded
from config.transfer.items import read_document
from tests.factories.registry import CapabilityFactory
from tests.staff.rooms import enter

ALLOWED = "10.9.8.7:9000"
NOTES = {"name": "Notes", "slug": "notes", "url": f"http://{ALLOWED}/mcp", "description": "All our notes"}


@pytest.fixture(autouse=True)
def _allowed(settings):
    settings.EGRESS_ALLOW = frozenset({ALLOWED})


def document(*servers, members=(), **more):
    """A configuration in our own format."""
    return {"gatehouse": 1, "servers": list(servers), "members": list(members), **more}


def preview(client, content):
    """The page that shows what would come of a file or of pasted text."""
    text = content if isinstance(content, str) else json.dumps(content)
    return client.post(reverse("admin:configuration_preview"), {"text": text})


def confirm(client, page, **changes):
    """What the preview's button does."""
    sent = {name: html_value(page, name) for name in ("document", "digest")}
    return client.post(reverse("admin:configuration_import"), {**sent, **changes})


def html_value(page, name):
    """A hidden field of a page."""
    from html import unescape

    return unescape(re.search(rf'name="{name}" value="([^"]*)"', page.content.decode())[1])


def lines(page):
    """The outcome of each line, and what is said of it."""
    return {(line["kind"], text(line["name"])): (text(line["outcome"]), said(line)) for line in page.context["lines"]}


def said(line):
    """What a line tells besides."""
    fields = [f"{field.field}: {text(field.before)} → {text(field.after)}" for field in line["fields"]]
    return " | ".join([*map(text, line["notes"]), *fields])


def text(html):
    """Words without marks."""
    return re.sub(r"<[^>]*>", "", str(html))


def export(person, kind):
    """A file as it is taken away."""
    return enter(person).post(reverse("admin:configuration_export"), {"format": kind}).content.decode()


def register(person, **fields):
    """A server that is there already."""
    return registry.register_server(person.actor, **{**NOTES, **fields})


# What is shown, and what is done


def test_a_preview_shows_every_line_and_does_nothing(alice):
    there = register(alice)
    CapabilityFactory(server=there, name="search")
    entries, jobs = Entry.objects.count(), Job.objects.count()
    client = enter(alice)

    page = preview(client, document(
        {**NOTES, "description": "Everybody's notes", "max_concurrency": 4,
         "capabilities": [{"kind": "tool", "name": "search", "risk": "high"}, {"kind": "tool", "name": "gone"}]},
        {"name": "Maps", "slug": "maps", "url": f"http://{ALLOWED}/maps"},
        {"name": "Inside", "slug": "inside", "url": "http://127.0.0.1:5432/"},
        {"name": "Program", "slug": "program", "transport": "stdio", "command": ["sh", "-c", "id"]},
        {"name": "Again", "slug": "maps", "url": f"http://{ALLOWED}/other"},
        members=[{"email": alice.email, "role": "owner"}, {"email": "new@acme.example", "role": "viewer"}],
    ))  # fmt: skip
    found = lines(page)

    assert found["Server", "notes"] == (
        "Changed", "description: All our notes → Everybody's notes | max concurrency: 16 → 4".replace("'", "&#x27;")
    )  # fmt: skip
    assert found["Capability", "notes: search"] == ("Changed", "risk: medium → high")
    assert (
        found["Capability", "notes: gone"][0] == "Refused" and "does not offer" in found["Capability", "notes: gone"][1]
    )
    assert "Agents see nothing of it before somebody approves it" in text(page.content.decode())
    assert found["Server", "inside"][0] == "Refused"
    assert "Only a platform admin" in found["Server", "program"][1]
    assert found["Member", alice.email][0] == "Left as it is"
    assert (
        found["Member", "new@acme.example"][0] == "Refused" and "Invite them" in found["Member", "new@acme.example"][1]
    )
    assert [text(line["outcome"]) for line in page.context["lines"] if line["name"] == "maps"] == ["Made", "Refused"]
    there.refresh_from_db()
    assert there.description == "All our notes" and Server.objects.count() == 1
    assert (Entry.objects.count(), Job.objects.count()) == (entries, jobs)


def test_what_was_shown_is_done_and_nothing_is_approved(alice, dora):
    client = enter(alice)
    page = preview(client, document(NOTES, members=[{"email": dora.email, "role": "viewer"}]))

    answer = confirm(client, page)

    assert answer.status_code == 302
    made = Server.objects.get(slug="notes")
    assert (made.organization_id, made.is_approved) == (alice.organization.pk, False)
    assert Job.objects.filter(kind="registry.discover", subject="server:notes").exists()
    assert Membership.objects.filter(user=dora.user, role="viewer").exists()
    actions = list(Entry.objects.values_list("action", flat=True))
    assert {"server.registered", "member.role_changed", "configuration.imported"} <= set(actions)
    assert Entry.objects.get(action="server.registered").actor_label == alice.email


def test_an_import_that_points_a_server_elsewhere_withdraws_its_approval(alice):
    there = register(alice)
    registry.approve_server(alice.actor, server_id=there.pk)
    client = enter(alice)

    page = preview(client, document({**NOTES, "url": f"http://{ALLOWED}/elsewhere"}))
    confirm(client, page)

    assert "Its approval is withdrawn" in lines(page)["Server", "notes"][1]
    there.refresh_from_db()
    assert (there.url, there.is_approved) == (f"http://{ALLOWED}/elsewhere", False)


def test_an_import_cannot_say_that_something_is_approved(alice):
    page = preview(enter(alice), document({**NOTES, "approved_at": "2026-01-01", "is_approved": True}))

    assert lines(page)["Server", "notes"][0] == "Refused"


def test_what_has_changed_since_it_was_shown_is_shown_again_and_not_done(alice):
    there = register(alice)
    client = enter(alice)
    page = preview(client, document({**NOTES, "description": "Theirs"}))
    registry.update_server(alice.actor, server_id=there.pk, description="Ours, meanwhile")

    again = confirm(client, page)

    assert again.status_code == 200
    assert "Ours, meanwhile" in lines(again)["Server", "notes"][1]
    there.refresh_from_db()
    assert there.description == "Ours, meanwhile"
    assert confirm(client, again).status_code == 302
    there.refresh_from_db()
    assert there.description == "Theirs"


def test_a_page_that_was_tampered_with_gives_no_more_rights(alice, settings):
    settings.STDIO_ALLOW = ("sh -c *",)
    client = enter(alice)
    page = preview(client, document(NOTES))
    item = {"kind": "server", "name": "x", "why": "", "server": "",
            "given": {"slug": "x", "transport": "stdio", "command": ["sh", "-c", "id"]}}  # fmt: skip
    forged = json.dumps({"source": "", "items": [item]})

    again = confirm(client, page, document=forged)

    assert "Only a platform admin" in lines(again)["Server", "x"][1]
    assert not Server.objects.exists()
    for broken in ("", "[]", "{", '{"items": [1]}', '{"items": [{"kind": "user", "given": {}}]}', '{"items": "x"}'):
        assert confirm(client, page, document=broken).status_code == 302
    assert not Server.objects.exists()


def test_an_admin_makes_no_owner_by_importing_one(alice, adam):
    page = preview(enter(adam), document(members=[
        {"email": adam.email, "role": "owner"}, {"email": "x@acme.example", "role": "owner"},
    ]))  # fmt: skip

    assert {outcome for outcome, _ in lines(page).values()} == {"Refused"}
    assert "Only an owner" in lines(page)["Member", adam.email][1]


def test_a_platform_admin_brings_programs_in_that_are_allowed(root, alice, settings):
    settings.STDIO_ALLOW = ("mcp-server-time",)
    client = enter(root, alice.organization)

    page = preview(client, {"mcpServers": {
        "Time": {"command": "mcp-server-time", "env": {"TOKEN": "canary-1x1"}}, "shell": {"command": "sh"},
    }})  # fmt: skip
    confirm(client, page)

    assert lines(page)["Server", "shell"][0] == "Refused"
    assert "Not in the file, give it by hand: variable TOKEN" in lines(page)["Server", "time"][1]
    assert "canary-1x1" not in page.content.decode()
    made = Server.objects.get(slug="time")
    assert (made.command, made.env, made.approved_at) == (["mcp-server-time"], {}, None)


def test_without_an_organisation_nothing_is_imported(root):
    answer = preview(enter(root), document(NOTES))

    assert answer.status_code == 422 and "Choose one in the menu" in answer.content.decode()


@pytest.mark.parametrize("name", ["dora", "victor"])
def test_only_staff_get_there(name, request):
    client = enter(request.getfixturevalue(name))

    for address in ("configuration", "configuration_preview", "configuration_import", "configuration_export"):
        answer = (
            client.post(reverse(f"admin:{address}"))
            if address != "configuration"
            else client.get(reverse(f"admin:{address}"))
        )
        assert answer.status_code == 302 and answer.url.startswith(reverse("admin:login"))


def test_a_long_file_is_taken_in_parts(alice, monkeypatch):
    monkeypatch.setattr("config.transfer.imports.MOST_CHANGES", 3)
    client = enter(alice)
    written = document(*({**NOTES, "slug": f"s{number}"} for number in range(5)))

    first = preview(client, written)
    confirm(client, first)
    second = preview(client, written)

    assert [outcome for outcome, _ in lines(first).values()] == ["Made"] * 3 + ["Refused"] * 2
    assert "Import the file again" in lines(first)["Server", "s4"][1]
    assert [outcome for outcome, _ in lines(second).values()] == ["Left as it is"] * 3 + ["Made"] * 2


def test_whoever_has_been_away_proves_first_that_it_is_them(alice, dora):
    client = enter(alice, is_confirmed=False)

    shown = client.get(reverse("admin:configuration"))
    sent = preview(client, document(members=[{"email": dora.email, "role": "owner"}]))

    for answer in (shown, sent):
        assert answer.status_code == 302
        assert answer.url.startswith(reverse("admin:confirm")) and "configuration/" in answer.url
    assert Membership.objects.get(user=dora.user).role == "developer"


# Whose it is


def test_an_import_reaches_no_other_organisation(alice, bob):
    theirs = register(alice)
    client = enter(bob)

    by_id = preview(client, document({**NOTES, "id": str(theirs.pk), "organization_id": str(alice.organization.pk)}))
    same_slug = preview(
        client, document(NOTES, members=[{"email": alice.email, "role": "viewer"}], organization="acme")
    )
    confirm(client, same_slug)

    assert lines(by_id)["Server", "notes"][0] == "Refused"
    assert lines(same_slug)["Server", "notes"][0] == "Made"
    assert "comes from the organisation “acme”" in same_slug.content.decode()
    assert Server.objects.get(slug="notes", organization=bob.organization).pk != theirs.pk
    assert Membership.objects.get(user=alice.user, organization=alice.organization).role == "owner"


def test_an_export_holds_nothing_of_another_organisation(alice, bob):
    register(alice, name="canary-acme", description="canary-acme")

    gateway.create_bundle(alice.actor, name="canary-acme", slug="acme")

    for kind in FORMATS:
        assert "canary-acme" not in export(bob, kind)


# There and back


def test_what_was_exported_comes_in_again_unchanged_and_elsewhere_as_new(alice, bob):
    server = register(alice, tags=["a", "b"], timeout_seconds=3.5, check_retries=2)
    tool = CapabilityFactory(server=server, name="search", public_name="notes__search")
    registry.update_capability(
        alice.actor, capability_id=tool.pk, alias="find", risk="low", required_scopes=["tool.read"]
    )
    registry.disable_server(alice.actor, server_id=server.pk)

    written = export(alice, "json")

    assert {outcome for outcome, _ in lines(preview(enter(alice), written)).values()} == {"Left as it is"}
    client = enter(bob)
    elsewhere = preview(client, written)
    confirm(client, elsewhere)
    copy = Server.objects.get(organization=bob.organization)
    assert (copy.tags, copy.timeout_seconds, copy.check_retries, copy.is_enabled) == (["a", "b"], 3.5, 2, False)
    CapabilityFactory(server=copy, name="search", public_name="notes__search")
    confirm(client, preview(client, written))
    decided = Capability.objects.get(server=copy)
    assert (decided.alias, decided.risk, decided.required_scopes) == ("find", "low", ["tool.read"])
    assert not decided.is_approved


def test_no_export_holds_a_secret_and_each_says_what_is_missing(root, alice, settings):
    from dataclasses import replace

    settings.STDIO_ALLOW = ("mcp-server-time",)
    server = register(alice, url=f"http://{ALLOWED}/mcp?api_key=canary-0x0&page=2")
    registry.add_credential(alice.actor, server_id=server.pk, kind="header", header="X-Team", secret="canary-1x1")
    registry.register_server(
        replace(root.actor, organization_id=alice.organization.pk), name="Time", slug="time", transport="stdio",
        command=["mcp-server-time"], env={"MODE": "canary-2x2"},
    )  # fmt: skip

    written = {kind: export(alice, kind) for kind in ("json", "mcp.json", "csv")}

    for kind, content in written.items():
        assert "canary" not in content, kind
        assert "page=2" in content, kind
        assert "variable MODE" in content and "credential: header X-Team" in content, kind
    again = preview(enter(alice), written["json"])
    assert "looks like a secret" in lines(again)["Server", "notes"][1]  # a masked address is not taken for one
    elsewhere = preview(enter(alice), document(NOTES)).content.decode()
    assert "[redacted]" in elsewhere and "canary" not in elsewhere + again.content.decode()
    assert Entry.objects.filter(action="configuration.exported").count() == 3


def test_a_client_s_configuration_comes_back_as_it_went(alice):
    register(alice)

    written = export(alice, "mcp.json")

    assert json.loads(written) == {"mcpServers": {"notes": {"type": "http", "url": NOTES["url"]}}}
    assert lines(preview(enter(alice), written))["Server", "notes"][0] == "Changed"  # its name is the one of the client


def test_the_example_in_the_documents_is_understood():
    shown = (Path(settings.BASE_DIR) / "docs/operations.md").read_text()
    example = re.search(r"```json\n(\{\"gatehouse.*?)```", shown, re.DOTALL)[1]

    items = read_document(example.encode()).items

    assert [(item.kind, item.name, item.why) for item in items] == [
        ("server", "notes", ""), ("capability", "search", ""), ("bundle", "desk", ""),
        ("member", "dora@example.com", ""),
    ]  # fmt: skip


def test_a_cell_that_would_be_a_formula_is_guarded(alice):
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"]
    for number, name in enumerate(names):
        row = register(alice, slug=f"s{number}")
        Server.objects.filter(pk=row.pk).update(name=name, owner_label="fine")

    rows = list(csv.DictReader(io.StringIO(export(alice, "csv"), newline="")))

    assert {row["name"] for row in rows} == {f"'{name}" for name in names}
    assert {row["owner_label"] for row in rows} == {"fine"}
    assert (guarded(-5), guarded("a=b"), guarded("")) == (-5, "a=b", "")


# What others write


@pytest.mark.parametrize(
    ("entry", "transport", "reach"),
    [
        ({"url": NOTES["url"], "headers": {"Authorization": "Bearer canary-9x9"}}, "streamable_http", ""),
        ({"httpUrl": NOTES["url"], "timeout": 3}, "streamable_http", ""),
        ({"serverUrl": NOTES["url"], "alwaysAllow": ["x"]}, "streamable_http", ""),
        ({"type": "sse", "url": NOTES["url"]}, "sse", ""),
        ({"url": NOTES["url"], "disabled": True}, "streamable_http", ""),
        ({"type": "http", "url": "http://${HOST}/mcp"}, "", "placeholder"),
        ({"type": "http", "url": f"{NOTES['url']}?token=canary-9x9"}, "", "secret"),
        ({"command": "x", "args": ["--api-key", "canary-9x9"]}, "", "secret"),
        ({"type": "carrier-pigeon", "url": NOTES["url"]}, "", "transport"),
        ("canary-9x9", "", ""),
        ({"command": {"a": 1}}, "", "command"),
    ],
)  # fmt: skip
def test_the_configuration_of_a_client_is_understood_without_its_secrets(alice, entry, transport, reach):
    client = enter(alice)
    page = preview(client, {"servers" if "disabled" in entry else "mcpServers": {"My Notes!": entry}, "inputs": []})
    outcome, why = next(iter(lines(page).values()))

    assert "canary" not in page.content.decode()
    assert outcome == ("Made" if transport else "Refused")
    assert reach in why
    if transport:
        confirm(client, page)
        made = Server.objects.get()
        assert (made.slug, made.name, made.transport) == ("my-notes", "My Notes!", transport)
        assert made.is_enabled is not (isinstance(entry, dict) and entry.get("disabled", False))


# Hostile files


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Choose a file, or paste"),
        ("{", "not valid JSON"),
        ('{"gatehouse": NaN}', "NaN is not JSON"),
        ('{"gatehouse": 1, "gatehouse": 1}', "twice"),
        ('{"gatehouse": 2}', "version 2"),
        ('{"gatehouse": true}', "version"),
        ('{"gatehouse": 1, "users": []}', "no part called users"),
        ('{"gatehouse": 1, "servers": {}}', "is a list"),
        ('{"gatehouse": 1, "servers": ' + "[" * 100 + "]" * 100 + "}", "nested more than"),
        ('{"gatehouse": 1, "servers": [' + ",".join(['{"slug": "x"}'] * 10_000) + "]}", "10,000 items"),
        ('{"gatehouse": 1, "servers": [' + ",".join(["1"] * 60_000) + "]}", "more than 50000 values"),
        ('{"gatehouse": 1, "x": "\\u0000"}', "NUL"),
        ("[]", "neither"),
        ('{"mcpServers": []}', "neither"),
        ('{"gatehouse": 1, "servers": [' + '"' + "x" * 1_100_000 + '"]}', "at most"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(alice, content, why):
    answer = preview(enter(alice), content)

    assert answer.status_code in (400, 413, 422)
    assert why in text(answer.content.decode()).replace("&quot;", '"')


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b"\x89PNG\r\n", b"PK\x03\x04", b"\xed\xa0\x80"])
def test_a_file_of_another_kind_is_refused(alice, content):
    upload = SimpleUploadedFile("x.json", content)

    assert enter(alice).post(reverse("admin:configuration_preview"), {"file": upload}).status_code == 400


def test_a_file_with_a_byte_order_mark_is_read(alice):
    upload = SimpleUploadedFile("x.json", b"\xef\xbb\xbf" + json.dumps(document(NOTES)).encode())

    page = enter(alice).post(reverse("admin:configuration_preview"), {"file": upload})

    assert lines(page)["Server", "notes"][0] == "Made"


@pytest.mark.parametrize(
    "server",
    [
        1, None, "x", [], {}, {"slug": ["x"]}, {**NOTES, "slug": "UPPER"}, {**NOTES, "slug": "prompts"},
        {**NOTES, "timeout_seconds": 1e300}, {**NOTES, "tags": "x"}, {**NOTES, "max_concurrency": True, "x": 1},
        {**NOTES, "url": "javascript:alert(1)"}, {**NOTES, "name": "<script>alert(1)</script>" * 9},
        {**NOTES, "env": {"A": "canary-3x3"}}, {**NOTES, "capabilities": "x"}, {**NOTES, "command": ["x"]},
    ],
)  # fmt: skip
def test_one_bad_line_is_refused_and_leaves_the_others(alice, server):
    page = preview(enter(alice), document(server, {**NOTES, "slug": "fine"}))

    assert page.status_code == 200
    assert "Refused" in [outcome for outcome, _ in lines(page).values()]
    assert lines(page)["Server", "fine"][0] == "Made"
    assert "canary" not in page.content.decode() and "<script>alert(1)" not in page.content.decode()
