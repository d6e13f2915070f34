"""The dashboard of the control room: what was called, how the servers fare, what waits for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Count
from django.http import HttpRequest
from django.urls import reverse

from apps.core.actor import Actor
from apps.core.staff import Chart, Line, actor_of, ago, chart, code, link, milliseconds, reveal
from apps.usage import services as usage
from config.first_steps import first_steps

if TYPE_CHECKING:
    from config.staff import StaffSite

SHOWN = 6
SPAN_NAMES = {"24h": "24 hours", "7d": "7 days", "30d": "30 days"}
USUAL_SPAN = "24h"
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


def dashboard(site: "StaffSite", request: HttpRequest) -> dict[str, Any]:
    """What the overview shows; each part only to those who may see its rows."""
    actor = actor_of(request)
    servers = site.page_of("registry_server")
    shown: dict[str, Any] = {
        "steps": first_steps(site, request),
        "must_choose": actor.organization_id is None and not usage.has_been_called(None),
    }
    if servers and actor.can("server.read"):
        shown.update(healths=_healths(servers.findable(request)), waiting=_waiting(site, request))
    if actor.can("usage.read"):
        shown.update(_usage(actor, request.GET.get("span", "")), denials=_denials(actor))
    if actor.can("audit.read"):
        journal = site.page_of("audit_entry")
        entries = journal.get_queryset(request)[:SHOWN]
        shown.update(journal_columns=journal.brief_columns, journal=journal.brief_rows(entries))
    return shown


# Calls ------------------------------------------------------------------------------------------------------------


def _usage(actor: Actor, asked_for: str) -> dict[str, Any]:
    chosen = asked_for if asked_for in usage.SPANS else USUAL_SPAN
    span = usage.SPANS[chosen]
    overview = usage.look_back(actor.organization_id, span=span)
    return {
        "span": chosen,
        "span_name": SPAN_NAMES[chosen],
        "spans": [{"key": key, "name": name, "is_chosen": key == chosen} for key, name in SPAN_NAMES.items()],
        "step": span.period.label.lower(),
        "figures": _figures(overview.total, SPAN_NAMES[chosen]),
        "has_calls": overview.total.calls > 0,
        "charts": [_calls_chart(overview, span), _latency_chart(overview, span)],
        "points": [_told(point, span) for point in reversed(overview.points)],
        "busiest": _busiest(actor, span),
    }


def _figures(total: usage.Figures, span_name: str) -> list[Figure]:
    events = reverse("admin:usage_usageevent_changelist")
    return [
        Figure("Calls", f"{total.calls:,}", f"in {span_name}", events),
        Figure(
            "Errors",
            f"{total.errors:,}",
            _share(total.errors, total.calls),
            f"{events}?status__exact=error",
            "warn" if total.errors else "plain",
        ),
        Figure(
            "Denied",
            f"{total.denied:,}",
            _share(total.denied, total.calls),
            f"{events}?status__exact=denied",
            "bad" if total.denied else "plain",
        ),
        Figure("Median", _about(total.p50_ms), "p50, within a fifth", events),
        Figure("Slowest 5 %", _about(total.p95_ms), "p95, within a fifth", events),
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of calls" if whole else "no calls yet"


def _about(latency_ms: float | None) -> str:
    """Percentiles come from buckets: more digits would pretend."""
    return milliseconds(latency_ms if latency_ms is None else float(f"{latency_ms:.2g}"))


def _calls_chart(overview: usage.Overview, span: usage.Span) -> Chart:
    total, points = overview.total, overview.points
    lines = [
        Line(
            "fine", "--gh-accent", [each.figures.calls - each.figures.errors - each.figures.denied for each in points]
        ),
        Line("errors", "--gh-warn", [each.figures.errors for each in points]),
        Line("denied", "--gh-bad", [each.figures.denied for each in points]),
    ]
    said = f"{total.calls:,} calls, {total.errors:,} of them errors and {total.denied:,} denied"
    return chart("bar", f"Calls by {span.period.label.lower()}", said, lines, _labels(points, span))


def _latency_chart(overview: usage.Overview, span: usage.Span) -> Chart:
    points = overview.points
    lines = [
        Line("p50", "--gh-accent", [each.figures.p50_ms for each in points]),
        Line("p95", "--gh-info", [each.figures.p95_ms for each in points]),
    ]
    said = f"half took at most {_about(overview.total.p50_ms)}, 95 % at most {_about(overview.total.p95_ms)}"
    return chart("line", f"Milliseconds by {span.period.label.lower()}", said, lines, _labels(points, span))


def _labels(points: Sequence[usage.Point], span: usage.Span) -> list[str]:
    return [_short(point, span) for point in points]


def _short(point: usage.Point, span: usage.Span) -> str:
    is_hours = span == usage.SPANS["24h"]
    return f"{point.starts_at:%H}:00" if is_hours else f"{point.starts_at.day} {point.starts_at:%b}"


def _told(point: usage.Point, span: usage.Span) -> list[str]:
    """A row of the table that says what the charts show."""
    found = point.figures
    when = f"{point.starts_at:%Y-%m-%d}" + (f" {_short(point, span)}" if span == usage.SPANS["24h"] else "")
    counts = (f"{number:,}" for number in (found.calls, found.errors, found.denied))
    return [when, *counts, _about(found.p50_ms), _about(found.p95_ms)]


def _busiest(actor: Actor, span: usage.Span) -> Sequence[Sequence[object]]:
    return [
        (
            code(each.name) if each.name else "names that no tool has",
            f"{each.figures.calls:,}",
            f"{each.figures.errors:,}",
            f"{each.figures.denied:,}",
            _about(each.figures.p95_ms),
        )
        for each in usage.busiest_tools(actor.organization_id, span=span, limit=SHOWN)
    ]


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


# Servers ----------------------------------------------------------------------------------------------------------


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
