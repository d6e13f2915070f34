"""Staff pages of usage events: every call, allowed or denied. Nothing here can be changed."""

from django.contrib import admin
from django.utils.safestring import SafeString

from apps.core.staff import (
    CappedPaginator,
    MomentFilter,
    TenantAdmin,
    ago,
    badge,
    choices_filter,
    code,
    column,
    exact,
    milliseconds,
    reveal,
)
from apps.core.staff.display import Tone
from apps.usage.models import Status, UsageEvent

STATUS_TONES: dict[str, Tone] = {Status.OK: "good", Status.ERROR: "warn", Status.DENIED: "bad"}


@admin.register(UsageEvent)
class UsageEventAdmin(TenantAdmin):
    """Calls, newest first."""

    view_permission = "usage.read"
    has_history = False
    intro = "One row for each call of an agent, allowed or denied."
    empty_title = "No call yet"
    empty_text = "Connect an agent to /mcp with an API key. Its calls appear here."
    paginator = CappedPaginator

    list_display = ("when", "name_shown", "status_shown", "took", "actor_shown", "server_shown", "method")
    list_display_links = ("when",)
    list_filter = (choices_filter("status"), ("at", MomentFilter))
    search_fields = ("server__exact",)
    search_help_text = "Search by the server's slug"
    sortable_by = ()
    ordering = ("-at", "-id")
    fieldsets = (
        (None, {"fields": ("name_shown", "method", "server_shown", "status_shown", "error_code")}),
        ("Who and when", {"fields": ("actor_shown", "actor_kind", "surface", "endpoint", "at_exactly", "request_id")}),
        ("How much", {"fields": ("took", ("bytes_in", "bytes_out"), ("tokens_in", "tokens_out"), "cost")}),
    )
    readonly_fields = ("at_exactly", "name_shown", "server_shown", "status_shown", "actor_shown", "took")

    @column("At")
    def at_exactly(self, event: UsageEvent) -> SafeString:
        """When, to the second."""
        return exact(event.at)

    @column("When")
    def when(self, event: UsageEvent) -> SafeString:
        """When it arrived."""
        return ago(event.at)

    @column("Tool")
    def name_shown(self, event: UsageEvent) -> SafeString:
        """What was called, nothing hidden in its name."""
        return code(event.name)

    @column("Server")
    def server_shown(self, event: UsageEvent) -> SafeString:
        """The server that answered."""
        return reveal(event.server) if event.server else badge("Gatehouse")

    @column("Outcome")
    def status_shown(self, event: UsageEvent) -> SafeString:
        """How it ended."""
        return badge(event.get_status_display(), STATUS_TONES[event.status], title=event.error_code)

    @column("Took")
    def took(self, event: UsageEvent) -> str:
        """From arrival to answer."""
        return milliseconds(event.latency_ms)

    @column("Caller")
    def actor_shown(self, event: UsageEvent) -> SafeString:
        """Who called."""
        return reveal(event.actor_label)
