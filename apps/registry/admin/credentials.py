"""Staff pages of credentials: which secret opens which server. The secret is written here and never shown."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from apps.core.actor import Actor
from apps.core.staff import ScopedFilter, SecretField, ServiceForm, TenantAdmin, ago, choices_filter, column, deed, link
from apps.registry import services
from apps.registry.models import Credential


class CredentialForm(ServiceForm):
    """A new credential."""

    secret = SecretField(
        label="Secret",
        max_length=8192,
        help_text="The token, header value or password. It is sealed and cannot be shown again.",
    )

    class Meta:
        model = Credential
        fields = ("server", "kind", "header", "username")


@admin.register(Credential)
class CredentialAdmin(TenantAdmin):
    """Add and remove credentials; to change one, add the new one and remove the old."""

    form = CredentialForm
    view_permission = "server.read"
    add_permission = "server.write"
    confirms_add = True
    intro = "Gatehouse presents a credential to its server with each call. Its secret is sealed and never shown."
    empty_title = "No credential yet"
    empty_text = "Servers that ask for a token, a header or a password get it from here."

    list_display = ("kind_shown", "server_link", "header", "username", "added")
    list_display_links = ("kind_shown",)
    list_filter = (("server", ScopedFilter), choices_filter("kind"))
    list_select_related = ("organization", "server")
    sortable_by = ()
    ordering = ("-id",)
    add_fieldsets = ((None, {"fields": ("server", "kind", "header", "username", "secret")}),)
    fieldsets = ((None, {"fields": ("server", "kind", "header", "username", "added")}),)
    readonly_fields = ("added",)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Only servers that are there."""
        if db_field.name == "server":
            servers = self.admin_site.get_model_admin(db_field.remote_field.model)
            options["queryset"] = servers.findable(request)
        return super().formfield_for_foreignkey(db_field, request, **options)

    @column("Kind")
    def kind_shown(self, credential: Credential) -> str:
        """How it travels."""
        return credential.get_kind_display()

    @column("Server")
    def server_link(self, credential: Credential) -> SafeString:
        """What it opens."""
        return link("registry_server", credential.server_id, credential.server.name)

    @column("Added")
    def added(self, credential: Credential) -> SafeString:
        """When."""
        return ago(credential.created_at)

    def create(self, actor: Actor, values: dict[str, Any]) -> Credential:
        """Seal the secret and keep the credential."""
        return services.add_credential(actor, server_id=values.pop("server").pk, **values)

    @deed(
        "Remove", permission="server.write", icon="delete", tone="bad", confirms=True,
        question="The sealed secret is destroyed. Calls to the server go on without it.",
    )  # fmt: skip
    def remove(self, actor: Actor, credential: Credential) -> str:
        """Destroy it."""
        services.remove_credential(actor, credential_id=credential.pk)
        return "The credential is removed."
