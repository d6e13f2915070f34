"""Shapes of servers and of what belongs to them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from apps.core.schemas import In, Out, show_no_defaults
from apps.jobs.schemas import JobOut
from apps.registry.models import CapabilityKind, CredentialKind, Environment, Health, Risk, Transport

Word = Annotated[str, Field(min_length=1, max_length=50)]
Argument = Annotated[str, Field(max_length=4096)]


class ServerFilters(In):
    """Which servers to list, and in which order; all given conditions must hold."""

    transport: Transport | None = None
    environment: Environment | None = None
    health: Health | None = None
    tag: str | None = Field(None, min_length=1, max_length=50)
    q: str | None = Field(None, max_length=100, description="Letters in the name, slug or description.")
    is_approved: bool | None = None
    is_enabled: bool | None = None
    capability: str | None = Field(None, max_length=128, description="Letters in the name of something it offers.")
    ordering: Literal["name", "-name", "slug", "-slug", "created_at", "-created_at", "checked_at", "-checked_at"] = (
        "name"
    )


class ServerLimits(In):
    """What may be said about a server besides how it is reached."""

    description: str = Field("", max_length=2000)
    environment: Environment = Environment.PRODUCTION
    tags: list[Word] = Field(default_factory=list, max_length=50)
    owner_label: str = Field("", max_length=200, description="Whom to ask about this server.")
    is_critical: bool = Field(False, description="Its failure makes the platform's health fail.")
    isolate_sessions: bool = Field(False, description="A stdio process for each session, not a shared one.")
    timeout_seconds: float | None = Field(None, ge=0.1, le=600, description="How long a call may take.")
    max_concurrency: int = Field(16, ge=1, le=1000, description="Calls at the same time.")
    check_interval_seconds: int | None = Field(None, ge=10, le=86_400, description="Unset: 60, for stdio 600.")
    check_timeout_seconds: float = Field(10, ge=0.1, le=120)
    check_retries: int = Field(1, ge=0, le=5)


class ServerIn(ServerLimits):
    """A new server."""

    name: str = Field(min_length=1, max_length=100)
    slug: str = Field(min_length=1, max_length=20, description="The first part of its tools' names; it never changes.")
    transport: Transport = Transport.STREAMABLE_HTTP
    url: str = Field("", max_length=2048, description="Of a server over HTTP: https://host/mcp")
    command: list[Argument] = Field(default_factory=list, max_length=64, description="Of a stdio server.")
    env: dict[str, Argument] = Field(default_factory=dict, max_length=64, description="Variables of a stdio server.")


class ServerPatch(ServerLimits):
    """What to change about a server. Another URL, command or variable withdraws its approval."""

    model_config = ConfigDict(json_schema_extra=show_no_defaults)

    name: str = Field("", min_length=1, max_length=100)
    url: str = Field("", max_length=2048)
    command: list[Argument] = Field(default_factory=list, max_length=64)
    env: dict[str, Argument] = Field(default_factory=dict, max_length=64)
    check_interval_seconds: int = Field(60, ge=10, le=86_400)


class ServerOut(Out):
    """A server as it stands. Variables are shown by name only: people keep secrets in them all the same."""

    id: UUID
    digest: str = Field(description="Stands for how it is reached and when it was read; give it when approving.")
    name: str
    slug: str
    description: str
    transport: Transport
    url: str
    command: list[str]
    env_names: list[str]
    environment: Environment
    tags: list[str]
    owner_label: str
    is_critical: bool
    is_enabled: bool
    is_approved: bool
    approved_at: datetime | None
    approved_by: str
    isolate_sessions: bool
    timeout_seconds: float | None
    max_concurrency: int
    check_interval_seconds: int
    check_timeout_seconds: float
    check_retries: int
    protocol_version: str
    server_info: dict[str, Any]
    instructions: str
    discovered_at: datetime | None
    health: Health
    health_message: str
    latency_ms: float | None
    consecutive_failures: int
    checked_at: datetime | None
    created_at: datetime
    updated_at: datetime


class RegisteredOut(ServerOut):
    """A server that was just registered, and the job that discovers what it offers."""

    job_id: UUID


class DiscoveryJobOut(JobOut):
    """The job that reads what a server offers."""


class CredentialIn(In):
    """A secret, and how it is presented. It is sealed, and never shown again."""

    kind: CredentialKind = CredentialKind.BEARER
    secret: str = Field(min_length=1, max_length=8192, description="The token, the header's value or the password.")
    header: str = Field("", max_length=60, description="Of a header credential: its name.")
    username: str = Field("", max_length=200, description="Of a user and password.")


class CredentialOut(Out):
    """A credential, without its secret."""

    id: UUID
    kind: CredentialKind
    header: str
    username: str
    created_at: datetime


class CapabilityFilters(In):
    """Which capabilities to list; all given conditions must hold."""

    kind: CapabilityKind | None = None
    is_approved: bool | None = None
    is_enabled: bool | None = None
    q: str | None = Field(None, max_length=100, description="Letters in its name.")
    include_removed: bool = False


class CapabilityPatch(In):
    """What staff decide about a capability."""

    model_config = ConfigDict(json_schema_extra=show_no_defaults)

    is_enabled: bool = True
    alias: str = Field("", max_length=44, description="Another name for agents, instead of slug__name.")
    description_override: str = Field("", max_length=4000)
    tags: list[Word] = Field(default_factory=list, max_length=50)
    risk: Risk = Field(Risk.MEDIUM, description="A low risk means that the tool only reads.")
    required_scopes: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=20)
    rate_limit_per_minute: int | None = Field(None, ge=1, le=1_000_000)
    cache_seconds: int | None = Field(None, ge=1, le=86_400)


class ApproveIn(In):
    """What is approved: the server or the definition that was seen."""

    digest: str = Field("", max_length=64, description="Its digest; if it has changed meanwhile, nothing is approved.")


class CapabilityOut(Out):
    """A capability: what its server says, what staff decided, and whether agents may use it."""

    id: UUID
    server_id: UUID
    kind: CapabilityKind
    name: str
    public_name: str
    definition: dict[str, Any]
    digest: str
    is_approved: bool
    is_enabled: bool
    warnings: list[dict[str, str]]
    changes: list[str] = Field(description="What differs from the definition that was approved.")
    alias: str
    description_override: str
    tags: list[str]
    risk: Risk
    required_scopes: list[str]
    rate_limit_per_minute: int | None
    cache_seconds: int | None
    removed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class CheckOut(Out):
    """One look at a server."""

    at: datetime
    health: Health
    latency_ms: float | None
    message: str


class Uptime(Out):
    """The share of checks that the server passed, in per cent; nothing where there was no check."""

    last_24_hours: float | None
    last_7_days: float | None
    last_30_days: float | None


class Period(StrEnum):
    """How far back to look: a day or a week by the hour, a month by the day."""

    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"


class HealthQuery(In):
    """Which part of a server's history to show."""

    period: Period = Field(Period.DAY, description="24h or 7d by the hour, or 30d by the day.")


class BreakerOut(Out):
    """Whether the process that answers lets calls through to a server; each web process has a breaker of its own."""

    state: Literal["closed", "open", "half_open"] = Field("closed", description="half_open: one call may probe it.")
    failures: int = Field(0, description="Calls in a row that failed in this process.")
    retry_after_seconds: int | None = Field(None, description="When a call is let through again.")
    crashes: int = Field(0, description="How often in a row a stdio process of this server ended by itself.")
    restart_after_seconds: int | None = Field(None, description="When such a process is started again.")


class LatencyOut(Out):
    """The checks of an hour or a day."""

    at: datetime
    checks: int = 0
    passed: int = 0
    latency_ms: float | None = Field(None, description="On average, of those that passed.")
    latency_ms_most: float | None = None

    def add(self, checks: int, passed: int, total_ms: float, most_ms: float) -> None:
        """Count in the checks of one more hour."""
        before = (self.latency_ms or 0.0) * self.passed
        self.checks, self.passed = self.checks + checks, self.passed + passed
        if passed:
            self.latency_ms = (before + total_ms) / self.passed
            self.latency_ms_most = max(self.latency_ms_most or 0.0, most_ms)


class HealthOut(Out):
    """How a server fares, and has fared."""

    health: Health
    message: str
    latency_ms: float | None
    consecutive_failures: int
    failing_since: datetime | None
    checked_at: datetime | None
    next_check_at: datetime | None = Field(description="When it is due; nothing while the server is disabled.")
    breaker: BreakerOut
    uptime: Uptime
    period: Period
    latency: list[LatencyOut] = Field(description="The hours, or days, of the period in which there were checks.")
    last_checks: list[CheckOut] = Field(description="The last ten checks, the newest first.")


class StepOut(Out):
    """One step of reaching a server."""

    name: str
    ok: bool
    is_skipped: bool
    message: str
    ms: float | None


class ConnectionOut(Out):
    """How far a test of the connection came."""

    ok: bool
    protocol_version: str
    steps: list[StepOut]


class DiscoveryOut(Out):
    """One reading of what a server offers, and what that changed."""

    id: UUID
    created_at: datetime
    job_id: UUID | None
    protocol_version: str
    added: list[Any]
    changed: list[Any]
    removed: list[Any]
    rejected: list[Any]
    total: int
    error: str
    duration_ms: float
