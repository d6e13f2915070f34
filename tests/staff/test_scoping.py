"""Staff of one organisation find no trace of another's rows, whichever way they ask (B11)."""

import re
import uuid
from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import reverse

from tests.factories import factory_of
from tests.people import make_person
from tests.staff.rooms import enter, list_url, page_url, pages, rows_of

pytestmark = pytest.mark.once

CANARY = "canary"


@pytest.fixture
def theirs(db):
    """One row of everything in another organisation, with the canary in all texts that a person could read."""
    carol = make_person("carol", CANARY, "owner")
    rows = rows_of(carol.organization)
    for model, row in rows.items():
        texts = {
            field.name: f"{CANARY}-{field.name}"[: field.max_length]
            for field in model._meta.get_fields()
            if field.get_internal_type() in ("CharField", "TextField") and not field.choices and not field.unique
        }
        for key in ("digest", "native"):
            texts.pop(key, None)
        if model._meta.label != "audit.Entry":
            model.objects.filter(pk=row.pk).update(**{**texts, "slug": CANARY} if "slug" in texts else texts)
    from apps.usage.models import UsageEvent

    UsageEvent.objects.filter(organization=carol.organization).update(status="denied")
    return {model: model.objects.get(pk=row.pk) for model, row in rows.items()}


@pytest.fixture
def bobs_client(bob):
    """Bob, who owns another organisation that has rows of its own."""
    rows_of(bob.organization)
    return enter(bob)


def test_no_page_shows_anything_of_another_organisation(bobs_client, theirs):
    ids = traces_of(theirs)

    for address in addresses_without_ids(theirs):
        answer = bobs_client.get(address, follow=True)
        assert answer.status_code in (200, 400, 403, 404), address
        assert not found(answer.content, ids), address


def test_a_foreign_row_is_as_missing_as_one_that_never_was(bobs_client, theirs):
    for row in theirs.values():
        for address in addresses_of(row):
            for method in ("get", "post"):
                never = address.replace(str(row.pk), str(uuid.uuid4()))
                assert shape(bobs_client, method, address) == shape(bobs_client, method, never), address


def test_actions_on_foreign_rows_do_nothing(bobs_client, theirs):
    from apps.audit.models import Entry

    before = {model: model.objects.filter(pk=row.pk).values().get() for model, row in theirs.items()}
    entries = Entry.objects.count()

    for model, page in pages():
        row = theirs.get(model)
        if row is None:
            continue
        request = bobs_client.get(list_url(model)).wsgi_request
        for name in page.get_actions(request):
            sent = {"action": name, "_selected_action": str(row.pk), "select_across": "0", "index": "0"}
            answer = bobs_client.post(list_url(model), sent, follow=True)
            assert not found(answer.content, traces_of(theirs)), (model, name)
        for deed in page.deeds(request):
            bobs_client.post(
                f"{page_url(row).removesuffix('change/')}do/{deed.name}/", {"password": "a new long password"}
            )

    assert Entry.objects.count() == entries
    assert before == {model: model.objects.filter(pk=row.pk).values().get() for model, row in theirs.items()}


def test_choices_of_forms_and_filters_are_of_the_own_organisation(bobs_client, bob, theirs):
    from apps.auth.models import ApiKey
    from apps.registry.models import Capability, Credential, Server

    for address in (list_url(Capability), list_url(Credential) + "add/"):
        page = bobs_client.get(address).text
        assert Server.objects.get(organization=bob.organization).name in page
        assert str(theirs[Server].pk) not in page
    assert bob.email in bobs_client.get(list_url(ApiKey) + "add/").text


def test_a_foreign_row_cannot_be_chosen_in_a_form(bobs_client, bob, theirs):
    from apps.auth.models import ApiKey, User
    from apps.registry.models import Credential, Server

    sent = {"server": theirs[Server].pk, "kind": "bearer", "secret": "s3cret-of-bob"}
    refused = bobs_client.post(list_url(Credential) + "add/", sent)
    page = bobs_client.get(list_url(ApiKey) + "add/")
    sent = {"user": theirs[User].pk, "name": "stolen", "once": once_of(page.text)}
    also_refused = bobs_client.post(list_url(ApiKey) + "add/", sent)

    assert refused.status_code == also_refused.status_code == 200
    assert "not one of the available choices" in refused.text
    assert "not one of the available choices" in also_refused.text
    assert not ApiKey.objects.filter(name="stolen").exists()


def test_guessing_hidden_values_by_filters_is_refused(bobs_client, bob):
    from apps.auth.models import ApiKey, User
    from apps.secrets.models import Secret

    for model, lookup in (
        (ApiKey, "digest__startswith"),
        (ApiKey, "user__password__startswith"),
        (User, "password__startswith"),
        (User, "memberships__organization__slug"),
        (Secret, "value__contains"),
    ):
        assert bobs_client.get(list_url(model), {lookup: "a"}).status_code == 400, lookup


def test_the_switcher_takes_only_organisations_that_one_runs(bob, theirs):
    from apps.auth.models import Organization

    client = enter(bob)
    client.post(reverse("admin:switch_organization"), {"organization": str(theirs[Organization].pk)})
    answer = client.get(reverse("admin:index"))

    assert answer.wsgi_request.actor.organization_id == bob.organization.pk
    assert not found(answer.content, traces_of(theirs))


def test_the_switcher_changes_what_every_page_shows(alice, bob):
    from apps.auth.models import Membership
    from apps.registry.models import Server

    Membership(organization=bob.organization, user=alice.user, role="admin").store()
    factory_of(Server)(organization=alice.organization, name="Of Acme")
    factory_of(Server)(organization=bob.organization, name="Of Globex")
    client = enter(alice, alice.organization)

    here = client.get(list_url(Server)).text
    sent = {"organization": str(bob.organization.pk), "next": list_url(Server)}
    answer = client.post(reverse("admin:switch_organization"), sent)
    there = client.get(answer.url).text

    assert answer.url == list_url(Server)
    assert "Of Acme" in here and "Of Globex" not in here
    assert "Of Globex" in there and "Of Acme" not in there


def test_the_switcher_needs_a_post_with_a_token_and_leads_nowhere_else(alice, bob):
    from apps.auth.models import Membership

    Membership(organization=bob.organization, user=alice.user, role="admin").store()
    address, sent = reverse("admin:switch_organization"), {"organization": str(bob.organization.pk)}

    assert enter(alice).get(address).status_code == 405
    assert enter(alice, checks_csrf=True).post(address, sent).status_code == 403
    answer = enter(alice).post(address, {**sent, "next": "https://evil.example/admin/registry/server/"})
    assert answer.url == reverse("admin:index")


def test_a_platform_admin_without_an_organisation_sees_all_and_with_one_only_that(root, bob, theirs):
    from apps.registry.models import Server

    factory_of(Server)(organization=bob.organization, name="Of Globex")
    theirs[Server].name = "Of Canary"
    theirs[Server].save()

    everything = enter(root).get(list_url(Server)).text
    one = enter(root, bob.organization).get(list_url(Server)).text

    assert "Of Canary" in everything and "Of Globex" in everything
    assert "Of Globex" in one and "Of Canary" not in one


def once_of(page: str) -> str:
    """The one-time word of a form for a new key."""
    return re.search(r'name="once" value="([^"]+)"', page)[1]


def traces_of(rows: dict) -> list[bytes]:
    """The canary and the ids of the rows."""
    return [CANARY.encode(), *(str(row.pk).encode() for row in rows.values())]


def found(content: bytes, traces: list[bytes]) -> list[bytes]:
    """Which traces a page shows; what the asker typed into the search box is not one."""
    shown = re.sub(rb'name="q"\s+value="[^"]*"', b"", content.lower())
    return [trace for trace in traces if trace in shown]


def addresses_of(row) -> Iterator[str]:
    """Every address under a row."""
    base = page_url(row).removesuffix("change/")
    yield from (
        f"{base}{end}/" for end in ("change", "history", "delete", "password", "do/approve", "do/remove", "do/revoke")
    )
    yield base


def addresses_without_ids(rows: dict) -> Iterator[str]:
    """Lists, forms, search and pop-ups, asked in every way that might reach further; foreign ids only as parameters."""
    from apps.registry.models import Server

    yield reverse("admin:index")
    for words in ("canary", "server", "a", "canary@"):
        yield f"{reverse('admin:search')}?s={words}"
        yield f"{reverse('admin:search')}?s={words}&extended=1"
    for app in ("registry", "accounts", "audit", "usage", "jobs", "secrets"):
        yield reverse("admin:app_list", args=[app])
    foreign = rows[Server].organization_id
    for model, _ in pages():
        names = {field.name for field in model._meta.get_fields()}
        for query in (
            "",
            "?q=canar",
            "?_popup=1",
            "?_to_field=id",
            "?_to_field=name",
            "?all=",
            "?o=1.2.3",
            "?p=2",
            "?e=1",
            "?_facets=True",
        ):
            yield list_url(model) + query
        yield f"{list_url(model)}?organization__id__exact={foreign}"
        yield f"{list_url(model)}?organization={foreign}"
        yield f"{list_url(model)}?at__year=2026"
        yield f"{list_url(model)}add/"
        yield f"{list_url(model)}add/?_popup=1&_to_field=id"
        if "server" in names:
            yield f"{list_url(model)}add/?server={rows[Server].pk}"
            yield f"{list_url(model)}?server__slug={CANARY}"
        for field in model._meta.get_fields():
            if field.is_relation and getattr(field, "many_to_one", False):
                label = field.model._meta
                query = f"app_label={label.app_label}&model_name={label.model_name}&field_name={field.name}&term=canar"
                yield f"{reverse('admin:autocomplete')}?{query}"


def shape(client: Client, method: str, address: str) -> tuple:
    """What an answer gives away: its status, where it leads, and its words without the id that was asked for."""
    answer = getattr(client, method)(address, follow=True)
    asked = re.search(r"[0-9a-f-]{36}", address)[0]
    words = re.sub(
        r"csrfmiddlewaretoken\" value=\"\w+|[0-9a-f-]{36}|req_\w+|data-csrf=\"\w+", "", answer.text.replace(asked, "")
    )
    words = re.sub(r"<time .*?</time>|\d+\s(second|minute)s? ago|just now|\d\d:\d\d:\d\d[.\d]*", "", words)
    return answer.status_code, str(answer.redirect_chain).replace(asked, ""), words
