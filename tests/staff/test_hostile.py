"""Text from strangers stays text, and addresses that nobody would type break nothing."""

import re

import pytest
from django.test import Client
from django.urls import reverse

from apps.core.staff import reveal
from apps.registry.models import Capability, Server
from tests.factories.registry import CapabilityFactory, DiscoveryFactory, HealthCheckFactory, ServerFactory
from tests.factories.usage import UsageEventFactory
from tests.staff.rooms import enter, list_url, page_url, pages, rows_of

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
BROKEN_OUT = "\"'><svg onload=alert(3)>{{7*7}}"
HIDDEN = {
    "\u200b": "U+200B",
    "\u202e": "U+202E",
    "\U000e0041": "U+E0041",
    "\x1b": "U+001B",
    "\ufeff": "U+FEFF",
    "\u2066": "U+2066",
}


@pytest.fixture
def poisoned(alice):
    """A server whose every text is an attack."""
    text = SCRIPT + BROKEN_OUT + "".join(HIDDEN)
    server = ServerFactory(
        organization=alice.organization, name=SCRIPT[:90], description=text, instructions=text,
        server_info={"name": text}, protocol_version="2025-11-25", health_message=text[:400], tags=[BROKEN_OUT],
        owner_label=SCRIPT,
    )  # fmt: skip
    definition = {"name": "t", "description": text, "inputSchema": {"title": text, text: text}}
    capability = CapabilityFactory(
        server=server,
        name="t" + SCRIPT,
        public_name="x" + BROKEN_OUT,
        definition=definition,
        warnings=[{"message": text}],
    )
    Capability.objects.filter(pk=capability.pk).update(
        approved_digest="0" * 64, approved_definition={"description": "was " + text}
    )
    HealthCheckFactory(server=server, message=text[:400])
    DiscoveryFactory(
        server=server, error=text[:400], added=[{"kind": "tool", "name": text}], rejected=[{"name": text, "why": text}]
    )
    UsageEventFactory(
        organization=alice.organization,
        name=text[:190],
        actor_label=text[:190],
        status="denied",
        error_code=SCRIPT[:30],
    )
    alice.organization.name = SCRIPT[:90]
    alice.organization.store()
    alice.user.name = SCRIPT[:90]
    alice.user.save()
    return server


def test_no_text_becomes_markup_on_any_page(alice, poisoned):
    client = enter(alice)

    for address in addresses(client, poisoned):
        page = client.get(address).text
        assert "<script>alert" not in page, address
        assert not re.search(r"<(img|svg)[^>]*on\w+=alert", page), address
        assert 'value=""\'><svg' not in page, address


def test_hidden_characters_are_named_where_a_definition_is_read(alice, poisoned):
    capability = Capability.objects.get(server=poisoned)
    client = enter(alice)

    for row in (capability, poisoned):
        page = client.get(page_url(row)).text
        for name in HIDDEN.values():
            assert name in page, (row, name)
        assert not re.search("[\u200b\u202e\ufeff\u2066\U000e0041\x1b]", without_fields(page))


def test_a_revealed_text_says_what_it_hides_and_keeps_all_else():
    assert reveal("plain <b>") == "plain &lt;b&gt;"
    assert reveal("é 漢字 🙂\n") == "é 漢字 🙂\n"
    for character, name in HIDDEN.items():
        assert name in reveal(f"a{character}b")
        assert character not in reveal(f"a{character}b")


def test_no_query_breaks_a_list(alice):
    rows_of(alice.organization)
    client = enter(alice)
    bad = (
        "%00",
        "\ud800".encode("utf-8", "replace").decode(),
        "'",
        "-1",
        "9" * 40,
        "null",
        "1" * 5000,
        "%F0%9F%98%80",
        "[]",
        "../..",
    )

    for model, page in pages():
        names = [
            "q",
            "p",
            "o",
            "e",
            "all",
            "_to_field",
            "_popup",
            "id",
            "pk",
            "state",
            "removed",
            "approval",
            "at_from_0",
            "at_from_1",
            "at_to_0",
        ]
        names += [
            f"{each[0]}__exact" if isinstance(each, tuple) else f"{each}__exact"
            for each in page.list_filter
            if not callable(each)
        ]
        names += [f"{each[0]}__id__exact" for each in page.list_filter if isinstance(each, tuple)]
        for name in names:
            for value in bad[:: 3 if name in ("p", "q") else 4]:
                answer = client.get(f"{list_url(model)}?{name}={value}")
                assert answer.status_code < 500, (model, name, value)


def test_no_id_breaks_a_page(alice):
    client = enter(alice)
    bad = (
        "1",
        "x",
        "%00",
        "'",
        "add%2F..",
        "9" * 80,
        "%F0%9F%98%80",
        "00000000-0000-0000-0000-000000000000",
        "_5F",
        "..%2f",
    )

    for model, _ in pages():
        for key in bad:
            for end in ("change/", "history/", "delete/", "do/approve/", ""):
                assert client.get(f"{list_url(model)}{key}/{end}").status_code < 500, (model, key, end)


@pytest.mark.parametrize(
    "field",
    ["name", "slug", "description", "tags", "owner_label", "url", "timeout_seconds", "max_concurrency", "transport"],
)
@pytest.mark.parametrize(
    "value",
    [
        "\x00",
        "NaN",
        "inf",
        "9" * 400,
        "\ud800\udc00".encode("utf-16", "surrogatepass").decode("utf-16"),
        "\u202e",
        "[]",
        "",
    ],
)
def test_no_value_breaks_the_form(alice, field, value):
    sent = {
        "name": "Weather", "slug": "weather", "transport": "streamable_http", "url": "https://weather.example/mcp",
        "environment": "production", "max_concurrency": "16", "check_interval_seconds": "60",
        "check_timeout_seconds": "10", "check_retries": "1",
    }  # fmt: skip

    assert enter(alice).post(list_url(Server) + "add/", {**sent, field: value}).status_code in (200, 302, 400)


def test_the_search_of_the_menu_takes_anything(alice):
    client = enter(alice)

    for words in ("", "%00", "'", "%", "_", "a" * 5000, "%F0%9F%98%80"):
        for more in ("", "&extended=1", "&page=x", "&page=-1"):
            assert client.get(f"{reverse('admin:search')}?s={words}{more}").status_code in (200, 400)


def test_the_policy_of_the_admin_allows_no_inline_script_and_no_other_host(alice):
    policy = enter(alice).get(reverse("admin:index"))["Content-Security-Policy"]
    scripts = next(part for part in policy.split(";") if "script-src" in part)

    assert "'self'" in scripts and "'unsafe-inline'" not in scripts and "http" not in scripts


def addresses(client: Client, server: Server) -> list[str]:
    """Every list, row, form and overview that shows something of the server's organisation."""
    found = [reverse("admin:index"), reverse("admin:search") + "?s=script&extended=1", list_url(Server) + "add/"]
    for model, page in pages():
        answer = client.get(list_url(model))
        if answer.status_code != 200:
            continue
        rows = list(page.get_queryset(answer.wsgi_request)[:5])
        found += [list_url(model), f"{list_url(model)}?q=%3Cscript%3Ealert(1)%3C/script%3E", *map(page_url, rows)]
        found += [page_url(row).replace("/change/", "/history/") for row in rows]
    return found


def without_fields(page: str) -> str:
    """The page without what stands in its fields, which show a text as it is to those who may change it."""
    return re.sub(r"<textarea.*?</textarea>|<input[^>]*>|<title>.*?</title>", "", page, flags=re.DOTALL)
