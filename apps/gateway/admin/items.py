"""Staff pages of what is in bundles: taken in, named and described there, and taken out."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget

from apps.core.actor import Actor
from apps.core.staff import ServiceForm, TenantAdmin, code, column, deed, link
from apps.gateway import services
from apps.gateway.admin.looks import KINDS, anchor_of, item_state, target_of
from apps.gateway.models import BundleItem, ItemKind
from apps.gateway.schemas import BundleItemIn


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
        return target_of(item)

    @column("State")
    def state(self, item: BundleItem) -> SafeString:
        """Whether agents may use it."""
        return item_state(item)

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
        return HttpResponseRedirect(f"{self._after(request, obj)}#{anchor_of(obj)}")

    def _after(self, request: HttpRequest, row: Any) -> str:
        return reverse("admin:gateway_bundle_change", args=[row.bundle_id])

    @deed("Take out", permission="bundle.write", icon="playlist_remove", tone="bad")
    def take_out(self, actor: Actor, item: BundleItem) -> str:
        """Take it out of its bundle."""
        services.remove_item(actor, bundle_id=item.bundle_id, bundle_item_id=item.pk)
        return f"{item} is not in {item.bundle} any more."
