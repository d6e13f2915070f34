"""Staff pages of secrets: which there are and what for. Their values are never shown."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from apps.core.staff import ServiceAdmin, actor_of, ago, badge, column, link, reveal
from apps.secrets.models import PLATFORM, Secret


@admin.register(Secret)
class SecretAdmin(ServiceAdmin):
    """Which secrets are kept."""

    view_permission = "server.write"
    has_history = False
    intro = "Sealed values. They are written with what needs them, such as a server's credential, and never shown."
    empty_title = "No secret yet"
    empty_text = "Adding a credential to a server seals its secret."

    list_display = ("purpose_shown", "store_shown", "kept", "changed")
    list_display_links = ("purpose_shown",)
    search_fields = ("purpose",)
    sortable_by = ()
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("purpose_shown", "store_shown", "kept", "changed")}),)
    readonly_fields = ("purpose_shown", "store_shown", "kept", "changed")

    def get_list_display(self, request: HttpRequest) -> Any:
        """The columns, and the organisation where secrets of several are listed."""
        columns = super().get_list_display(request)
        return [*columns, "organization_shown"] if actor_of(request).organization_id is None else list(columns)

    @column("For")
    def purpose_shown(self, secret: Secret) -> SafeString:
        """What it is for."""
        return reveal(secret.purpose)

    @column("Store")
    def store_shown(self, secret: Secret) -> SafeString:
        """Where its value is."""
        return badge(secret.store_name)

    @column("Kept since")
    def kept(self, secret: Secret) -> SafeString:
        """Since when."""
        return ago(secret.created_at)

    @column("Last changed")
    def changed(self, secret: Secret) -> SafeString:
        """When it was last replaced."""
        return ago(secret.updated_at)

    @column("Organisation")
    def organization_shown(self, secret: Secret) -> SafeString:
        """Whose it is."""
        if secret.organization_id == PLATFORM:
            return badge("the platform")
        return link("accounts_organization", secret.organization_id, "Organisation")
