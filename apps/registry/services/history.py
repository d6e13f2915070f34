"""How servers have fared: checks summed up by the hour, the share that passed, and how long they took.

Each check adds to the row of its hour, in its own transaction. Uptime is the share of checks that passed, counted from
the first whole hour of a window in those rows, and from single checks before it, so that a window begins where it says.
Single checks are kept for eight days; the window of thirty days begins with a whole hour.
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import Greatest
from django.utils import timezone

from apps.core.actor import Actor
from apps.core.loader import load
from apps.registry.models import Health, HealthCheck, HealthHour, Server
from apps.registry.schemas import BreakerOut, CheckOut, HealthOut, LatencyOut, Period, Uptime
from apps.registry.services.servers import get_server

KEPT_CHECKS = timedelta(days=8)
KEPT_HOURS = timedelta(days=31)
HOUR = timedelta(hours=1)
LAST_CHECKS = 10
WINDOWS = {
    "last_24_hours": timedelta(days=1),
    "last_7_days": timedelta(days=7),
    "last_30_days": timedelta(days=30),
}
PERIODS = {Period.DAY: timedelta(days=1), Period.WEEK: timedelta(days=7), Period.MONTH: timedelta(days=30)}


def get_health(actor: Actor, *, server_id: UUID, period: Period = Period.DAY) -> HealthOut:
    """How a server fares and has fared; the breaker is that of the process that answers."""
    server = get_server(actor, server_id=server_id)
    last = server.health_checks.for_org(server.organization_id).order_by("-at")[:LAST_CHECKS]
    return HealthOut(
        health=Health(server.health), message=server.health_message, latency_ms=server.latency_ms,
        consecutive_failures=server.consecutive_failures, failing_since=server.failing_since,
        checked_at=server.checked_at, next_check_at=server.check_due_at if server.is_enabled else None,
        breaker=breaker_of(server), uptime=uptime_of(server), period=period, latency=latency_of(server, period),
        last_checks=[CheckOut.model_validate(check) for check in last],
    )  # fmt: skip


def breaker_of(server: Server) -> BreakerOut:
    """Whether this process lets calls through. The road is above this app, so settings name who answers."""
    found: BreakerOut = load(settings.BREAKER_STATE)(server.id)
    return found


def uptime_of(server: Server) -> Uptime:
    """The share of passed checks over a day, a week and a month; nothing where there was no check."""
    now = timezone.now()
    begins = {name: _begin(now, window) for name, window in WINDOWS.items()}
    hours = HealthHour.objects.for_org(server.organization_id)
    rows = hours.filter(server=server, at__gte=min(begins.values())).order_by()
    whole = {name: Q(at__gte=_next_hour(begin)) for name, begin in begins.items()}
    checks = rows.aggregate(**{name: Sum("checks", filter=within, default=0) for name, within in whole.items()})
    passed = rows.aggregate(**{name: Sum("passed", filter=within, default=0) for name, within in whole.items()})
    for name, begin in begins.items():
        before = _singles(server, begin)
        checks[name] += before["checks"]
        passed[name] += before["passed"]
    return Uptime(**{name: _percentage(passed[name], checks[name]) for name in WINDOWS})


def _singles(server: Server, begin: datetime) -> dict[str, int]:
    """The checks from then to the next whole hour; a query for each window, for a range is read from the index."""
    if begin == _whole_hour(begin):
        return {"checks": 0, "passed": 0}
    checks = HealthCheck.objects.for_org(server.organization_id)
    rows = checks.filter(server=server, at__gte=begin, at__lt=_next_hour(begin)).order_by()
    return rows.aggregate(checks=Count("pk"), passed=Count("pk", filter=~Q(health=Health.UNHEALTHY)))


def latency_of(server: Server, period: Period) -> list[LatencyOut]:
    """What checks took, by the hour, for thirty days by the day (UTC); an hour or day without a check is left out."""
    since = _whole_hour(timezone.now() - PERIODS[period])
    points: dict[datetime, LatencyOut] = {}
    for hour in HealthHour.objects.for_org(server.organization_id).filter(server=server, at__gte=since).order_by("at"):
        at = hour.at.replace(hour=0) if period == Period.MONTH else hour.at
        point = points.setdefault(at, LatencyOut(at=at))
        point.add(hour.checks, hour.passed, hour.latency_ms_total, hour.latency_ms_most)
    return list(points.values())


def add_to_hour(check: HealthCheck) -> None:
    """Add a check to its hour, and forget what is too old; in the transaction that holds the server's row."""
    passed = int(check.health != Health.UNHEALTHY)
    took = (check.latency_ms or 0.0) * passed
    at = _whole_hour(check.at)
    known = HealthHour.objects.filter(server_id=check.server_id, at=at).update(
        checks=F("checks") + 1, passed=F("passed") + passed, latency_ms_total=F("latency_ms_total") + took,
        latency_ms_most=Greatest(F("latency_ms_most"), took), updated_at=check.at,
    )  # fmt: skip
    if known:
        return
    HealthHour(
        organization_id=check.organization_id, server_id=check.server_id, at=at, checks=1, passed=passed,
        latency_ms_total=took, latency_ms_most=took,
    ).store()  # fmt: skip
    HealthCheck.objects.filter(server_id=check.server_id, at__lt=check.at - KEPT_CHECKS).delete()
    HealthHour.objects.filter(server_id=check.server_id, at__lt=check.at - KEPT_HOURS).delete()


def _begin(now: datetime, window: timedelta) -> datetime:
    begin = now - window
    return begin if window < KEPT_CHECKS else _whole_hour(begin)


def _whole_hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _next_hour(at: datetime) -> datetime:
    """The first whole hour from then on."""
    whole = _whole_hour(at)
    return whole if whole == at else whole + HOUR


def _percentage(passed: int, checks: int) -> float | None:
    """To three digits, downwards: a server that failed once was not up all the time."""
    return (100_000 * passed // checks) / 1000 if checks else None
