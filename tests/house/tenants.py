"""What belongs to organisations: every model, a row of each, and a word that gives it away anywhere."""

import re
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Model

from apps.auth.models import Organization, User
from apps.core.models import TenantRecord
from tests.factories import factory_of

CANARY = "canary-a"
"""Stands in every text of organisation A, and nowhere else. It is a slug, a header's name and a word."""

# Texts that the platform reads as its own words, or that are derived from others: a canary there would break the row.
_NOT_FREE = re.compile(
    r"digest|lookup|value|password|kind|surface|request_id|store_name|protocol_version|state|address|endpoint|method"
    r"|required_scopes|alias|native|env$"
)


def tenant_models() -> list[type[Model]]:
    """Every model whose rows belong to organisations."""
    return [
        model for model in apps.get_models() if issubclass(model, TenantRecord) or hasattr(model.objects, "for_org")
    ]


def parameters() -> dict[str, type[Model]]:
    """What a path parameter may be called, and the model whose id it is."""
    return {f"{snake(model.__name__)}_id": model for model in [*tenant_models(), Organization, User]}


def snake(name: str) -> str:
    """`ApiKey` as `api_key`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def belongs_to(model: type[Model]) -> str:
    """The field that says which organisation owns a row."""
    names = {field.attname for field in model._meta.concrete_fields}
    return "organization_id" if "organization_id" in names else "chain_id"


def make_row(
    model: type[Model], organization: Organization, rows: dict[type[Model], Model] | None = None, **given: Any
) -> Model:
    """One row of the organisation, by the model's factory; it belongs to the rows that are there already."""
    factory = factory_of(model)
    parents = {field.name: field.related_model for field in model._meta.concrete_fields if field.is_relation}
    given = {**{name: (rows or {})[parent] for name, parent in parents.items() if parent in (rows or {})}, **given}
    assert factory is not None, f"{model.__name__} belongs to an organisation and has no factory in tests/factories"
    row: Model = factory(organization=organization, **given)
    return row


def plant(row: Model) -> None:
    """Write the canary into every free text of the row, past the services."""
    changes = {}
    for field in row._meta.concrete_fields:
        value = _planted(field, row)
        if value is not None:
            changes[field.attname] = value
    type(row)._base_manager.filter(pk=row.pk).update(**changes)
    row.refresh_from_db()


def _planted(field: Any, row: Model) -> Any:
    if field.choices or field.is_relation or field.primary_key or _NOT_FREE.search(field.name):
        return None
    value = getattr(row, field.attname)
    if isinstance(field, models.JSONField):
        return _planted_json(field.name, value)
    if not isinstance(field, models.CharField | models.TextField):
        return None
    if CANARY in str(value):
        return None
    try:
        field.clean(CANARY, row)
    except ValidationError:
        return None
    return CANARY


def _planted_json(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "description": CANARY}
    if name in ("tags", "scopes") or (isinstance(value, list) and value and isinstance(value[0], str)):
        return [*value, CANARY]
    return None


def snapshot(organization: Organization) -> dict[str, list[dict[str, Any]]]:
    """Every row of the organisation, as the database has it."""
    return {
        model.__name__: list(model._base_manager.filter(**{belongs_to(model): organization.pk}).order_by("pk").values())
        for model in tenant_models()
    }
