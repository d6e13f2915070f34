"""Staff pages of servers."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.actor import Actor
from apps.core.staff import (
    Panel,
    actor_of,
    ago,
    badge,
    choices_filter,
    code,
    column,
    json_block,
    link,
    reveal,
    text_block,
    words,
)
from apps.registry import services
from apps.registry.admin.filters import ApprovalFilter, RemovedFilter
from apps.registry.admin.forms import ServerForm
from apps.registry.admin.health import health_url
from apps.registry.admin.looks import (
    capability_state,
    environment_badge,
    health_badge,
    server_state,
    took,
    warning_badge,
)
from apps.registry.admin.server_deeds import ServerDeeds
from apps.registry.models import Server, Transport

ROWS_SHOWN = 6
DEFAULT_CHECK_SECONDS = Server._meta.get_field("check_interval_seconds").get_default()


@admin.register(Server)
class ServerAdmin(ServerDeeds):
    """Register, look at, approve and switch off servers."""

    form = ServerForm
    view_permission = "server.read"
    add_permission = change_permission = "server.write"
    intro = "Agents use a server once it is approved and enabled. What it adds later waits."
    panels_first = True
    empty_title = "No server yet"
    empty_text = "Add the address of an MCP server. Gatehouse reads what it offers; look at it, and approve it."

    list_display = ("name_and_slug", "state", "health_now", "tool_count", "environment_shown", "transport", "checked")
    list_display_links = ("name_and_slug",)
    list_filter = (
        ApprovalFilter, choices_filter("health"), choices_filter("environment"), choices_filter("transport"),
        "is_enabled", RemovedFilter,
    )  # fmt: skip
    search_fields = ("name", "slug")
    search_help_text = "Search by name or slug"
    sortable_by = ("name_and_slug",)
    ordering = ("name",)

    # What the page shows

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With the numbers of capabilities, and of those that wait for approval."""
        here = Q(capabilities__removed_at=None)
        waits = here & ~Q(capabilities__approved_digest=F("capabilities__digest"))
        counts = {"offered": Count("capabilities", filter=here), "waits": Count("capabilities", filter=waits)}
        rows: QuerySet[Any] = super().get_queryset(request).annotate(**counts)
        return rows

    def waiting(self, request: HttpRequest) -> QuerySet[Any]:
        """Those that wait for approval, the oldest first."""
        return self.get_queryset(request).present().filter(approved_at=None).order_by("created_at")  # type: ignore[attr-defined, no-any-return]

    def findable(self, request: HttpRequest) -> QuerySet[Any]:
        """Those that the search of the menu offers."""
        return self.get_queryset(request).present()  # type: ignore[attr-defined, no-any-return]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """In the order in which one thinks of a server: what it is, where it is, what it may, how it is watched."""
        is_stdio = obj.transport == Transport.STDIO if obj else actor_of(request).is_platform_admin
        is_http = obj is None or obj.transport != Transport.STDIO
        command = ["command", "env"] if self.has_change_permission(request, obj) else ["command_shown", "env_shown"]
        reached = [
            "transport", *(["url"] if is_http else []), *([*command, "isolate_sessions"] if is_stdio else []),
        ]  # fmt: skip
        sets: list[tuple[str | None, dict[str, Any]]] = [
            (None, {"fields": ["name", "slug", "description", ("environment", "owner_label"), "tags"]}),
            ("How it is reached", {"fields": reached}),
            ("What it may use", {"fields": [("timeout_seconds", "max_concurrency")]}),
            (
                "How it is watched",
                {"fields": [("check_interval_seconds", "check_timeout_seconds"), "check_retries", "is_critical"]},
            ),
        ]
        if obj:
            sets.append(("What it says of itself", {"fields": ["protocol", "server_info_shown", "instructions_shown"]}))
        return sets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        """What a server says itself, and what it keeps for life."""
        shown = ("protocol", "server_info_shown", "instructions_shown", "command_shown", "env_shown")
        return shown if obj is None else (*shown, "slug", "transport")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A stdio server runs a command here: only platform admins change it. A removed one stays as it was."""
        if obj is not None and (
            obj.deleted_at or (obj.transport == Transport.STDIO and not actor_of(request).is_platform_admin)
        ):
            return False
        return super().has_change_permission(request, obj)

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """stdio is offered to platform admins only."""
        if db_field.name == "transport" and not actor_of(request).is_platform_admin:
            options["choices"] = [choice for choice in Transport.choices if choice[0] != Transport.STDIO]
        return super().formfield_for_choice_field(db_field, request, **options)

    def summary(self, row: Server) -> Sequence[object]:
        """Whether agents may use it, and how it fares."""
        shown = [server_state(row), health_badge(row.health, row.health_message), environment_badge(row.environment)]
        if row.is_critical:
            shown.append(badge("Critical", "info"))
        if row.health_message:
            shown.append(format_html('<span class="gh-note">{}</span>', reveal(row.health_message)))
        return shown

    def panels(self, request: HttpRequest, row: Server) -> Sequence[Panel]:
        """Its capabilities, credentials, checks and discoveries."""
        return [self._capabilities(row), self._credentials(request, row), self._checks(row), self._discoveries(row)]

    def _capabilities(self, server: Server) -> Panel:
        shown = server.capabilities.for_org(server.organization_id).filter(removed_at=None)
        rows = [
            (
                link("registry_capability", each.pk, code(each.name)),
                each.get_kind_display(),
                capability_state(each),
                warning_badge(each),
            )
            for each in shown[:ROWS_SHOWN]
        ]
        return Panel(
            "What it offers",
            ("Name", "Kind", "State", ""),
            rows,
            "Nothing known yet. Discover the server to read its tools, resources and prompts.",
            more_url=_list_url("capability", server),
            more_label="All capabilities",
        )

    def _credentials(self, request: HttpRequest, server: Server) -> Panel:
        rows = [
            (
                link("registry_credential", each.pk, each.get_kind_display()),
                each.header or each.username or "",
                ago(each.created_at),
            )
            for each in server.credentials.for_org(server.organization_id)[:ROWS_SHOWN]
        ]
        may_add = self.has_change_permission(request, server) and actor_of(request).organization_id is not None
        return Panel(
            "Credentials",
            ("Kind", "Header or user", "Added"),
            rows,
            "None: Gatehouse calls this server without a credential.",
            add_url=f"{reverse('admin:registry_credential_add')}?server={server.pk}" if may_add else "",
            add_label="Add a credential",
        )

    def _checks(self, server: Server) -> Panel:
        rows = [
            (ago(each.at), health_badge(each.health), took(each.latency_ms), reveal(each.message))
            for each in server.health_checks.for_org(server.organization_id).order_by("-at")[:ROWS_SHOWN]
        ]
        return Panel(
            "Last checks",
            ("When", "Health", "Took", ""),
            rows,
            "Not checked yet.",
            more_url=_list_url("healthcheck", server) if server.deleted_at else health_url(server),
            more_label="All checks" if server.deleted_at else "Health and uptime",
        )

    def _discoveries(self, server: Server) -> Panel:
        rows = [
            (
                link("registry_discovery", each.pk, ago(each.created_at)),
                each.total,
                f"+{len(each.added)} ~{len(each.changed)} -{len(each.removed)}",
                badge("Failed", "bad", title=each.error) if each.error else badge("Done", "good"),
            )
            for each in server.discoveries.for_org(server.organization_id)[:ROWS_SHOWN]
        ]
        columns = ("When", "Offered", "Added, changed, removed", "")
        return Panel("Discoveries", columns, rows, "Not discovered yet.", more_url=_list_url("discovery", server))

    @column("Name", ordering="name", header=True)
    def name_and_slug(self, server: Server) -> tuple[str, str]:
        """The name, and below it the slug that its tools begin with."""
        return server.name, server.slug

    @column("State")
    def state(self, server: Server) -> SafeString:
        """Whether agents may use it."""
        return server_state(server)

    @column("Health")
    def health_now(self, server: Server) -> SafeString:
        """How it fares."""
        return health_badge(server.health, server.health_message)

    @column("Offers")
    def tool_count(self, server: Any) -> SafeString:
        """How many capabilities it has, and how many of them wait for approval."""
        waiting = badge(f"{server.waits} waiting", "warn") if server.waits and server.is_approved else ""
        return format_html("{} {}", server.offered, waiting)

    @column("Environment")
    def environment_shown(self, server: Server) -> SafeString:
        """What it is used for."""
        return environment_badge(server.environment)

    @column("Checked")
    def checked(self, server: Server) -> SafeString:
        """When it was last checked."""
        return ago(server.checked_at)

    @column("Protocol")
    def protocol(self, server: Server) -> SafeString:
        """The revision it spoke when it was last discovered, and when that was."""
        return SafeString(
            f"{code(server.protocol_version)} {ago(server.discovered_at)}"
            if server.protocol_version
            else "Not discovered yet"
        )

    @column("Server")
    def server_info_shown(self, server: Server) -> SafeString:
        """What it calls itself."""
        return json_block(server.server_info)

    @column("Instructions")
    def instructions_shown(self, server: Server) -> SafeString:
        """What it tells agents, nothing hidden."""
        return text_block(server.instructions)

    @column("Command")
    def command_shown(self, server: Server) -> SafeString:
        """The exact command."""
        return code(" ".join(map(str, server.command)))

    @column("Environment variables")
    def env_shown(self, server: Server) -> SafeString:
        """The names of its variables."""
        return words(server.env_names)

    # Saving

    def create(self, actor: Actor, values: dict[str, Any]) -> Server:
        """Register a server."""
        if values["transport"] == Transport.STDIO and values["check_interval_seconds"] == DEFAULT_CHECK_SECONDS:
            del values["check_interval_seconds"]  # the service knows a better one: each check starts a process
        return services.register_server(actor, **values)

    def update(self, actor: Actor, row: Server, values: dict[str, Any]) -> Server:
        """Change a server."""
        return services.update_server(actor, server_id=row.pk, **values)

    def response_add(self, request: HttpRequest, obj: Server, post_url_continue: str | None = None) -> HttpResponse:
        """Begin to read what the new server offers, and show its page: what comes next is done there."""
        services.start_discovery(actor_of(request), server_id=obj.pk)
        messages.success(
            request,
            f"{obj} is known now, and Gatehouse reads what it offers. Load this page again in a moment, look at what"
            " was found, and approve the server.",
        )
        return HttpResponseRedirect(self.url_of(obj))


def _list_url(model: str, server: Server) -> str:
    return f"{reverse(f'admin:registry_{model}_changelist')}?server__id__exact={server.pk}"
