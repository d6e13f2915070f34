"""The page that tells how a server has fared, and tries each step of reaching it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.core.actor import Actor
from apps.core.errors import NotFound
from apps.core.staff import Chart, Line, TenantAdmin, ago, badge, chart, milliseconds, reveal
from apps.core.staff.deeds import deeds_of
from apps.registry import services
from apps.registry.admin.looks import breaker_badge, health_badge, server_state, took
from apps.registry.models import Server
from apps.registry.schemas import HealthOut, LatencyOut, Period

PERIOD_NAMES = {Period.DAY: "24 hours", Period.WEEK: "7 days", Period.MONTH: "30 days"}
STEPS = {Period.DAY: timedelta(hours=1), Period.WEEK: timedelta(hours=1), Period.MONTH: timedelta(days=1)}
LENGTHS = {Period.DAY: timedelta(days=1), Period.WEEK: timedelta(days=7), Period.MONTH: timedelta(days=30)}
FINE_PERCENT, POOR_PERCENT = 99.9, 95.0
NO_CHECK = LatencyOut(at=datetime.min)


class HealthPage(TenantAdmin):
    """Adds the page to that of a server."""

    def get_urls(self) -> list[URLPattern]:
        """Those of the rows, and the health of each."""
        view = self.admin_site.admin_view(self.health_view)
        return [path("<path:object_id>/health/", view, name="registry_server_health"), *super().get_urls()]

    def health_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """How the server has fared."""
        server = self.row_or_404(request, object_id)
        asked = request.GET.get("period", "")
        period = Period(asked) if asked in PERIOD_NAMES else Period.DAY
        try:
            shown = health_context(self.actor_for(request, server), server, period)
        except NotFound as error:
            raise Http404 from error
        shown["deeds"] = self.health_deeds(server) if self.may(request, "server.check") else []
        return TemplateResponse(request, TEMPLATE, self.page_context(request, server, **shown))

    def health_deeds(self, server: Server) -> list[dict[str, Any]]:
        """The buttons of the page, for whoever may check servers."""
        return [self._button(item, server) for item in deeds_of(type(self)) if item.name in DEEDS]


TEMPLATE = "staff/health.html"
DEEDS = ("test_connection", "check_now")


def health_url(server: Server) -> str:
    """Where the page of a server is."""
    return reverse("admin:registry_server_health", args=[server.pk])


def health_context(actor: Actor, server: Server, period: Period = Period.DAY) -> dict[str, Any]:
    """What the page shows of a server; raises NotFound for one that was removed."""
    found = services.get_health(actor, server_id=server.pk, period=period)
    return {
        "title": f"Health of {server}",
        "summary": [server_state(server), health_badge(found.health), breaker_badge(found.breaker)],
        "message": reveal(found.message) if found.message else "",
        "figures": _figures(found),
        "facts": _facts(found),
        "step": "day" if period == Period.MONTH else "hour",
        "span_name": f"the last {PERIOD_NAMES[period]}",
        "periods": [(each.value, name, each == period) for each, name in PERIOD_NAMES.items()],
        "health_url": health_url(server),
        "charts": _charts(found, period),
        "points": [_told(each, period) for each in reversed(found.latency)],
        "checks": [
            (ago(each.at), health_badge(each.health), took(each.latency_ms), reveal(each.message))
            for each in found.last_checks
        ],
        "check_columns": ("When", "Health", "Took", "Message"),
        "all_checks_url": f"{reverse('admin:registry_healthcheck_changelist')}?server__id__exact={server.pk}",
    }


def _figures(found: HealthOut) -> Sequence[tuple[str, str, str, str]]:
    """Label, value, note and tone of each."""
    uptime = found.uptime
    windows = (("24 hours", uptime.last_24_hours), ("7 days", uptime.last_7_days), ("30 days", uptime.last_30_days))
    last = "Not checked yet" if found.checked_at is None else f"checked {ago(found.checked_at)}"
    since = f"since {ago(found.failing_since)}" if found.failing_since else "the last check passed"
    return [
        *((f"Uptime, {name}", _percent(value), "of the checks passed", _tone(value)) for name, value in windows),
        ("Last check took", milliseconds(found.latency_ms), SafeString(last), "plain"),
        (
            "Failures in a row",
            str(found.consecutive_failures),
            SafeString(since if found.checked_at else "Not checked yet"),
            "bad" if found.consecutive_failures else "plain",
        ),
    ]


def _facts(found: HealthOut) -> Sequence[tuple[str, object]]:
    """What is known of the road to the server, in this process."""
    breaker = found.breaker
    facts: list[tuple[str, object]] = [
        ("Breaker", breaker_badge(breaker)),
        ("Calls that failed in a row", str(breaker.failures)),
        ("Next check", ago(found.next_check_at) if found.next_check_at else "None while the server is disabled"),
    ]
    if breaker.retry_after_seconds:
        facts.insert(1, ("Lets a call through", f"in {breaker.retry_after_seconds} s"))
    if breaker.crashes:
        facts.append(("Its process ended by itself", f"{breaker.crashes} times in a row"))
    if breaker.restart_after_seconds:
        facts.append(("Its process is started again", f"in {breaker.restart_after_seconds} s, when a call needs it"))
    return facts


def _percent(value: float | None) -> str:
    return "No check" if value is None else f"{value:g} %"


def _tone(value: float | None) -> str:
    if value is None or value >= FINE_PERCENT:
        return "plain"
    return "warn" if value >= POOR_PERCENT else "bad"


def _charts(found: HealthOut, period: Period) -> Sequence[Chart]:
    if not found.latency:
        return ()
    slots = _slots(found.latency, period)
    return _latency_chart(found, slots, period), _checks_chart(slots, period)


def _slots(points: Sequence[LatencyOut], period: Period) -> Mapping[datetime, LatencyOut]:
    """Every hour or day of the period, those without a check too: a gap is to be seen as one."""
    known = {each.at: each for each in points}
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    last = now.replace(hour=0) if period == Period.MONTH else now
    count = LENGTHS[period] // STEPS[period]
    times = [last - STEPS[period] * back for back in range(count, -1, -1)]
    return {at: known.get(at, NO_CHECK) for at in times}


def _latency_chart(found: HealthOut, slots: Mapping[datetime, LatencyOut], period: Period) -> Chart:
    passed = [each for each in found.latency if each.passed]
    average = sum((each.latency_ms or 0) * each.passed for each in passed) / max(1, sum(each.passed for each in passed))
    most = max((each.latency_ms_most or 0 for each in passed), default=0)
    said = f"on average {milliseconds(average)}, at most {milliseconds(most)}" if passed else "no check passed"
    lines = [
        Line("average", "--gh-accent", [_rounded(each.latency_ms) for each in slots.values()]),
        Line("slowest", "--gh-info", [_rounded(each.latency_ms_most) for each in slots.values()]),
    ]
    title = f"Milliseconds of checks by {'day' if period == Period.MONTH else 'hour'}"
    return chart("line", title, said, lines, _labels(slots, period), spans_gaps=False)


def _checks_chart(slots: Mapping[datetime, LatencyOut], period: Period) -> Chart:
    checks, passed = (sum(getattr(each, what) for each in slots.values()) for what in ("checks", "passed"))
    lines = [
        Line("passed", "--gh-good", [each.passed for each in slots.values()]),
        Line("failed", "--gh-bad", [each.checks - each.passed for each in slots.values()]),
    ]
    title = f"Checks by {'day' if period == Period.MONTH else 'hour'}"
    return chart("bar", title, f"{checks - passed:,} of {checks:,} failed", lines, _labels(slots, period))


def _labels(slots: Mapping[datetime, LatencyOut], period: Period) -> list[str]:
    return [f"{at:%H}:00" if period == Period.DAY else f"{at.day} {at:%b}" for at in slots]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _told(point: LatencyOut, period: Period) -> Sequence[object]:
    """A row of the table that says what the charts show."""
    when = f"{point.at:%Y-%m-%d}" if period == Period.MONTH else f"{point.at:%Y-%m-%d %H}:00"
    failed = point.checks - point.passed
    return [
        when,
        f"{point.checks:,}",
        badge(f"{failed:,}", "bad") if failed else "0",
        milliseconds(point.latency_ms),
        milliseconds(point.latency_ms_most),
    ]
