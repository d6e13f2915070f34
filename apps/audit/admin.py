"""Staff pages of the journal: read, searched and verified, never changed."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from apps.audit import services
from apps.audit.models import PLATFORM_CHAIN, Entry
from apps.core.staff import (
    CappedPaginator,
    MomentFilter,
    ServiceAdmin,
    actor_of,
    ago,
    badge,
    choices_filter,
    code,
    column,
    differences,
    exact,
    json_block,
    link,
    plain_text,
    reveal,
)

BREAKS_AT_MOST = 50
HISTORY_AT_ONCE = 25


@admin.register(Entry)
class EntryAdmin(ServiceAdmin):
    """What happened, newest first."""

    view_permission = "audit.read"
    has_history = False
    intro = "Everything that was changed or refused, chained so that nobody can quietly change it afterwards."
    empty_title = "The journal is empty"
    empty_text = "Whatever staff, keys and jobs change is written here."
    paginator = CappedPaginator
    change_list_template = "staff/journal.html"

    list_display = ("when", "action_shown", "subject_shown", "outcome_shown", "actor_shown", "surface")
    list_display_links = ("when",)
    list_filter = (choices_filter("outcome"), ("at", MomentFilter))
    search_fields = ("action__exact",)
    search_help_text = "Search by action, such as server.approved"
    sortable_by = ()
    ordering = ("-at", "-id")
    fieldsets = (
        (None, {"fields": ("action_shown", "subject_shown", "outcome_shown", "details_shown")}),
        ("Who and when", {"fields": ("actor_shown", "surface", "address", "at_exactly", "request_id")}),
        ("Place in the chain", {"fields": ("organization_shown", "sequence", "previous_digest", "digest")}),
    )
    readonly_fields = (
        "at_exactly",
        "action_shown",
        "subject_shown",
        "outcome_shown",
        "details_shown",
        "actor_shown",
        "organization_shown",
    )
    brief_columns = ("When", "What", "To what", "Outcome", "By whom")

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        """The columns, and the organisation where several chains are listed."""
        columns = super().get_list_display(request)
        return [*columns, "organization_shown"] if actor_of(request).organization_id is None else list(columns)

    def organization_of(self, row: Entry) -> Any:
        """The chain is the organisation's; the platform's own has none."""
        return None if row.chain_id == PLATFORM_CHAIN else row.chain_id

    def history_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """A page of what was done to a row: who, when, and what differs."""
        found = CappedPaginator(services.entries_about(self.get_queryset(request), row), HISTORY_AT_ONCE)
        page = found.get_page(request.GET.get("p"))
        return {"entries": [self._told(each, row) for each in page], "entries_page": page}

    def _told(self, entry: Entry, row: Any) -> dict[str, Any]:
        details = dict(entry.details) if isinstance(entry.details, dict) else {}
        changes = details.pop("changes", None)
        fields = differences(changes)
        told = {"id", *({"fields", "from", "to", *changes} if isinstance(changes, dict) else ())}
        return {
            "entry": entry,
            "action": code(entry.action),
            "what": entry.action.partition(".")[2].replace("_", " "),
            "at": exact(entry.at),
            "outcome": self.outcome_shown(entry) if entry.outcome != "done" else "",
            "who": self.actor_shown(entry),
            "subject": "" if entry.subject_id == str(row.pk) else self.subject_shown(entry),
            "fields": fields,
            "is_new": bool(fields) and all(not field.before for field in fields),
            "lines": [reveal(str(line)) for line in changes] if isinstance(changes, list) else [],
            "rest": [
                (name.replace("_", " "), reveal(plain_text(value)))
                for name, value in details.items()
                if name not in told and plain_text(value)
            ],
            "url": reverse("admin:audit_entry_change", args=[entry.pk]),
        }

    def brief_rows(self, entries: Any) -> list[tuple[object, ...]]:
        """Entries as rows of a short table."""
        return [
            (
                link("audit_entry", each.pk, ago(each.at)),
                self.action_shown(each),
                self.subject_shown(each),
                self.outcome_shown(each),
                self.actor_shown(each),
            )
            for each in entries
        ]

    @column("At")
    def at_exactly(self, entry: Entry) -> SafeString:
        """When, to the second."""
        return exact(entry.at)

    @column("When")
    def when(self, entry: Entry) -> SafeString:
        """When it happened."""
        return ago(entry.at)

    @column("What")
    def action_shown(self, entry: Entry) -> SafeString:
        """What happened."""
        return code(entry.action)

    @column("To what")
    def subject_shown(self, entry: Entry) -> SafeString:
        """What it happened to."""
        return reveal(entry.subject)

    @column("Outcome")
    def outcome_shown(self, entry: Entry) -> SafeString:
        """Whether it was done or refused."""
        return badge(entry.get_outcome_display(), "good" if entry.outcome == "done" else "bad")

    @column("By whom")
    def actor_shown(self, entry: Entry) -> SafeString:
        """Who did it."""
        return reveal(entry.actor_label)

    @column("Details")
    def details_shown(self, entry: Entry) -> SafeString:
        """The rest of what was noted."""
        return json_block(entry.details)

    @column("Organisation")
    def organization_shown(self, entry: Entry) -> SafeString:
        """Whose chain it is in."""
        owner = self.organization_of(entry)
        return link("accounts_organization", owner, "Organisation") if owner else badge("Platform")

    def get_urls(self) -> list[URLPattern]:
        """The list's addresses, and the one that verifies the chain."""
        view = self.admin_site.admin_view(self.verify_view)
        return [path("verify/", view, name="audit_entry_verify"), *super().get_urls()]

    def verify_view(self, request: HttpRequest) -> HttpResponse:
        """Check the chain from its first entry, and say what is broken."""
        if request.method == "POST" and self.has_view_permission(request):
            breaks = services.verify(actor_of(request).organization_id)
            for found in breaks[:BREAKS_AT_MOST]:
                messages.error(request, f"Entry {found.sequence} of chain {found.chain_id}: {found.why}")
            if not breaks:
                messages.success(request, "The chain is whole: no entry was changed, removed or added afterwards.")
        return HttpResponseRedirect(reverse("admin:audit_entry_changelist"))
