"""Staff pages whose rows are saved, and acted on, by services."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.contrib.admin import helpers
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import ForeignKey, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.forms import AdminForm, Fieldline

from apps.core.actor import Actor
from apps.core.errors import ConfirmationNeeded, Conflict, ServiceError
from apps.core.staff.deeds import Deed, deeds_of
from apps.core.staff.display import column, link
from apps.core.staff.forms import ServiceForm, add_refusal
from apps.core.staff.pages import StaffPage, actor_of

ROWS_AT_ONCE = 100


@dataclass(frozen=True)
class Panel:
    """A short table below the form of a row: what belongs to it, and where all of it is."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str
    more_url: str = ""
    more_label: str = "Show all"
    add_url: str = ""
    add_label: str = ""


class ServiceAdmin(StaffPage):
    """Rows that are saved, and acted on, by services."""

    form = ServiceForm

    # Whose rows

    def scope(self, rows: Any, organization_id: Any) -> QuerySet[Any]:
        """The rows of one organisation."""
        return cast(QuerySet[Any], rows.for_org(organization_id))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows of the current organisation; of all only for a platform admin who chose none."""
        rows = super().get_queryset(request)
        actor = actor_of(request)
        if actor.is_platform_admin and actor.organization_id is None:
            return cast(QuerySet[Any], rows)
        return self.scope(rows, actor.organization_id)

    def formfield_for_foreignkey(self, db_field: "ForeignKey[Any, Any]", request: HttpRequest, **options: Any) -> Any:
        """Offer only rows that the related page would list."""
        related = self.admin_site._registry.get(db_field.remote_field.model)
        if related is not None and "queryset" not in options:
            options["queryset"] = related.get_queryset(request)
        return super().formfield_for_foreignkey(db_field, request, **options)

    def actor_for(self, request: HttpRequest, row: Any) -> Actor:
        """Who asks; a platform admin who chose no organisation acts in that of the row."""
        actor = actor_of(request)
        owner = self.organization_of(row)
        if actor.organization_id is None and actor.is_platform_admin and owner is not None:
            return replace(actor, organization_id=owner)
        return actor

    def organization_of(self, row: Any) -> Any:
        """The id of the organisation that owns the row."""
        return getattr(row, "organization_id", None)

    # Saving

    def create(self, actor: Actor, values: dict[str, Any]) -> Model:
        """Call the service that makes a row."""
        raise NotImplementedError

    def update(self, actor: Actor, row: Any, values: dict[str, Any]) -> Model:
        """Call the service that changes a row; `values` are only those that changed."""
        raise NotImplementedError

    def get_form(self, request: HttpRequest, obj: Model | None = None, change: bool = False, **options: Any) -> Any:
        """The form, with the service that saves it."""
        kind = super().get_form(request, obj, change=change, **options)
        return type(kind.__name__, (kind,), {"save_by_service": staticmethod(partial(self._save, request, obj))})

    def _save(self, request: HttpRequest, row: Any, form: ServiceForm) -> Model:
        if row is None:
            return self.create(actor_of(request), dict(form.cleaned_data))
        changed = form.changed_values
        return self.update(self.actor_for(request, row), row, changed) if changed else row

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """As Django's, but a POST runs outside a transaction: services open their own and keep traces of refusals."""
        if object_id is None and self.confirms_add:
            actor_of(request).require_confirmed()
        extra = {**(extra_context or {}), **self._extras(request, object_id)}
        if request.method != "POST":
            return super().changeform_view(request, object_id, form_url, extra)
        helpers.AdminForm = AdminForm  # type: ignore[misc]
        helpers.Fieldline = Fieldline  # type: ignore[misc]
        return self._changeform_view(request, object_id, form_url, extra)

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        """Nothing: the form's service has saved."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Nothing: services save what belongs to a row."""

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Never reached: removing is a deed."""
        raise PermissionDenied

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Never reached: removing is a deed."""
        raise PermissionDenied

    # What surrounds the form

    def summary(self, row: Any) -> Sequence[object]:
        """Badges above the form: how the row stands."""
        return ()

    def panels(self, request: HttpRequest, row: Any) -> Sequence[Panel]:
        """Tables below the form: what belongs to the row."""
        return ()

    def _extras(self, request: HttpRequest, object_id: str | None) -> dict[str, Any]:
        row = self.get_object(request, unquote(object_id)) if object_id and self.has_view_permission(request) else None
        if row is None:
            return {}
        return {
            "summary": self.summary(row),
            "panels": self.panels(request, row),
            "deeds": [self._button(item, row) for item in self.deeds(request) if _is_offered(item, row)],
            "panels_first": self.panels_first,
            "show_history": self.has_history,
        }

    # Deeds

    def deeds(self, request: HttpRequest) -> list[Deed]:
        """The deeds that who asks may do."""
        return [item for item in deeds_of(type(self)) if self.may_do(request, item)]

    def may_do(self, request: HttpRequest, deed: Deed) -> bool:
        """Whether who asks may do this to rows of this page."""
        if deed.is_for_platform_admins and not actor_of(request).is_platform_admin:
            return False
        return self.may(request, deed.permission)

    def _button(self, deed: Deed, row: Any) -> dict[str, Any]:
        return {"deed": deed, "url": self.deed_url(row, deed.name), "seen": deed.seen(row) if deed.seen else ""}

    def deed_url(self, row: Model, name: str) -> str:
        """Where a deed is done to a row."""
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_deed", args=[row.pk, name])

    def get_urls(self) -> list[URLPattern]:
        """Django's addresses, and one for the deeds."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_deed"
        view = self.admin_site.admin_view(self.deed_view)
        return [path("<path:object_id>/do/<slug:deed_name>/", view, name=name), *super().get_urls()]

    def deed_view(self, request: HttpRequest, object_id: str, deed_name: str) -> HttpResponseBase:
        """Ask first where a deed wants that, then do it and say what came of it."""
        row = self.row_or_404(request, object_id)
        found = next((item for item in deeds_of(type(self)) if item.name == deed_name), None)
        if found is None:
            raise Http404
        if not self.may_do(request, found):
            raise PermissionDenied
        back = self.deed_url(row, deed_name) if found.asks_first else self.url_of(row)
        request.after_confirming = back  # type: ignore[attr-defined]
        if found.confirms:
            actor_of(request).require_confirmed()
        form = (found.form or forms.Form)(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            answer = self._do(request, found, row, form)
            if answer is not None:
                return answer
        seen = request.POST.get("seen") or request.GET.get("seen", "")
        context = self.page_context(request, row, title=found.label, deed=found, form=form, seen=seen)
        return TemplateResponse(request, "staff/deed.html", context)

    def _do(self, request: HttpRequest, deed: Deed, row: Any, form: forms.Form) -> HttpResponseBase | None:
        """The answer to a deed; None where its form has to be shown again."""
        given = (form,) if deed.form else ()
        try:
            _check_seen(request, deed, row)
            said = getattr(self, deed.name)(self.actor_for(request, row), row, *given)
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            if deed.form:
                add_refusal(form, error)
                return None
            messages.error(request, error.message)
        else:
            if isinstance(said, HttpResponseBase):
                return said
            if isinstance(said, TemplateParts):
                return TemplateResponse(request, said.template, self.page_context(request, row, **said.context))
            messages.success(request, said)
        return HttpResponseRedirect(self._after(request, row))

    def _after(self, request: HttpRequest, row: Model) -> str:
        if self.get_object(request, str(row.pk)) is not None:
            return self.url_of(row)
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def get_actions(self, request: HttpRequest) -> dict[str, tuple[Callable[..., Any], str, str]]:
        """The deeds that make sense for several rows at once."""
        if "_popup" in request.GET:
            return {}
        return {
            item.name: (partial(_do_to_many, deed=item), item.name, item.label)
            for item in self.deeds(request)
            if item.in_lists and not item.form
        }


@dataclass(frozen=True)
class TemplateParts:
    """An answer of a deed that is a page: its template and what the template shows."""

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)


class TenantAdmin(ServiceAdmin):
    """Rows that belong to an organisation."""

    list_select_related: Any = ("organization",)

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        """The columns, and the organisation where rows of several are listed."""
        columns = super().get_list_display(request)
        return [*columns, "organization_link"] if actor_of(request).organization_id is None else list(columns)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Only within an organisation: a new row must belong to one."""
        actor = getattr(request, "actor", None)
        return bool(actor and actor.organization_id) and super().has_add_permission(request)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponseBase:
        """The form; to who works in no organisation, the list again, with the word that one must be chosen."""
        homeless = actor_of(request).organization_id is None and super().has_add_permission(request)
        if homeless and request.method == "GET":
            messages.warning(
                request, "Choose an organisation first, at the top of the menu: what you add belongs to one."
            )
            return HttpResponseRedirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))
        return cast(HttpResponseBase, super().add_view(request, form_url, extra_context))

    @column("Organisation")
    def organization_link(self, row: Any) -> str:
        """Whose row it is."""
        return link("accounts_organization", row.organization_id, row.organization)


def _is_offered(deed: Deed, row: Any) -> bool:
    return deed.is_offered is None or deed.is_offered(row)


def _check_seen(request: HttpRequest, deed: Deed, row: Any) -> None:
    seen = request.POST.get("seen")
    if deed.seen and seen and seen != deed.seen(row):
        raise Conflict("This has changed since you looked at it. Look at it again.")


def _do_to_many(page: ServiceAdmin, request: HttpRequest, rows: QuerySet[Any], *, deed: Deed) -> None:
    """Do a deed to each chosen row, and say for how many it worked and why not for the others."""
    chosen = list(rows[: ROWS_AT_ONCE + 1])
    if len(chosen) > ROWS_AT_ONCE:
        messages.error(request, f"Choose at most {ROWS_AT_ONCE} at once.")
        return
    done = 0
    for row in chosen:
        try:
            getattr(page, deed.name)(page.actor_for(request, row), row)
            done += 1
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            messages.error(request, f"{row}: {error.message}")
    if done:
        noun = page.opts.verbose_name if done == 1 else page.opts.verbose_name_plural
        messages.success(request, f"{deed.label}: done for {done} {noun}.")
