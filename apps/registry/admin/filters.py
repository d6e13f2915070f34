"""By what staff narrow the list of servers down."""

from typing import Any

from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter


class ApprovalFilter(DropdownFilter):  # type: ignore[misc]
    """Approved, or waiting."""

    title = "approval"
    parameter_name = "approval"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices."""
        return [("waiting", "Waiting for approval"), ("approved", "Approved")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """The rows of the choice."""
        if self.value() == "waiting":
            return queryset.filter(approved_at=None)
        return queryset.exclude(approved_at=None) if self.value() == "approved" else queryset


class RemovedFilter(DropdownFilter):  # type: ignore[misc]
    """Servers that are there, unless the removed ones are asked for."""

    title = "removal"
    parameter_name = "removed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choice besides the usual one."""
        return [("yes", "Removed servers")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """The rows of the choice."""
        return queryset.exclude(deleted_at=None) if self.value() == "yes" else queryset.present()
