"""Staff pages of what we read from servers: health checks and discoveries. Nothing here can be changed."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.staff import (
    CappedPaginator,
    MomentFilter,
    ScopedFilter,
    TenantAdmin,
    ago,
    badge,
    choices_filter,
    column,
    exact,
    json_block,
    link,
    milliseconds,
    reveal,
    words,
)
from apps.registry.admin.looks import health_badge
from apps.registry.models import Discovery, HealthCheck


@admin.register(HealthCheck)
class HealthCheckAdmin(TenantAdmin):
    """How servers fared, check by check."""

    view_permission = "server.read"
    has_history = False
    intro = "One row for each look at a server. Checks run on their own; “Check now” on a server's page adds one."
    empty_title = "No check yet"
    empty_text = "Servers are checked on a schedule once they are enabled."
    paginator = CappedPaginator

    list_display = ("when", "server_link", "health_shown", "took", "message_shown")
    list_display_links = ("when",)
    list_filter = (("server", ScopedFilter), choices_filter("health"), ("at", MomentFilter))
    list_select_related = ("organization", "server")
    sortable_by = ()
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("server", "at_exactly", "health_shown", "took", "message_shown")}),)
    readonly_fields = ("at_exactly", "health_shown", "took", "message_shown")

    @column("At")
    def at_exactly(self, check: HealthCheck) -> SafeString:
        """When, to the second."""
        return exact(check.at)

    @column("When")
    def when(self, check: HealthCheck) -> SafeString:
        """When it was."""
        return ago(check.at)

    @column("Server")
    def server_link(self, check: HealthCheck) -> SafeString:
        """What was checked."""
        return link("registry_server", check.server_id, check.server.name)

    @column("Health")
    def health_shown(self, check: HealthCheck) -> SafeString:
        """How it went."""
        return health_badge(check.health)

    @column("Took")
    def took(self, check: HealthCheck) -> str:
        """How long it took."""
        return milliseconds(check.latency_ms)

    @column("Message")
    def message_shown(self, check: HealthCheck) -> SafeString:
        """What was said, nothing hidden."""
        return reveal(check.message)


@admin.register(Discovery)
class DiscoveryAdmin(TenantAdmin):
    """What each reading of a server changed."""

    view_permission = "server.read"
    has_history = False
    intro = "One row for each reading of everything a server offers."
    empty_title = "Nothing discovered yet"
    empty_text = "“Discover” on a server's page reads its tools, resources and prompts."
    paginator = CappedPaginator

    list_display = ("when", "server_link", "outcome", "total", "changes", "took")
    list_display_links = ("when",)
    list_filter = (("server", ScopedFilter),)
    list_select_related = ("organization", "server")
    sortable_by = ()
    ordering = ("-id",)
    fieldsets = (
        (None, {"fields": ("server", "outcome", "total", "took", "protocol_version", "job_shown")}),
        ("What changed", {"fields": ("added_shown", "changed_shown", "removed_shown", "rejected_shown")}),
    )
    readonly_fields = (
        "outcome",
        "took",
        "job_shown",
        "added_shown",
        "changed_shown",
        "removed_shown",
        "rejected_shown",
    )

    def summary(self, row: Discovery) -> Sequence[object]:
        """How it went."""
        return [self.outcome(row)]

    @column("When")
    def when(self, discovery: Discovery) -> SafeString:
        """When it was."""
        return ago(discovery.created_at)

    @column("Server")
    def server_link(self, discovery: Discovery) -> SafeString:
        """What was read."""
        return link("registry_server", discovery.server_id, discovery.server.name)

    @column("Outcome")
    def outcome(self, discovery: Discovery) -> SafeString:
        """How it went."""
        if discovery.error:
            return format_html('{} <span class="gh-note">{}</span>', badge("Failed", "bad"), reveal(discovery.error))
        return badge("Done", "good")

    @column("Added, changed, removed")
    def changes(self, discovery: Discovery) -> str:
        """The numbers."""
        return f"+{len(discovery.added)} ~{len(discovery.changed)} -{len(discovery.removed)}"

    @column("Took")
    def took(self, discovery: Discovery) -> str:
        """How long it took."""
        return milliseconds(discovery.duration_ms)

    @column("Job")
    def job_shown(self, discovery: Discovery) -> SafeString | str:
        """The job that read it."""
        return link("jobs_job", discovery.job_id, "Show the job") if discovery.job_id else ""

    @column("Added")
    def added_shown(self, discovery: Discovery) -> SafeString:
        """What was new."""
        return _named(discovery.added)

    @column("Changed")
    def changed_shown(self, discovery: Discovery) -> SafeString:
        """What was defined otherwise than before."""
        return _named(discovery.changed)

    @column("Removed")
    def removed_shown(self, discovery: Discovery) -> SafeString:
        """What was no longer offered."""
        return _named(discovery.removed)

    @column("Refused")
    def rejected_shown(self, discovery: Discovery) -> SafeString:
        """What we refused, with the reason."""
        return json_block(discovery.rejected)


def _named(things: Any) -> SafeString:
    """Capabilities that a discovery names, with what kind each is."""
    if not all(isinstance(each, dict) and "name" in each for each in things):
        return json_block(things)
    return words([f"{each.get('kind', '')} {each['name']}".strip() for each in things])
