"""Filters of staff lists, scoped like the lists themselves."""

from typing import Any

from django.contrib.admin import FieldListFilter, ModelAdmin
from django.db.models import ForeignKey, QuerySet
from django.http import HttpRequest
from django.utils.timezone import make_aware
from unfold.contrib.filters.admin import (
    ChoicesDropdownFilter,
    FieldTextFilter,
    RangeDateTimeFilter,
    RelatedDropdownFilter,
)
from unfold.utils import parse_datetime_str

CHOICES_AT_MOST = 300


class ScopedFilter(RelatedDropdownFilter):
    """Offers only rows that the person asking may see, as the list of that model does."""

    def field_choices(
        self, field: "ForeignKey[Any, Any]", request: HttpRequest, model_admin: "ModelAdmin[Any]"
    ) -> list[tuple[str, str]]:
        """The rows of the related model, through its own staff page."""
        related = model_admin.admin_site.get_model_admin(field.remote_field.model)
        return [(str(row.pk), str(row)) for row in related.get_queryset(request)[:CHOICES_AT_MOST]]


class MomentFilter(RangeDateTimeFilter):
    """From one moment to another; a day without a time means all of that day."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.title = "time"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows between the two; what cannot be read as a moment limits nothing."""
        for end, lookup, whole_day in (("from", "gte", "00:00:00"), ("to", "lte", "23:59:59")):
            day, hour = (self.used_parameters.get(f"{self.field_path}_{end}_{part}") for part in (0, 1))
            moment = parse_datetime_str(f"{day} {hour or whole_day}") if day else None
            if moment:
                queryset = queryset.filter(**{f"{self.field_path}__{lookup}": make_aware(moment)})
        return queryset


class ExactTextFilter(FieldTextFilter):
    """A text that a field must be, as it is written: an index finds that, and not what is somewhere in a text."""

    def __init__(
        self, field: Any, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any, *, field_path: str
    ) -> None:
        self.lookup_kwarg = field_path
        self.lookup_val = params.get(field_path)
        # Not that of FieldTextFilter, which looks for a part of the text.
        FieldListFilter.__init__(self, field, request, params, model, model_admin, field_path)


def choices_filter(field: str) -> tuple[str, type[ChoicesDropdownFilter]]:
    """A dropdown of the choices of a field."""
    return (field, ChoicesDropdownFilter)
