"""Staff pages of bundles: what is in them, what it is called there, and how programs are connected to them."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import INPUT_CLASSES, TEXTAREA_CLASSES, UnfoldAdminSelectWidget

from apps.core.actor import Actor
from apps.core.errors import ConfirmationNeeded, ServiceError
from apps.core.staff import ServiceForm, TenantAdmin, ago, badge, code, column, deed
from apps.gateway import services
from apps.gateway.admin.choosing import LONGEST_SEARCH, given_for, offering, searched
from apps.gateway.admin.looks import shown_item, state_of, what_agents_see
from apps.gateway.models import Bundle, BundleItem
from apps.gateway.schemas import MOST_ITEMS, BundleItemIn


class BundleForm(ServiceForm):
    """A bundle; a new one can begin with all of a server."""

    server: "forms.ModelChoiceField[Any]" = forms.ModelChoiceField(
        queryset=None, required=False, widget=UnfoldAdminSelectWidget, label="All of a server",
        help_text="What agents may use of it, now and later. Leave it empty to choose single things afterwards.",
    )  # fmt: skip

    class Meta:
        model = Bundle
        exclude = ()
        labels = {"names_verbatim": "Keep the server's names", "is_enabled": "Enabled"}


@admin.register(Bundle)
class BundleAdmin(TenantAdmin):
    """Make and change bundles, and connect programs to them."""

    form = BundleForm
    change_form_template = "staff/bundle.html"
    view_permission = "bundle.read"
    add_permission = change_permission = "bundle.write"
    intro = "A bundle shows agents a part of what they may use, at an address of its own. It opens nothing to them."
    empty_title = "No bundle yet"
    empty_text = "Make one for a team or an agent that needs a few tools and not all of them."

    list_display = ("name_and_slug", "state", "item_count", "address", "changed")
    list_display_links = ("name_and_slug",)
    list_filter = ("is_enabled",)
    search_fields = ("name", "slug")
    search_help_text = "Search by name or slug"
    sortable_by = ("name_and_slug",)
    ordering = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With the number of things in each."""
        own = Q(lines__organization=F("organization"))
        rows: QuerySet[Any] = super().get_queryset(request).annotate(item_total=Count("lines", filter=own))
        return rows

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What it is, what its agents are told, and for a new one what it begins with."""
        names = ["names_verbatim"] if obj else ["server", "names_verbatim"]
        return [
            (None, {"fields": ["name", "slug", "description"]}),
            ("What agents are told", {"fields": ["instructions"]}),
            ("Names" if obj else "What is in it", {"fields": names}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        """Agents are connected to its slug."""
        return () if obj is None else ("slug",)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        """The form, which offers the servers of the organisation."""
        kind = super().get_form(request, obj, change=change, **options)
        if "server" in kind.base_fields:
            servers = self.admin_site.get_model_admin(BundleItem._meta.get_field("server").related_model)
            kind.base_fields["server"].queryset = servers.findable(request)
        return kind

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """The form, and beside it what agents see and what each program wants to be told."""
        row = self.get_object(request, object_id) if object_id and self.has_view_permission(request) else None
        surroundings = self._surroundings(request, row) if row is not None else {}
        return super().changeform_view(request, object_id, form_url, {**(extra_context or {}), **surroundings})

    def _surroundings(self, request: HttpRequest, row: Bundle) -> dict[str, Any]:
        actor = self.actor_for(request, row)
        may_change = self.has_change_permission(request, row)
        items = row.items[:MOST_ITEMS]
        return {
            "items": [shown_item(item, may_change=may_change) for item in items],
            "waiting": sum(not item.is_usable for item in items),
            "sentence": what_agents_see(row, items, services.count_shown(actor, bundle_id=row.pk)),
            "choose_url": reverse("admin:gateway_bundle_choose", args=[row.pk]) if may_change else "",
            "programs": [services.connect_bundle(actor, bundle_id=row.pk, client=each) for each in services.CLIENTS],
            "url": row.url,
            "placeholder": services.PLACEHOLDER,
            "input_classes": " ".join(INPUT_CLASSES),
            "textarea_classes": " ".join(TEXTAREA_CLASSES),
        }

    # Choosing what is in it

    def get_urls(self) -> list[URLPattern]:
        """The usual addresses, and one to choose at."""
        view = self.admin_site.admin_view(self.choose_view)
        return [path("<path:object_id>/choose/", view, name="gateway_bundle_choose"), *super().get_urls()]

    def choose_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show all that can be taken in, and take in what was chosen."""
        row = self.row_or_404(request, object_id)
        if not self.has_change_permission(request, row):
            raise PermissionDenied
        chosen = request.POST.getlist("thing") if request.method == "POST" else []
        if chosen and self._take_in(request, row, chosen):
            return HttpResponseRedirect(self.url_of(row))
        if request.method == "POST" and not chosen:
            messages.warning(request, "Nothing was chosen.")
        words = request.GET.get("q", "")[:LONGEST_SEARCH]
        capabilities = self.admin_site.get_model_admin(BundleItem._meta.get_field("capability").related_model)
        context = {
            "title": f"Choose for {row}",
            "offering": offering(row, capabilities.findable(request), words, chosen),
            "words": words if searched(words) else "",
            "longest": LONGEST_SEARCH,
            "input_classes": " ".join(INPUT_CLASSES),
        }
        return TemplateResponse(request, "staff/bundle_choose.html", self.page_context(request, row, **context))

    def _take_in(self, request: HttpRequest, row: Bundle, chosen: list[str]) -> bool:
        try:
            services.add_items(self.actor_for(request, row), bundle_id=row.pk, items=given_for(chosen))
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            messages.error(request, error.message)
            return False
        things = "1 thing is" if len(chosen) == 1 else f"{len(chosen)} things are"
        messages.success(request, f"{things} in {row} now.")
        return True

    def summary(self, row: Bundle) -> Sequence[object]:
        """Whether agents find it, and where."""
        verbatim = [badge("Names of its server", "info")] if row.names_verbatim else []
        return [state_of(row), *verbatim, format_html('<span class="gh-note">{}</span>', code(row.url))]

    @column("Name", ordering="name", header=True)
    def name_and_slug(self, bundle: Bundle) -> tuple[str, str]:
        """The name, and below it the slug."""
        return bundle.name, bundle.slug

    @column("State")
    def state(self, bundle: Bundle) -> SafeString:
        """Whether agents find it."""
        return state_of(bundle)

    @column("Items")
    def item_count(self, bundle: Any) -> int:
        """How many things it takes in."""
        return int(bundle.item_total)

    @column("Address")
    def address(self, bundle: Bundle) -> SafeString:
        """Where agents find it."""
        return code(bundle.url)

    @column("Changed")
    def changed(self, bundle: Bundle) -> SafeString:
        """When it was last changed."""
        return ago(bundle.updated_at)

    def create(self, actor: Actor, values: dict[str, Any]) -> Bundle:
        """Make a bundle, with all of a server where one was chosen."""
        server = values.pop("server", None)
        items = [BundleItemIn(server_id=server.pk)] if server else []
        return services.create_bundle(actor, items=items, **values)

    def update(self, actor: Actor, row: Bundle, values: dict[str, Any]) -> Bundle:
        """Change a bundle."""
        return services.update_bundle(actor, bundle_id=row.pk, **values)

    def response_add(self, request: HttpRequest, obj: Bundle, post_url_continue: str | None = None) -> HttpResponse:
        """Show its page: what comes next is done there."""
        messages.success(request, f"{obj} is made. Agents find it at {obj.url}.")
        return HttpResponseRedirect(self.url_of(obj))

    @deed(
        "Enable", permission="bundle.write", icon="toggle_on", tone="main",
        is_offered=lambda bundle: not bundle.is_enabled,
    )  # fmt: skip
    def enable(self, actor: Actor, bundle: Bundle) -> str:
        """Open its endpoint again."""
        services.update_bundle(actor, bundle_id=bundle.pk, is_enabled=True)
        return f"{bundle} is enabled."

    @deed("Disable", permission="bundle.write", icon="toggle_off", is_offered=lambda bundle: bundle.is_enabled)
    def disable(self, actor: Actor, bundle: Bundle) -> str:
        """Close its endpoint until it is enabled again."""
        services.update_bundle(actor, bundle_id=bundle.pk, is_enabled=False)
        return f"{bundle} is disabled. Agents do not find its address any more."

    @deed(
        "Remove", permission="bundle.write", icon="delete", tone="bad",
        question="Agents that are connected to its address find nothing there any more. What is in it stays in use"
        " elsewhere.",
    )  # fmt: skip
    def remove(self, actor: Actor, bundle: Bundle) -> str:
        """Close its endpoint for good."""
        services.delete_bundle(actor, bundle_id=bundle.pk)
        return f"{bundle} is removed."
