"""Staff pages of bundles: what is in them, what it is called there, and how programs are connected to them."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget

from apps.core.actor import Actor
from apps.core.staff import Panel, ServiceForm, TenantAdmin, actor_of, ago, badge, code, column, deed, link, reveal
from apps.gateway import services
from apps.gateway.models import Bundle, BundleItem, ItemKind
from apps.gateway.schemas import MOST_ITEMS, BundleItemIn

KINDS = {
    "tool": "Tool",
    "prompt": "Prompt",
    "resource": "Resource",
    "resource_template": "Resource template",
    "server": "All of a server",
}


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


def state_of(bundle: Bundle) -> SafeString:
    """Whether agents find it."""
    return badge("Enabled", "good") if bundle.is_enabled else badge("Disabled", "quiet")


@admin.register(Bundle)
class BundleAdmin(TenantAdmin):
    """Make and change bundles, and connect programs to them."""

    form = BundleForm
    change_form_template = "staff/bundle.html"
    view_permission = "bundle.read"
    add_permission = change_permission = "bundle.write"
    intro = "A bundle shows agents a part of what they may use, at an address of its own. It opens nothing to them."
    panels_first = True
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
            ("What is in it", {"fields": names}),
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
        """The form, with what each program wants to be told beside it."""
        extra = {**(extra_context or {})}
        row = self.get_object(request, object_id) if object_id and self.has_view_permission(request) else None
        if row is not None:
            actor = self.actor_for(request, row)
            extra["programs"] = [
                services.connect_bundle(actor, bundle_id=row.pk, client=client) for client in services.CLIENTS
            ]
            extra["url"], extra["placeholder"] = row.url, services.PLACEHOLDER
        return super().changeform_view(request, object_id, form_url, extra)

    def summary(self, row: Bundle) -> Sequence[object]:
        """Whether agents find it, and where."""
        verbatim = [badge("Names of its server", "info")] if row.names_verbatim else []
        return [state_of(row), *verbatim, format_html('<span class="gh-note">{}</span>', code(row.url))]

    def panels(self, request: HttpRequest, row: Bundle) -> Sequence[Panel]:
        """What is in it."""
        may_add = self.has_change_permission(request, row) and actor_of(request).organization_id is not None
        return [
            Panel(
                "What it shows",
                ("Name here", "Kind", "In the catalogue", "State"),
                [_line(item) for item in row.items[:MOST_ITEMS]],
                "Nothing yet. Add a tool, a prompt, a resource, or all of a server.",
                add_url=f"{reverse('admin:gateway_bundleitem_add')}?bundle={row.pk}" if may_add else "",
                add_label="Add something",
            )
        ]

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


class BundleItemForm(ServiceForm):
    """One thing in a bundle."""

    native = forms.ChoiceField(
        required=False, widget=UnfoldAdminSelectWidget, label="A tool of the platform",
        choices=lambda: [("", "---------"), *((name, name) for name in sorted(services.native_tools()))],
    )  # fmt: skip

    class Meta:
        model = BundleItem
        exclude = ()
        labels = {
            "capability": "One thing of a server",
            "server": "All of a server",
            "alias": "Name in this bundle",
            "description_override": "Description in this bundle",
        }


@admin.register(BundleItem)
class BundleItemAdmin(TenantAdmin):
    """Take things into a bundle, name them there, and take them out again."""

    form = BundleItemForm
    view_permission = "bundle.read"
    add_permission = change_permission = "bundle.write"
    has_history = False
    intro = "Everything that is in a bundle. A bundle's own page shows it in its order."
    empty_title = "Nothing in any bundle yet"
    empty_text = "Make a bundle, and add things on its page."

    list_display = ("name_shown", "bundle_link", "kind_shown", "takes_in_shown", "state")
    list_display_links = ("name_shown",)
    list_select_related = ("organization", "bundle", "server", "capability__server")
    autocomplete_fields = ("capability", "server")
    sortable_by = ()
    ordering = ("-id",)
    readonly_fields = ("takes_in_shown", "kind_shown", "state")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """For a new one, what it is: one of three; then how it is shown."""
        shown = ["alias", "description_override"]
        if obj is None:
            return [
                (None, {"fields": ["bundle"]}),
                ("What it takes in: choose one", {"fields": ["capability", "server", "native"]}),
                ("How agents see it", {"fields": shown}),
            ]
        kind = [(None, {"fields": ["bundle", "takes_in_shown", ("kind_shown", "state")]})]
        return kind if obj.kind == ItemKind.SERVER else [*kind, ("How agents see it", {"fields": shown})]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        """What it takes in stays; another thing is another item."""
        return self.readonly_fields if obj is None else (*self.readonly_fields, "bundle")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Of a whole server there is nothing to change."""
        return super().has_change_permission(request, obj) and (obj is None or obj.kind != ItemKind.SERVER)

    @column("Name here")
    def name_shown(self, item: BundleItem) -> SafeString:
        """What agents call it."""
        return code(str(item))

    @column("Bundle")
    def bundle_link(self, item: BundleItem) -> SafeString:
        """Where it is."""
        return link("gateway_bundle", item.bundle_id, item.bundle.name)

    @column("Kind")
    def kind_shown(self, item: BundleItem) -> str:
        """What agents see of it."""
        return KINDS[item.shows]

    @column("In the catalogue")
    def takes_in_shown(self, item: BundleItem) -> SafeString:
        """What it takes in."""
        return _target(item)

    @column("State")
    def state(self, item: BundleItem) -> SafeString:
        """Whether agents may use it."""
        return _state(item)

    def create(self, actor: Actor, values: dict[str, Any]) -> BundleItem:
        """Take it into the bundle."""
        capability, server = values["capability"], values["server"]
        item = BundleItemIn(
            capability_id=capability.pk if capability else None, server_id=server.pk if server else None,
            native=values["native"], alias=values["alias"], description_override=values["description_override"],
        )  # fmt: skip
        return services.add_item(actor, bundle_id=values["bundle"].pk, item=item)

    def update(self, actor: Actor, row: BundleItem, values: dict[str, Any]) -> BundleItem:
        """Name it or describe it anew."""
        return services.update_item(actor, bundle_id=row.bundle_id, bundle_item_id=row.pk, **values)

    def response_add(self, request: HttpRequest, obj: BundleItem, post_url_continue: str | None = None) -> HttpResponse:
        """Back to the bundle, where all that is in it stands together; or the form again for one more."""
        messages.success(request, f"{obj} is in {obj.bundle} now.")
        more = f"{reverse('admin:gateway_bundleitem_add')}?bundle={obj.bundle_id}"
        return HttpResponseRedirect(more if "_addanother" in request.POST else self._after(request, obj))

    def response_change(self, request: HttpRequest, obj: BundleItem) -> HttpResponse:
        """Back to the bundle."""
        messages.success(request, f"{obj} is changed.")
        return HttpResponseRedirect(self._after(request, obj))

    def _after(self, request: HttpRequest, row: Any) -> str:
        return reverse("admin:gateway_bundle_change", args=[row.bundle_id])

    @deed("Take out", permission="bundle.write", icon="playlist_remove", tone="bad")
    def take_out(self, actor: Actor, item: BundleItem) -> str:
        """Take it out of its bundle."""
        services.remove_item(actor, bundle_id=item.bundle_id, bundle_item_id=item.pk)
        return f"{item} is not in {item.bundle} any more."


def _line(item: BundleItem) -> tuple[object, ...]:
    name = format_html("all of {}", item.takes_in) if item.kind == ItemKind.SERVER else code(str(item))
    return link("gateway_bundleitem", item.pk, name), KINDS[item.shows], _target(item), _state(item)


def _target(item: BundleItem) -> SafeString:
    if item.capability:
        return link("registry_capability", item.capability_id, code(item.takes_in))
    return link("registry_server", item.server_id, item.takes_in) if item.server_id else reveal(item.native)


def _state(item: BundleItem) -> SafeString:
    return badge("In use", "good") if item.is_usable else badge("Not usable now", "warn")
