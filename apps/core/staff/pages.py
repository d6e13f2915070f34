"""What every staff page has: rights that are our permissions, its words, and the journal as its history."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

from django.contrib.admin import ShowFacets
from django.contrib.admin.utils import unquote
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.core.exceptions import FieldDoesNotExist, PermissionDenied
from django.db.models import Model, QuerySet, TextField
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin as UnfoldAdmin
from unfold.views import ChangeList

from apps.core.actor import Actor

TEXT_ROWS = 3


def actor_of(request: HttpRequest) -> Actor:
    """Who asks; raises PermissionDenied where that is nobody."""
    actor = getattr(request, "actor", None)
    if actor is None:
        raise PermissionDenied
    return cast(Actor, actor)


class StaffList(ChangeList):
    """A list that never counts all rows of a table only to say how many were left out."""

    def get_results(self, request: HttpRequest) -> None:
        """The page, and the count of its paginator."""
        super().get_results(request)
        self.full_result_count = self.result_count


class StaffPage(UnfoldAdmin):
    """A staff page whose rights are our permissions. Nothing may be done until a subclass names who may do it."""

    view_permission: ClassVar[str] = ""
    add_permission: ClassVar[str] = ""
    change_permission: ClassVar[str] = ""
    is_for_platform_admins: ClassVar[bool] = False

    confirms_add: ClassVar[bool] = False
    """Whether whoever opens the form for a new row must prove first that it is them; the service asks for the same."""

    empty_title: ClassVar[str] = "Nothing here yet"
    empty_text: ClassVar[str] = ""
    intro: ClassVar[str] = ""
    has_history: ClassVar[bool] = True
    panels_first: ClassVar[bool] = False

    actions: Any = ()
    show_facets = ShowFacets.NEVER
    list_per_page = 25
    list_max_show_all = 25
    list_filter_submit = True
    list_disable_select_all = True
    show_full_result_count = False
    compressed_fields = True
    warn_unsaved_form = True
    save_as = False
    change_form_template: str | None = "staff/change_form.html"
    change_list_template: str | None = "staff/change_list.html"

    # Rights

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Whether who asks has the permission; never where none is named."""
        actor = getattr(request, "actor", None)
        if not permission or actor is None or (self.is_for_platform_admins and not actor.is_platform_admin):
            return False
        return bool(actor.can(permission))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Whether the page is in the menu."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """By `view_permission`."""
        return self.may(request, self.view_permission)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """By `add_permission`."""
        return self.may(request, self.add_permission)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """By `change_permission`."""
        return self.may(request, self.change_permission)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never: what can be removed has a deed for it."""
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Of the fields, only those that the page has a filter for: `?digest__startswith=` would be a way to guess."""
        name = lookup.partition("__")[0]
        offered = {item[0] if isinstance(item, tuple) else item for item in self.list_filter if not callable(item)}
        is_hidden = self._is_field(name) and name not in {str(item).partition("__")[0] for item in offered}
        return not is_hidden and bool(super().lookup_allowed(lookup, value, request))

    def _is_field(self, name: str) -> bool:
        try:
            return name == "pk" or bool(self.opts.get_field(name))
        except FieldDoesNotExist:
            return False

    # The journal tells what happened to a row, so Django's own log is not kept.

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Nothing: the service has written the journal."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Nothing: the service has written the journal."""

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Nothing: the service has written the journal."""

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What the journal says about this row."""
        row = self.row_or_404(request, object_id)
        journal_of: Callable[..., Any] = getattr(self.admin_site, "journal_of", lambda *_: {})
        context = self.page_context(request, row, title=f"History of {row}", **journal_of(request, row))
        return TemplateResponse(request, "staff/history.html", context)

    def page_context(self, request: HttpRequest, row: Model | None, **more: Any) -> dict[str, Any]:
        """What every page of ours about one row needs."""
        request.current_app = self.admin_site.name
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": row,
            "object": row,
            "media": self.media,
            "list_url": reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"),
            "row_url": self.url_of(row) if row is not None else "",
            **more,
        }

    def url_of(self, row: Model) -> str:
        """The address of a row's page."""
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[row.pk])

    def row_or_404(self, request: HttpRequest, object_id: str) -> Any:
        """The row, if who asks may see it; one of another organisation is as missing as one that never was."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        return row

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[StaffList]:
        """The list, which counts no more than its paginator."""
        return StaffList

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any) -> Any:
        """Two ways to save are enough."""
        context["show_save_and_add_another"] = False
        return super().render_change_form(request, context, *args, **options)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Long texts begin with three lines; related rows are made on their own pages, not in pop-ups."""
        field = super().formfield_for_dbfield(db_field, request, **options)
        if isinstance(db_field, TextField) and field is not None:
            field.widget.attrs["rows"] = TEXT_ROWS
        if isinstance(getattr(field, "widget", None), RelatedFieldWidgetWrapper):
            field = _without_pop_ups(field)
        return field

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, with the words for when it is empty."""
        words = {"empty_title": self.empty_title, "empty_text": self.empty_text, "intro": self.intro}
        return cast(HttpResponse, super().changelist_view(request, {**words, **(extra_context or {})}))


class PlatformAdmin(StaffPage):
    """Rows of the platform itself, for platform admins only; any permission of theirs will do."""

    is_for_platform_admins = True

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Whether a platform admin asks; an empty permission still means nobody."""
        actor = getattr(request, "actor", None)
        return bool(permission and actor and actor.is_platform_admin)


def _without_pop_ups(field: Any) -> Any:
    wrapper = field.widget
    wrapper.can_add_related = wrapper.can_change_related = wrapper.can_delete_related = wrapper.can_view_related = False
    return field
