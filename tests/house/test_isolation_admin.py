"""Staff of organisation B see no row of A's in the control room (B11)."""

from typing import Any

import pytest
from django.contrib import admin
from django.db.models import ForeignKey, Model
from django.test import Client as Browser
from django.urls import reverse

from apps.auth.models import ApiKey, User
from tests.house.tenants import CANARY, snapshot, tenant_models
from tests.people import Person, make_person
from tests.staff.rooms import enter


def browser_of(person: Person) -> Browser:
    """A browser in which this person has just signed in, so that no page asks for a proof instead of refusing."""
    return enter(person)


def page(name: str, model: type[Model], *arguments: Any) -> str:
    """The address of an admin page of this model."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=arguments)


def shown_in_admin() -> list[type[Model]]:
    """The tenant models that have admin pages."""
    return [model for model in tenant_models() if model in admin.site._registry]


def seen(answer: Any) -> str:
    """The text of a page, also of one that streams."""
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return str(content.decode())


@pytest.mark.parametrize("model", shown_in_admin(), ids=lambda model: model.__name__)
def test_staff_of_a_sees_its_own_in_the_admin(world, model):
    answer = browser_of(world.owner_of_a).get(page("change", model, world.theirs[model].pk))

    assert answer.status_code == 200
    assert CANARY in seen(answer)


@pytest.mark.parametrize("model", shown_in_admin(), ids=lambda model: model.__name__)
def test_staff_of_b_sees_no_row_of_as_in_the_admin(world, model):
    browser, their_id, before = browser_of(world.owner_of_b), world.theirs[model].pk, snapshot(world.a)
    listing = page("changelist", model)
    foreign = [each for each in model._meta.concrete_fields if isinstance(each, ForeignKey)]
    queries = [
        "",
        "?q=canary",
        f"?q={their_id}",
        "?_to_field=organization",
        f"?id__exact={their_id}",
        "?all=",
        "?_popup=1",
    ]
    queries += [
        f"?{each.name}__id__exact={world.theirs[each.related_model].pk}"
        for each in foreign
        if each.related_model in world.theirs
    ]
    addresses = [f"{listing}{query}" for query in queries]
    addresses += [page(name, model, their_id) for name in ("change", "history", "delete")]
    addresses += [
        f"/admin/autocomplete/?app_label={model._meta.app_label}&model_name={model._meta.model_name}&field_name={each.name}&term=c"
        for each in foreign
    ]
    for address in addresses:
        answer = browser.get(address)
        assert answer.status_code < 500, address
        assert CANARY not in seen(answer).replace(f"q={CANARY}", ""), address

    for name in ("change", "delete"):
        assert browser.get(page(name, model, their_id)).status_code != 200
        browser.post(page(name, model, their_id), {"post": "yes", "name": "stolen", "slug": "stolen"})
    for action in actions(model):
        browser.post(listing, {"action": action, "_selected_action": str(their_id), "post": "yes"})
    assert snapshot(world.a) == before


def test_nothing_of_bs_own_shows_anything_of_as_in_the_admin(world):
    browser = browser_of(world.owner_of_b)
    addresses = [page("add", model) for model in admin.site._registry]
    addresses += [page("change", model, row.pk) for model, row in world.ours.items() if model in admin.site._registry]
    answers = {address: browser.get(address) for address in addresses}

    assert [address for address, answer in answers.items() if CANARY in seen(answer)] == []
    assert sum(answer.status_code == 200 for answer in answers.values()) > len(shown_in_admin())


def test_a_platform_admin_is_offered_people_of_the_chosen_organisation_alone_for_a_key(world):
    browser = browser_of(make_person("root", None, ""))
    without = seen(browser.get(page("add", ApiKey)))
    session = browser.session
    session["organization_id"] = str(world.b.pk)
    session.save()

    offered = seen(browser.get(page("add", ApiKey)))

    assert world.owner_of_b.email in offered
    assert world.owner_of_a.email not in offered + without


def actions(model: type[Model]) -> list[str]:
    """The names of everything that the admin can do with chosen rows."""
    found = admin.site._registry[model].actions or []
    return ["delete_selected", *(each if isinstance(each, str) else each.__name__ for each in found)]


def test_the_dashboard_and_the_search_of_b_show_nothing_of_as(world):
    browser = browser_of(world.owner_of_b)

    assert CANARY in seen(browser_of(world.owner_of_a).get("/admin/"))
    for address in ("/admin/", "/admin/search/?s=canary", "/admin/jsi18n/"):
        assert CANARY not in seen(browser.get(address)), address


@pytest.mark.parametrize("role", ["developer", "viewer"])
def test_who_is_not_staff_does_not_come_into_the_admin(world, role):
    user = User.objects.get(email=f"{role}@globex.example")
    browser = Browser()
    browser.force_login(user)

    answer = browser.get("/admin/")

    assert answer.status_code == 302
    assert "/login/" in answer["Location"]
