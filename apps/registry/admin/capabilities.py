"""Staff pages of capabilities: what servers offer, and whether agents may use it."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import DropdownFilter

from apps.core.actor import Actor
from apps.core.staff import (
    ScopedFilter,
    ServiceForm,
    TenantAdmin,
    WordsField,
    badge,
    choices_filter,
    code,
    column,
    deed,
    json_block,
    link,
    reveal,
    text_block,
)
from apps.core.staff.display import badges
from apps.registry import services
from apps.registry.admin.looks import capability_state, risk_badge, warning_badge
from apps.registry.models import Capability


class CapabilityForm(ServiceForm):
    """What staff decide about a capability; its definition is its server's."""

    tags = WordsField(required=False, help_text="Free words, with commas between them.")
    required_scopes = WordsField(
        required=False, help_text="Permissions a caller needs besides the usual, with commas between them."
    )

    class Meta:
        model = Capability
        exclude = ()
        labels = {
            "description_override": "Description for agents",
            "rate_limit_per_minute": "Calls a minute",
            "cache_seconds": "Seconds to keep an answer",
        }
        help_texts = {
            "description_override": "Instead of what the server says.",
            "risk": "Low means that it only reads.",
        }


class StateFilter(DropdownFilter):  # type: ignore[misc]
    """How a capability stands; those no longer offered are shown only when asked for."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The choices."""
        return [
            ("waiting", "Waiting for approval"),
            ("changed", "Changed since approval"),
            ("approved", "Approved"),
            ("removed", "No longer offered"),
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """The rows of the choice."""
        if self.value() == "removed":
            return queryset.exclude(removed_at=None)
        offered = queryset.filter(removed_at=None)
        if self.value() == "waiting":
            return offered.exclude(approved_digest=F("digest"))
        if self.value() == "changed":
            return offered.exclude(approved_digest=F("digest")).exclude(approved_digest="")
        return offered.filter(approved_digest=F("digest")) if self.value() == "approved" else offered


@admin.register(Capability)
class CapabilityAdmin(TenantAdmin):
    """Approve what servers offer, and set its risk, limits and name for agents."""

    form = CapabilityForm
    view_permission = "server.read"
    change_permission = "server.approve"
    intro = "What servers offer, as they define it. Agents lose what is defined anew until it is approved again."
    empty_title = "No capability known"
    empty_text = "Discover a server: its tools, resources and prompts appear here."

    list_display = ("public_name_shown", "server_link", "kind", "state", "risk_shown", "warnings_shown")
    list_display_links = ("public_name_shown",)
    list_filter = (
        ("server", ScopedFilter),
        StateFilter,
        choices_filter("kind"),
        choices_filter("risk"),
        "is_enabled",
    )
    list_select_related = ("organization", "server")
    search_fields = ("public_name", "name")
    search_help_text = "Search by name"
    sortable_by = ("public_name_shown",)
    ordering = ("public_name",)

    readonly_fields = (
        "server", "kind", "name_shown", "public_name_shown", "description_shown", "warnings_listed", "definition_shown",
        "approved_shown", "changes_shown",
    )  # fmt: skip

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What it is, what staff decide, and the definition, with the approved one beside it when they differ."""
        definition = ["description_shown", "warnings_listed", "definition_shown"]
        if obj is not None and obj.approved_digest and not obj.is_approved:
            definition = ["changes_shown", *definition, "approved_shown"]
        return [
            (None, {"fields": [("server", "kind"), "name_shown", "public_name_shown"]}),
            ("What its server says", {"fields": definition}),
            ("What you decide", {"fields": ["risk", "alias", "description_override", "tags"]}),
            ("Limits", {"fields": [("rate_limit_per_minute", "cache_seconds"), "required_scopes"]}),
        ]

    def waiting(self, request: HttpRequest) -> QuerySet[Any]:
        """Those on approved servers that wait for approval: new ones, and ones whose definition changed."""
        waits = self.findable(request).exclude(approved_digest=F("digest")).exclude(server__approved_at=None)
        return waits.order_by("-updated_at")

    def findable(self, request: HttpRequest) -> QuerySet[Any]:
        """Those that the search of the menu offers."""
        rows: Any = self.get_queryset(request)
        return rows.present()  # type: ignore[no-any-return]

    def summary(self, row: Capability) -> Sequence[object]:
        """Whether agents may use it."""
        return [capability_state(row), risk_badge(row.risk), warning_badge(row)]

    @column("Name for agents", ordering="public_name")
    def public_name_shown(self, capability: Capability) -> SafeString:
        """What agents call it."""
        return code(capability.public_name)

    @column("Name on the server")
    def name_shown(self, capability: Capability) -> SafeString:
        """What its server calls it."""
        return code(capability.name)

    @column("Server")
    def server_link(self, capability: Capability) -> SafeString:
        """Whose it is."""
        return link("registry_server", capability.server_id, capability.server.name)

    @column("State")
    def state(self, capability: Capability) -> SafeString:
        """Whether agents may use it."""
        return capability_state(capability)

    @column("Risk")
    def risk_shown(self, capability: Capability) -> SafeString:
        """What it could do at worst."""
        return risk_badge(capability.risk)

    @column("Warnings")
    def warnings_shown(self, capability: Capability) -> SafeString | str:
        """How many warnings its definition gave."""
        return warning_badge(capability)

    @column("Description")
    def description_shown(self, capability: Capability) -> SafeString:
        """What its server tells agents, with every hidden character named."""
        return text_block(str((capability.definition or {}).get("description") or ""))

    @column("Warnings")
    def warnings_listed(self, capability: Capability) -> SafeString | str:
        """What looked wrong in the definition."""
        return badges(badge(_warning_text(each), "bad") for each in capability.warnings) if capability.warnings else ""

    @column("Definition")
    def definition_shown(self, capability: Capability) -> SafeString:
        """All of it."""
        return json_block(capability.definition)

    @column("What changed")
    def changes_shown(self, capability: Capability) -> SafeString:
        """What differs from the approved definition."""
        lines = format_html_join("", "<li>{}</li>", ((reveal(line),) for line in services.describe_changes(capability)))
        return format_html('<ul class="gh-changes">{}</ul>', lines)

    @column("Approved definition")
    def approved_shown(self, capability: Capability) -> SafeString:
        """The one that was approved."""
        return json_block(capability.approved_definition)

    def update(self, actor: Actor, row: Capability, values: dict[str, Any]) -> Capability:
        """Keep what staff decided."""
        return services.update_capability(actor, capability_id=row.pk, **values)

    @deed(
        "Approve", permission="server.approve", icon="verified", tone="main", seen=lambda row: row.digest,
        is_offered=lambda row: not row.is_approved and not row.removed_at,
    )  # fmt: skip
    def approve(self, actor: Actor, capability: Capability) -> str:
        """Let agents use it as it is defined now."""
        services.approve_capability(actor, capability_id=capability.pk, digest=capability.digest)
        return f"{capability} is approved as it is defined now."

    @deed("Enable", permission="server.approve", icon="toggle_on", is_offered=lambda row: not row.is_enabled)
    def enable(self, actor: Actor, capability: Capability) -> str:
        """Let agents use it again."""
        services.update_capability(actor, capability_id=capability.pk, is_enabled=True)
        return f"{capability} is enabled."

    @deed("Disable", permission="server.approve", icon="toggle_off", is_offered=lambda row: row.is_enabled)
    def disable(self, actor: Actor, capability: Capability) -> str:
        """Keep agents from using it, at once."""
        services.update_capability(actor, capability_id=capability.pk, is_enabled=False)
        return f"{capability} is disabled. Agents see it no more."


def _warning_text(warning: Any) -> str:
    return str(warning.get("message") or warning) if isinstance(warning, dict) else str(warning)
