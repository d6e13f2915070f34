"""What the tests of the control room share: signing in, its pages, and rows for all of them."""

import time
from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from apps.auth.models import Organization, User
from apps.jobs import services as jobs
from apps.registry.models import Server
from config.entrance import CONFIRMED_AT
from tests.factories import factory_of
from tests.factories.auth import MembershipFactory
from tests.factories.registry import ServerFactory
from tests.people import Person


def enter(person: Person, organization: Any = None, *, checks_csrf: bool = False, is_confirmed: bool = True) -> Client:
    """A browser in which this person has just signed in, in an organisation of their choice."""
    client = Client(enforce_csrf_checks=checks_csrf)
    client.force_login(person.user)
    session = client.session
    if is_confirmed:
        session[CONFIRMED_AT] = time.time()
    if organization is not None:
        session["organization_id"] = str(organization.pk)
    session.save()
    return client


def pages() -> Iterator[tuple[type[Model], Any]]:
    """Every model with a staff page, and the page."""
    yield from admin.site._registry.items()


def list_url(model: type[Model]) -> str:
    """Where a model is listed."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def page_url(row: Model) -> str:
    """Where a row is shown."""
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def deed_url(row: Model, name: str) -> str:
    """Where a deed is done to a row."""
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_deed", args=[row.pk, name])


def rows_of(organization: Any) -> dict[type[Model], Model]:
    """One row of every model of ours that has a staff page, in this organisation where it can have one."""
    rows: dict[type[Model], Model] = {Server: ServerFactory(organization=organization)}
    for model, _ in pages():
        make = factory_of(model)
        if model in rows or make is None:
            continue
        rows[model] = _make(make, model, organization, rows[Server])
    return rows


def _make(make: Any, model: type[Model], organization: Any, server: Any) -> Any:
    if model is Organization:
        return organization
    if model is User:
        return MembershipFactory(organization=organization).user
    names = {field.name for field in model._meta.concrete_fields if field.is_relation and not field.null}
    if "server" in names:
        return make(server=server)
    return make(organization=organization, **({"capability__server": server} if "bundle" in names else {}))


def make_schedule() -> Any:
    """A schedule of the platform."""
    return jobs.ensure_schedule("Put lost jobs back", "jobs.requeue", 15)
