"""Health: looking at servers on a schedule and on demand, and telling how they have fared."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from queue import SimpleQueue
from uuid import UUID

from django.db import OperationalError, transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.actor import Actor, system_actor
from apps.core.doors import storable_text
from apps.core.errors import BackendError, Conflict, NotFound, ServiceError
from apps.core.schemas import Page, PageQuery, page_of
from apps.registry.backends.base import ServerRoute, UpstreamError
from apps.registry.backends.wire import MODERN
from apps.registry.models import Health, HealthCheck, Server
from apps.registry.services.history import add_to_hour
from apps.registry.services.reading import run_short
from apps.registry.services.routes import connect, route_of
from apps.registry.services.servers import get_server

logger = logging.getLogger(__name__)

CHECKS_AT_ONCE = 8
CHECKS_OF_ONE_ORGANIZATION = 4
MOST_IN_A_ROUND = 280
PACE_SECONDS = 0.2
"""Checks begin four at a time, this far apart: those of a thousand servers slow no call down for seconds on end.

A full round begins its last check before the next round is due, and a thousand servers are looked at every minute.
"""
ROUND_SECONDS = 30.0
"""A round begins no check later than this; who then still waits is due in the next round."""
LONGEST_ON_DEMAND_SECONDS = 30.0
LONGEST_SECONDS = 120.0
CLAIM_SECONDS = ROUND_SECONDS + LONGEST_SECONDS + 10
SLOW_SHARE = 0.5
"""A check that takes more than this share of its time limit counts as degraded."""
_LOCK_NOT_AVAILABLE = "55P03"
_NOTED = (
    "organization_id", "slug", "health", "consecutive_failures", "failing_since", "check_interval_seconds",
    "protocol_version", "url", "command", "env",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Plan:
    """One check to make."""

    server: Server
    route: ServerRoute
    retries: int


@dataclass(frozen=True, slots=True)
class _Finding:
    """How a check went."""

    health: str
    latency_ms: float | None
    message: str
    protocol_version: str = ""


def check_server(actor: Actor, *, server_id: UUID) -> HealthCheck:
    """Look at a server now, and note how it fares."""
    server = get_server(actor, server_id=server_id)
    actor.require("server.check")
    plan = _plan_of(server)
    finding = run_short(lambda: _check_within(plan, LONGEST_ON_DEMAND_SECONDS)) if isinstance(plan, _Plan) else plan
    return _note(actor, server, finding)


def check_due_servers() -> int:
    """Look at the servers whose time has come, several at once; returns how many.

    Rounds may overlap, for a server that hangs takes its time. An organisation is in one round at a time and has its
    share of it, so that its servers that hang hold one worker and nobody else's checks.
    """
    due = _claim_due(timezone.now())
    for server, finding in _findings(due):
        if finding is None:
            _release(server)
            continue
        try:
            _note(system_actor(server.organization_id), server, finding, ends_claim=True)
        except (NotFound, Conflict):
            logger.info("server %s was deleted or changed while it was checked", server.slug)
            _release(server)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", "") != _LOCK_NOT_AVAILABLE:
                raise
            logger.warning("the check of %s was not noted: its row is held for long. It is repeated soon", server.slug)
    return len(due)


def list_checks(actor: Actor, *, server_id: UUID, page: PageQuery) -> Page:
    """The checks of a server, the newest first."""
    server = get_server(actor, server_id=server_id)
    return page_of(HealthCheck.objects.for_org(actor.organization_id).filter(server=server), page)


def count_failing_critical_servers() -> int:
    """How many critical servers, of all organisations, failed their last check."""
    return Server.objects.usable().filter(is_critical=True, health=Health.UNHEALTHY).count()


def _claim_due(now: datetime) -> list[Server]:
    """The servers whose time has come; another process that looks at the same moment finds them taken.

    They stay due: should this process die, they are looked at when the claim ends.
    """
    busy = list(Server.objects.filter(checking_until__gt=now).values_list("organization_id", flat=True).distinct())
    with transaction.atomic():
        due = Server.objects.due(now).exclude(checking_until__gt=now).exclude(organization_id__in=busy)
        held = due.select_for_update(skip_locked=True, of=("self",), no_key=True).prefetch_related("credentials")
        found = list(held[:MOST_IN_A_ROUND])
        until = now + timedelta(seconds=CLAIM_SECONDS)
        Server.objects.filter(pk__in=[server.pk for server in found]).update(checking_until=until)
    return found


def _release(server: Server) -> None:
    Server.objects.filter(pk=server.pk).update(checking_until=None)


def _findings(servers: Sequence[Server]) -> Iterator[tuple[Server, _Finding | None]]:
    """How the checks went, each as soon as it is known; nothing for a server that the round did not come to."""
    found: SimpleQueue[tuple[Server, _Finding | None] | None] = SimpleQueue()
    plans = []
    for server in servers:
        plan = _plan_of(server)
        if isinstance(plan, _Plan):
            plans.append(plan)
        else:
            found.put((server, plan))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="checks") as pool:
        checking = pool.submit(run_short, lambda: _check_all(plans, found.put))
        checking.add_done_callback(lambda _: found.put(None))
        while (each := found.get()) is not None:
            yield each
        checking.result()


def _plan_of(server: Server) -> _Plan | _Finding:
    """How to check the server, or the finding that it cannot even be tried."""
    try:
        route = replace(route_of(server), timeout_seconds=server.check_timeout_seconds)
    except ServiceError as error:
        return _Finding(Health.UNHEALTHY, None, error.message)
    return _Plan(server, route, server.check_retries)


async def _check_all(plans: Sequence[_Plan], tell: Callable[[tuple[Server, _Finding | None]], None]) -> None:
    began = time.monotonic()
    slots = asyncio.Semaphore(CHECKS_AT_ONCE)
    shares = defaultdict[UUID, asyncio.Semaphore](lambda: asyncio.Semaphore(CHECKS_OF_ONE_ORGANIZATION))

    async def check(plan: _Plan, place: int) -> None:
        await asyncio.sleep(place // CHECKS_OF_ONE_ORGANIZATION * PACE_SECONDS)
        async with shares[plan.server.organization_id], slots:
            is_late = time.monotonic() - began > ROUND_SECONDS
            tell((plan.server, None if is_late else await _check_within(plan, LONGEST_SECONDS)))

    await asyncio.gather(*(check(plan, place) for place, plan in enumerate(plans)))


async def _check_within(plan: _Plan, seconds: float) -> _Finding:
    """Check, all retries included, for no longer than this: whoever waits, and the servers after it, wait as long."""
    try:
        async with asyncio.timeout(seconds):
            return await _check(plan)
    except TimeoutError:
        return _Finding(Health.UNHEALTHY, None, f"{plan.route.slug} did not answer within {seconds:g} seconds.")


async def _check(plan: _Plan) -> _Finding:
    """Try as often as the server's retries allow; the last failure counts."""
    route = plan.route
    for attempt in range(plan.retries + 1):
        started = time.monotonic()
        try:
            version = await _try(route)
        except BackendError as error:
            message = error.message
        except Exception:
            logger.exception("checking server %s failed", route.slug)
            message = "The check itself failed. Its error is in the log."
        else:
            seconds = time.monotonic() - started
            is_slow = seconds > route.timeout_seconds * SLOW_SHARE
            note = f"It took {seconds:.1f} of {route.timeout_seconds:g} seconds." if is_slow else ""
            return _Finding(Health.DEGRADED if is_slow else Health.HEALTHY, seconds * 1000, note, version)
        if attempt == 0:
            route = replace(route, protocol_version="")
    return _Finding(Health.UNHEALTHY, None, message)


async def _try(route: ServerRoute) -> str:
    """Open the server and hear from it; returns the revision it speaks."""
    # A known server of the newest revision is opened without a request, so it is asked to introduce itself again.
    known = "" if route.protocol_version == MODERN else route.protocol_version
    upstream = connect(replace(route, protocol_version=known))
    try:
        async with asyncio.timeout(route.timeout_seconds):
            hello = await upstream.open()
            if hello.protocol_version != MODERN:
                await upstream.request("ping", {}, timeout_seconds=route.timeout_seconds)
            return hello.protocol_version
    except TimeoutError as error:
        raise BackendError(f"{route.slug} did not answer within {route.timeout_seconds:g} seconds.") from error
    except UpstreamError:
        if upstream.is_open:  # it answered, if only to say that it knows no ping
            return upstream.protocol_version
        raise
    finally:
        await upstream.aclose()


def _note(actor: Actor, before: Server, finding: _Finding, *, ends_claim: bool = False) -> HealthCheck:
    """Note how it went; a round ends its claim in the same statement."""
    with transaction.atomic():
        # allowed: the row that was checked, held
        rows = Server.objects.select_for_update(no_key=True).present().filter(pk=before.pk)
        server = rows.only(*_NOTED).first()
        if server is None:
            raise NotFound("There is no such server.")
        if (server.url, server.command, server.env) != (before.url, before.command, before.env):
            raise Conflict("The server was changed while it was checked. Check it again.")
        now = timezone.now()
        failed = finding.health == Health.UNHEALTHY
        message = storable_text(finding.message)[:500]
        check = HealthCheck(
            organization_id=server.organization_id, server=server, at=now, health=finding.health,
            latency_ms=finding.latency_ms, message=message,
        )  # fmt: skip
        HealthCheck.objects.bulk_create([check])  # nobody wrote it who could be wrong: validating costs two queries
        changed = server.health != finding.health
        new_version = finding.protocol_version not in ("", server.protocol_version)
        Server.objects.filter(pk=server.pk).update(
            health=finding.health,
            health_message=message,
            latency_ms=finding.latency_ms,
            consecutive_failures=server.consecutive_failures + 1 if failed else 0,
            failing_since=(server.failing_since or now) if failed else None,
            checked_at=now,
            check_due_at=now + timedelta(seconds=server.check_interval_seconds),
            protocol_version=finding.protocol_version or server.protocol_version,
            **({"checking_until": None} if ends_claim else {}),
        )
        add_to_hour(check)
        if changed:
            details = {"from": server.health, "to": finding.health, "message": message}
            audit.record(actor, "server.health_changed", server, details=details)
        if changed or new_version:
            auth.raise_revision(server.organization_id)
    return check
