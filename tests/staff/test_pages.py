"""Every page opens for those who run the organisation, and for nobody else."""

import re

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from tests.staff.rooms import deed_url, enter, list_url, make_schedule, page_url, pages, rows_of

PLATFORM_ONLY = {"accounts.LoginFailure"}


def is_for_platform_admins(model: type) -> bool:
    """Whether only platform admins see the rows of this model."""
    return model._meta.app_label == "django_celery_beat" or model._meta.label in PLATFORM_ONLY


@pytest.mark.parametrize("name", ["alice", "adam"])
def test_every_list_and_every_row_opens_for_those_who_run_the_organisation(name, request):
    person = request.getfixturevalue(name)
    rows = rows_of(person.organization)
    client = enter(person)

    assert client.get(reverse("admin:index")).status_code == 200
    for model, _ in pages():
        expected = 403 if is_for_platform_admins(model) else 200
        assert client.get(list_url(model)).status_code == expected, model
    for row in rows.values():
        assert client.get(page_url(row)).status_code == 200, row


@pytest.mark.parametrize("has_chosen", [False, True])
def test_every_list_and_every_row_opens_for_a_platform_admin(alice, root, has_chosen):
    rows = rows_of(alice.organization)
    schedule = make_schedule()
    client = enter(root, alice.organization if has_chosen else None)

    assert client.get(reverse("admin:index")).status_code == 200
    for model, _ in pages():
        assert client.get(list_url(model)).status_code == 200, model
    for row in [*rows.values(), schedule, schedule.interval]:
        assert client.get(page_url(row)).status_code == 200, row


@pytest.mark.parametrize("name", ["alice", "root"])
def test_every_page_for_adding_opens_or_is_refused_but_never_breaks(alice, name, request):
    client = enter(request.getfixturevalue(name), alice.organization)

    for model, page in pages():
        answer = client.get(list_url(model) + "add/")
        assert answer.status_code in (200, 403), model
        assert (answer.status_code == 200) == page.has_add_permission(answer.wsgi_request), model


@pytest.mark.parametrize("name", ["dora", "victor"])
def test_no_page_opens_for_members_who_do_not_run_the_organisation(alice, name, request):
    person = request.getfixturevalue(name)
    rows = rows_of(alice.organization)
    client = enter(person)

    for address in every_address(rows):
        assert is_refused(client, address), address


def test_no_page_opens_for_somebody_who_is_not_signed_in(alice):
    client = Client()

    for address in every_address(rows_of(alice.organization)):
        assert is_refused(client, address), address


def test_running_one_organisation_opens_no_other_in_which_one_only_looks_on(alice, bob):
    from apps.auth.models import Membership

    Membership(organization=bob.organization, user=alice.user, role="viewer").store()

    client = enter(alice, bob.organization)
    answer = client.get(reverse("admin:index"))

    assert answer.wsgi_request.actor.organization_id == alice.organization.pk


def test_nobody_deletes_through_djangos_own_pages(alice):
    rows = rows_of(alice.organization)
    client = enter(alice)

    for row in rows.values():
        address = page_url(row).replace("/change/", "/delete/")
        assert client.post(address, {"post": "yes"}).status_code == 403
        assert type(row).objects.filter(pk=row.pk).exists()


def test_what_has_happened_cannot_be_changed(alice):
    rows = rows_of(alice.organization)
    client = enter(alice)
    read_only = {
        "audit.Entry",
        "usage.UsageEvent",
        "registry.HealthCheck",
        "registry.Discovery",
        "jobs.Job",
        "secrets.Secret",
    }

    for model, row in rows.items():
        if model._meta.label in read_only:
            assert client.post(page_url(row), {"name": "x", "action": "x"}).status_code == 403, model
            assert not re.search(
                r'<(input|select|textarea)[^>]*name="(?!csrf|s"|organization|next)', client.get(page_url(row)).text
            ), model
            assert client.get(list_url(model) + "add/").status_code == 403, model


def test_djangos_groups_have_no_page():
    assert not [model for model in admin.site._registry if model._meta.label == "auth.Group"]


def test_an_empty_list_says_what_to_do_next(alice):
    client = enter(alice)

    for model, page in pages():
        if (
            page.empty_text
            and not is_for_platform_admins(model)
            and not page.get_queryset(client.get(list_url(model)).wsgi_request).exists()
        ):
            assert page.empty_title in client.get(list_url(model)).text, model
    assert "Add server" in client.get(list_url(next(m for m, _ in pages() if m._meta.label == "registry.Server"))).text


def test_the_first_steps_are_shown_until_there_is_a_server(alice):
    client = enter(alice)
    before = client.get(reverse("admin:index")).text

    rows_of(alice.organization)

    assert "Welcome to Gatehouse" in before
    assert "Welcome to Gatehouse" not in client.get(reverse("admin:index")).text


def every_address(rows: dict) -> list[str]:
    """Overview, lists, rows, a deed, the switcher, the search and the password page."""
    server = next(row for row in rows.values() if row._meta.label == "registry.Server")
    return [
        reverse("admin:index"),
        reverse("admin:search") + "?s=a&extended=1",
        reverse("admin:password_change"),
        reverse("admin:autocomplete"),
        *(list_url(model) for model, _ in pages()),
        *(list_url(model) + "add/" for model, _ in pages()),
        *(page_url(row) for row in rows.values()),
        *(page_url(row).replace("/change/", "/history/") for row in rows.values()),
        deed_url(server, "approve"),
    ]


def is_refused(client: Client, address: str) -> bool:
    """Whether this only leads to the sign-in page."""
    answer = client.get(address)
    return answer.status_code == 302 and answer.url.startswith(reverse("admin:login"))


def test_a_day_without_a_time_is_all_of_that_day(alice):
    from datetime import timedelta

    from django.utils import timezone

    from apps.usage.models import UsageEvent
    from tests.factories.usage import UsageEventFactory

    today = UsageEventFactory(organization=alice.organization, name="of_today")
    UsageEventFactory(organization=alice.organization, name="of_long_ago", at=timezone.now() - timedelta(days=9))
    day = f"{today.at:%Y-%m-%d}"

    page = enter(alice).get(list_url(UsageEvent), {"at_from_0": day, "at_to_0": day}).text

    assert "of_today" in page and "of_long_ago" not in page


def test_every_choice_of_every_filter_gives_a_list(alice, root):
    rows_of(alice.organization)
    client = enter(root)

    for model, _ in pages():
        asked = client.get(list_url(model))
        for each in asked.context_data["cl"].filter_specs:
            for query in queries_of(each, asked.context_data["cl"]):
                assert client.get(f"{list_url(model)}?{query}").status_code == 200, (model, query)


def queries_of(spec, changelist):
    """What a filter adds to the address, for each of its choices."""
    if getattr(spec, "parameter_name", None) and hasattr(spec, "lookup_choices"):
        return [f"{spec.parameter_name}={value}" for value, _ in spec.lookup_choices]
    if hasattr(spec, "lookup_choices"):
        return [f"{spec.lookup_kwarg}={value}" for value, _ in spec.lookup_choices]
    if getattr(spec.field, "flatchoices", None):
        return [f"{spec.lookup_kwarg}={value}" for value, _ in spec.field.flatchoices]
    if spec.field.get_internal_type() == "DateTimeField":
        return [f"{spec.field_path}_from_0=2026-01-01&{spec.field_path}_to_0=2027-01-01"]
    if spec.field.get_internal_type() == "BooleanField":
        return [f"{spec.field_path}__exact=1"]
    return [f"{spec.lookup_kwarg}=a"]


def test_filters_by_state_show_what_they_say(alice):
    from apps.registry.models import Capability, Server
    from tests.factories.registry import CapabilityFactory, ServerFactory

    waiting = ServerFactory(organization=alice.organization, name="Waits here")
    ServerFactory(organization=alice.organization, name="Was approved", approved_at=waiting.created_at)
    gone = ServerFactory(organization=alice.organization, name="Was removed", deleted_at=waiting.created_at)
    CapabilityFactory(server=waiting, name="new_one")
    CapabilityFactory(server=waiting, name="gone_one", removed_at=waiting.created_at)
    client = enter(alice)

    everything = client.get(list_url(Server)).text
    assert "Waits here" in everything and "Was approved" in everything and gone.name not in everything
    assert "Was approved" not in client.get(list_url(Server), {"approval": "waiting"}).text
    assert "Was removed" in client.get(list_url(Server), {"removed": "yes"}).text
    assert "gone_one" not in client.get(list_url(Capability)).text
    assert "gone_one" in client.get(list_url(Capability), {"state": "removed"}).text
    assert "new_one" in client.get(list_url(Capability), {"state": "waiting"}).text


@pytest.mark.parametrize(
    ("name", "offered"), [("alice", {"streamable_http", "sse"}), ("root", {"streamable_http", "sse", "stdio"})]
)
def test_whoever_adds_a_server_is_offered_the_transports_that_they_may_register(alice, name, offered, request):
    client = enter(request.getfixturevalue(name), alice.organization)

    page = client.get(reverse("admin:registry_server_add")).content.decode()

    assert set(re.findall(r'<option value="(\w+)"[^>]*>(?:Streamable HTTP|HTTP\+SSE|stdio)', page)) == offered
