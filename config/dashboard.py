"""The dashboard of the control room: what happened in the last day, how the servers fare, what waits for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import Count
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from apps.core.actor import Actor
from apps.core.staff import actor_of, ago, code, link, milliseconds, reveal
from apps.usage import services as usage

if TYPE_CHECKING:
    from config.staff import StaffSite

HOURS = 24
SHOWN = 6
HEALTHS = (
    ("healthy", "Healthy", "good"),
    ("degraded", "Degraded", "warn"),
    ("unhealthy", "Unhealthy", "bad"),
    ("unknown", "Unknown", "quiet"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, what it counts, and where its rows are."""

    label: str
    value: str
    note: str
    url: str
    tone: str = "plain"


@dataclass(frozen=True, slots=True)
class Bar:
    """The calls of an hour, as heights in per cent of the busiest hour."""

    title: str
    hour: str
    fine: float
    errors: float
    denied: float


def dashboard(site: "StaffSite", request: HttpRequest) -> dict[str, Any]:
    """What the overview shows; each part only to those who may see its rows."""
    actor = actor_of(request)
    since = timezone.now() - timedelta(hours=HOURS)
    servers = site.page_of("registry_server")
    shown: dict[str, Any] = {"organization_chosen": actor.organization_id is not None}
    if servers and actor.can("server.read"):
        present = servers.findable(request)
        shown.update(has_servers=present.exists(), healths=_healths(present), waiting=_waiting(site, request))
        shown["steps"] = _first_steps(actor) if not shown["has_servers"] else ()
    if actor.can("usage.read"):
        shown.update(figures=_figures(actor, since), bars=_bars(site, request, since), denials=_denials(actor))
    if actor.can("audit.read"):
        journal = site.page_of("audit_entry")
        entries = journal.get_queryset(request)[:SHOWN]
        shown.update(journal_columns=journal.brief_columns, journal=journal.brief_rows(entries))
    return shown


def _figures(actor: Actor, since: datetime) -> list[Figure]:
    found = usage.summarize(actor.organization_id, since=since)
    events = reverse("admin:usage_usageevent_changelist")
    return [
        Figure("Calls", f"{found.calls:,}", "in 24 hours", events),
        Figure(
            "Errors",
            f"{found.errors:,}",
            _share(found.errors, found.calls),
            f"{events}?status__exact=error",
            "warn" if found.errors else "plain",
        ),
        Figure(
            "Denied",
            f"{found.denied:,}",
            _share(found.denied, found.calls),
            f"{events}?status__exact=denied",
            "bad" if found.denied else "plain",
        ),
        Figure("Median", milliseconds(found.p50_ms), "p50, arrival to answer", events),
        Figure("Slowest 5 %", milliseconds(found.p95_ms), "p95, arrival to answer", events),
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of calls" if whole else "no calls yet"


def _bars(site: "StaffSite", request: HttpRequest, since: datetime) -> list[Bar]:
    counted = site.page_of("usage_usageevent").by_hour(request, since)
    first = since.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    hours = [first + timedelta(hours=number) for number in range(HOURS)]
    busiest = max((counted[hour]["calls"] for hour in hours if hour in counted), default=0)
    return [_bar(hour, counted.get(hour), busiest) for hour in hours] if busiest else []


def _bar(hour: datetime, row: dict[str, Any] | None, busiest: int) -> Bar:
    calls, errors, denied = (row["calls"], row["errors"], row["denied"]) if row else (0, 0, 0)
    title = f"{hour:%H}:00 UTC: {calls:,} calls, {errors:,} errors, {denied:,} denied"
    fine = calls - errors - denied
    return Bar(title, f"{hour:%H}", *(round(100 * each / busiest, 2) for each in (fine, errors, denied)))


def _healths(servers: Any) -> list[dict[str, Any]]:
    counts = dict(servers.order_by().values_list("health").annotate(count=Count("pk", distinct=True)))
    url = reverse("admin:registry_server_changelist")
    return [
        {"label": label, "tone": tone, "count": counts.get(key, 0), "url": f"{url}?health__exact={key}"}
        for key, label, tone in HEALTHS
    ]


def _waiting(site: "StaffSite", request: HttpRequest) -> dict[str, Any]:
    """Servers and capabilities that wait for approval, and how many there are in all."""
    rows: list[dict[str, Any]] = []
    total = 0
    for name, kind in (("registry_server", "Server"), ("registry_capability", "Capability")):
        found = site.page_of(name).waiting(request)
        total += found.count()
        rows += [
            {"kind": kind, "link": link(name, row.pk, reveal(str(row))), "at": ago(row.updated_at)}
            for row in found[:SHOWN]
        ]
    return {"rows": rows[:SHOWN], "total": total}


def _denials(actor: Actor) -> Sequence[Sequence[object]]:
    return [
        (
            link("usage_usageevent", each.pk, ago(each.at)),
            code(each.name or each.method),
            reveal(each.actor_label),
            code(each.error_code),
        )
        for each in usage.latest_denials(actor.organization_id, limit=SHOWN)
    ]


def _first_steps(actor: Actor) -> list[dict[str, str]]:
    add = reverse("admin:registry_server_add") if actor.organization_id else ""
    key = reverse("admin:accounts_apikey_add") if actor.organization_id else ""
    return [
        {
            "icon": "dns",
            "title": "Add a server",
            "text": "Give the address of an MCP server that your agents should use.",
            "url": add,
        },
        {
            "icon": "verified",
            "title": "Approve it",
            "text": "Test the connection, discover its tools, read them, then approve the server.",
            "url": "",
        },
        {
            "icon": "key",
            "title": "Make a key",
            "text": "An agent signs in with an API key. It is shown once.",
            "url": key,
        },
        {
            "icon": "smart_toy",
            "title": "Connect an agent",
            "text": "Point it at /mcp with the key. Its calls appear here.",
            "url": "",
        },
    ]
