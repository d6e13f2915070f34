"""Whether it works: for whoever watches over it in a word, for staff in detail."""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django.apps import apps as installed
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from pydantic import Field

from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import BackendDown, MethodNotAllowed, NotAuthenticated, NotPermitted, ServiceError
from apps.core.schemas import LARGEST_PAGE, Check, Out, PageQuery
from apps.gateway import services as gateway
from apps.registry import services as registry
from apps.registry.schemas import ServerFilters
from config import rest
from config.apps import STARTED
from config.doctor.parts import examine_broker
from config.middleware import staff_actor

_READ_ONLY = ["GET", "HEAD"]
BROKER_SECONDS = 5.0
FOLDER_SECONDS = 2.0
PROBE_BYTES = 64 * 1024


# In a word ---------------------------------------------------------------------------------------------------------


ALIVE = {"status": "alive"}


def live(request: HttpRequest) -> HttpResponse:
    """Whether the process runs; touches nothing. In a web process `config/asgi.py` says so without coming here."""
    return JsonResponse(ALIVE)


def ready(request: HttpRequest) -> HttpResponse:
    """Whether this process may take traffic: its database answers. What else is wrong is told, and keeps nobody out."""
    database = _database()
    rest_of_us = [_cache()] if settings.ENV.redis_url else []
    return _answer([database, *rest_of_us], well=database.ok, good="ready", bad="not ready")


def health(request: HttpRequest) -> HttpResponse:
    """Whether everything that we depend on works, and which part does not."""
    return _answer(collect_checks(), good="healthy", bad="unhealthy")


def collect_checks() -> list[Check]:
    """The database's check, the cache's and those of every app that has a `health` room."""
    return [timed.check for timed in timed_checks()]


@dataclass(frozen=True, slots=True)
class Timed:
    """A check, and how long it took; those of one app are made together."""

    check: Check
    ms: float


def timed_checks() -> Iterator[Timed]:
    """Every check, one after the other."""
    for look in [lambda: [_database()], lambda: [_folder()], lambda: [_cache()], lambda: [_broker()], *_rooms()]:
        started = time.monotonic()
        checks = look()
        ms = (time.monotonic() - started) * 1000
        yield from (Timed(check, ms) for check in checks)


def _rooms() -> Iterator[Callable[[], list[Check]]]:
    for config in installed.get_app_configs():
        if config.name.startswith("apps.") and find_spec(f"{config.name}.health"):
            yield partial(_look_into, config.label, import_module(f"{config.name}.health").check)


def _look_into(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    try:
        return check()
    except (DatabaseError, InterfaceError):
        return [Check(name, ok=False, message="Not known: the database does not answer.")]


def _answer(checks: list[Check], *, good: str, bad: str, well: bool | None = None) -> HttpResponse:
    well = all(check.ok for check in checks) if well is None else well
    body = {
        "status": good if well else bad,
        "checks": {check.name: {"ok": check.ok, "message": check.message} for check in checks},
    }
    return JsonResponse(body, status=200 if well else 503)


def _database() -> Check:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (DatabaseError, InterfaceError):
        return Check("database", ok=False, message="The database does not answer.")
    return Check("database", ok=True)


def _folder() -> Check:
    """The data folder takes files: a full disk shows here before the database meets it."""
    refusal = _refusal_of_folder(int(time.monotonic() / FOLDER_SECONDS))
    if refusal is None:
        return Check("data folder", ok=True)
    if refusal == errno.ENOSPC:
        return Check("data folder", ok=False, message="Its disk is full. Make room; nothing can be changed until then.")
    return Check("data folder", ok=False, message=f"It cannot be written: {os.strerror(refusal).lower()}.")


@lru_cache(maxsize=1)
def _refusal_of_folder(_moment: int) -> int | None:
    """The error's number when a small file cannot be written there; looked at once in a while, for anybody may ask."""
    try:
        with tempfile.TemporaryFile(dir=settings.DATA_DIR, buffering=0) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno or errno.EIO
    return None


def _cache() -> Check:
    try:
        cache.set("gatehouse:health", 1, 5)
    except Exception:  # each cache backend raises errors of its own
        return Check("cache", ok=False, message="The cache does not answer; work goes on without it.")
    return Check("cache", ok=True)


def _broker() -> Check:
    if settings.ENV.broker_url and not _broker_answers(int(time.monotonic() / BROKER_SECONDS)):
        return Check("broker", ok=False, message="The broker does not answer; jobs wait in the database.")
    return Check("broker", ok=True)


@lru_cache(maxsize=1)
def _broker_answers(_moment: int) -> bool:
    """Looked at once in a while: anybody may ask, and each look is a connection."""
    return examine_broker().ok


# In detail ---------------------------------------------------------------------------------------------------------


class CheckOut(Out):
    """One part of the platform."""

    ok: bool
    message: str
    ms: float


class OpenOut(Out):
    """What this web process holds open: of the actor's organisation, or of all for a platform admin without one."""

    sessions: int = Field(description="MCP sessions of the 2025 era.")
    upstreams: int = Field(description="Connections to servers, stdio children among them.")
    children: int = Field(description="stdio children.")


class ServerHealthOut(Out):
    """A server of the organisation, as its last check found it."""

    slug: str
    is_enabled: bool
    is_approved: bool
    health: str
    health_message: str
    latency_ms: float | None
    consecutive_failures: int
    failing_since: datetime | None
    checked_at: datetime | None


class DetailsOut(Out):
    """Everything that staff may know about how the platform fares."""

    status: str
    version: str
    environment: str
    uptime_seconds: float = Field(description="Of the web process that answered.")
    checks: dict[str, CheckOut]
    open: OpenOut
    organization: str
    servers: list[ServerHealthOut]


def detailed(request: HttpRequest) -> HttpResponse:
    """All checks with their times, and the servers of the actor's own organisation; for staff alone."""
    try:
        if request.method not in _READ_ONLY:
            raise MethodNotAllowed(details={"allowed": _READ_ONLY})
        details = describe(_staff(request))
    except ServiceError as error:
        return rest.error_response(request, error)
    except (DatabaseError, InterfaceError):
        return rest.error_response(request, BackendDown("The database cannot be reached. /health says what else."))
    answer = JsonResponse(details.model_dump(mode="json"), status=200 if details.status == "healthy" else 503)
    answer["Cache-Control"] = "no-store"
    return answer


def describe(actor: Actor) -> DetailsOut:
    """The details, as this actor may know them."""
    timed = list(timed_checks())
    page = registry.list_servers(actor, filters=ServerFilters(ordering="slug"), page=PageQuery(page_size=LARGEST_PAGE))
    return DetailsOut(
        status="healthy" if all(each.check.ok for each in timed) else "unhealthy",
        version=settings.VERSION,
        environment=settings.ENV.env,
        uptime_seconds=round(time.monotonic() - STARTED, 1),
        checks={
            each.check.name: CheckOut(ok=each.check.ok, message=each.check.message, ms=round(each.ms, 2))
            for each in timed
        },
        open=_open(actor),
        organization=actor.organization_slug,
        servers=[ServerHealthOut.model_validate(server) for server in page.items],
    )


def _open(actor: Actor) -> OpenOut:
    from config.mcp_http import count_sessions

    held = gateway.count_open(actor.organization_id)
    return OpenOut(
        sessions=count_sessions(actor.organization_id), upstreams=held.upstreams, children=held.children
    )  # fmt: skip


def _staff(request: HttpRequest) -> Actor:
    """The bearer of a credential, or who is signed in to the control room; raises unless they are staff."""
    actor = _bearer(request) if "Authorization" in request.headers else _signed_in(request)
    if not auth.is_staff(actor):
        raise NotPermitted("Only owners and admins of an organisation may read this.")
    actor.require("server.read")
    return actor


def _bearer(request: HttpRequest) -> Actor:
    return rest.BearerActor()(request)


def _signed_in(request: HttpRequest) -> Actor:
    """A cookie will do here, and nowhere else outside the control room: this only reads."""
    user: Any = request.user
    if not user.is_authenticated:
        raise NotAuthenticated
    if auth.is_second_factor_missing(user):
        raise NotPermitted("Staff need a second factor here. The control room sets one up with you.")
    actor = staff_actor(request, user)
    if actor is None:
        raise NotPermitted("Only owners and admins of an organisation may read this.")
    return actor
