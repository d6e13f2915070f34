"""Filters of staff lists, scoped like the lists themselves."""

from typing import Any

from django.contrib.admin import ModelAdmin
from django.db.models import ForeignKey
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RelatedDropdownFilter

CHOICES_AT_MOST = 300


class ScopedFilter(RelatedDropdownFilter):
    """Offers only rows that the person asking may see, as the list of that model does."""

    def field_choices(
        self, field: "ForeignKey[Any, Any]", request: HttpRequest, model_admin: "ModelAdmin[Any]"
    ) -> list[tuple[str, str]]:
        """The rows of the related model, through its own staff page."""
        related = model_admin.admin_site.get_model_admin(field.remote_field.model)
        return [(str(row.pk), str(row)) for row in related.get_queryset(request)[:CHOICES_AT_MOST]]


def choices_filter(field: str) -> tuple[str, type[ChoicesDropdownFilter]]:
    """A dropdown of the choices of a field."""
    return (field, ChoicesDropdownFilter)
