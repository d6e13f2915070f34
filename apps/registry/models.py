"""Servers, what they offer, how they fare and how they are reached."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.crypto import salted_hmac

from apps.core.models import TenantQuerySet, TenantRecord

RESERVED_SLUGS = frozenset({"prompts", "tools", "resources", "v1", "sse", "messages"})


class Transport(models.TextChoices):
    """How a server is reached."""

    STREAMABLE_HTTP = "streamable_http", "Streamable HTTP"
    SSE = "sse", "HTTP+SSE (2024)"
    STDIO = "stdio", "stdio"


class Environment(models.TextChoices):
    """What a server is used for."""

    DEVELOPMENT = "development", "Development"
    STAGING = "staging", "Staging"
    PRODUCTION = "production", "Production"


class Health(models.TextChoices):
    """How a server fared when it was last checked."""

    UNKNOWN = "unknown", "Unknown"
    HEALTHY = "healthy", "Healthy"
    DEGRADED = "degraded", "Degraded"
    UNHEALTHY = "unhealthy", "Unhealthy"


class Risk(models.TextChoices):
    """What a tool could do at worst; staff set it. A low risk means that the tool only reads."""

    LOW = "low", "Low"
    MEDIUM = "medium", "Medium"
    HIGH = "high", "High"


class CapabilityKind(models.TextChoices):
    """What kind of thing a server offers."""

    TOOL = "tool", "Tool"
    RESOURCE = "resource", "Resource"
    RESOURCE_TEMPLATE = "resource_template", "Resource template"
    PROMPT = "prompt", "Prompt"


class ServerQuerySet(TenantQuerySet):
    """Servers."""

    def present(self) -> "ServerQuerySet":
        """Those that are not deleted."""
        return self.filter(deleted_at=None)

    def usable(self) -> "ServerQuerySet":
        """Those that agents may use: approved, enabled, not deleted."""
        return self.present().filter(is_enabled=True).exclude(approved_at=None)

    def due(self, now: datetime) -> "ServerQuerySet":
        """Those whose next check has come, the longest overdue first; read from an index."""
        rows = self.filter(is_enabled=True, deleted_at=None, check_due_at__lte=now, organization__is_active=True)
        return rows.order_by("check_due_at")

    def approved(self, is_approved: bool = True) -> "ServerQuerySet":
        """Those that staff let agents use, or those that they do not."""
        rows: ServerQuerySet = self.exclude(approved_at=None) if is_approved else self.filter(approved_at=None)
        return rows

    def offering(self, name: str) -> "ServerQuerySet":
        """Those that have a capability whose name contains these letters."""
        offered = Capability.objects.filter(server=OuterRef("pk"), name__icontains=name, removed_at=None)
        return self.filter(Exists(offered))

    def tagged(self, tag: str) -> "ServerQuerySet":
        """Those with this tag. Databases differ in how they write JSON as text: one escapes what is not ASCII."""
        written = Q(tags_text__contains=json.dumps(tag)) | Q(tags_text__contains=f'"{tag}"')
        rows: ServerQuerySet = self.annotate(tags_text=Cast("tags", models.TextField())).filter(written)
        return rows

    def named_like(self, letters: str) -> "ServerQuerySet":
        """Those with these letters in their name, slug or description."""
        return self.filter(Q(name__icontains=letters) | Q(slug__icontains=letters) | Q(description__icontains=letters))


class Server(TenantRecord):
    """An MCP server that the organisation knows; agents use it once staff have approved it."""

    name = models.CharField(max_length=100)
    slug = models.CharField(
        max_length=20,
        validators=[RegexValidator(r"^[a-z0-9-]{1,20}\Z", "Use 1 to 20 small letters, digits and hyphens.")],
        help_text="The first part of its tools' names: slug__tool. It never changes.",
    )
    description = models.TextField(blank=True, max_length=2000)
    transport = models.CharField(max_length=20, choices=Transport.choices, default=Transport.STREAMABLE_HTTP)
    url = models.CharField(max_length=2048, blank=True, help_text="Of a server over HTTP: https://host/mcp.")
    command: "models.JSONField[Any, Any]" = models.JSONField(
        default=list, blank=True, help_text="Of a stdio server: the program and its arguments, as a list of texts."
    )
    env: "models.JSONField[Any, Any]" = models.JSONField(
        default=dict, blank=True, verbose_name="environment variables", help_text="Plain variables of a stdio server."
    )
    environment = models.CharField(max_length=20, choices=Environment.choices, default=Environment.PRODUCTION)
    tags: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True, help_text="Free words.")
    owner_label = models.CharField(max_length=200, blank=True, help_text="Whom to ask about this server.")
    is_critical = models.BooleanField(default=False, help_text="Its failure makes the platform's health fail.")
    is_enabled = models.BooleanField(default=True)
    isolate_sessions = models.BooleanField(
        default=False, help_text="A stdio process for each session, not a shared one."
    )
    timeout_seconds = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1), MaxValueValidator(600)],
        help_text="How long a call may take. Empty: UPSTREAM_TIMEOUT_SECONDS.",
    )  # fmt: skip
    max_concurrency = models.PositiveSmallIntegerField(
        default=16, validators=[MinValueValidator(1), MaxValueValidator(1000)], help_text="Calls at the same time."
    )
    check_interval_seconds = models.PositiveIntegerField(default=60, validators=[MinValueValidator(10)])
    check_timeout_seconds = models.FloatField(default=10, validators=[MinValueValidator(0.1), MaxValueValidator(120)])
    check_retries = models.PositiveSmallIntegerField(default=1, validators=[MaxValueValidator(5)])

    approved_at = models.DateTimeField(null=True, blank=True, editable=False)
    approved_by = models.CharField(max_length=200, blank=True, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    protocol_version = models.CharField(max_length=20, blank=True, editable=False)
    server_info: "models.JSONField[Any, Any]" = models.JSONField(default=dict, blank=True, editable=False)
    declared_capabilities: "models.JSONField[Any, Any]" = models.JSONField(
        default=dict,
        blank=True,
        editable=False,
        help_text="What the server said it can do when it was last discovered.",
    )
    instructions = models.TextField(blank=True, editable=False)
    discovered_at = models.DateTimeField(null=True, blank=True, editable=False)

    health = models.CharField(max_length=10, choices=Health.choices, default=Health.UNKNOWN, editable=False)
    health_message = models.CharField(max_length=500, blank=True, editable=False)
    latency_ms = models.FloatField(null=True, blank=True, editable=False)
    consecutive_failures = models.PositiveIntegerField(default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    check_due_at = models.DateTimeField(default=timezone.now, editable=False)
    checking_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="A round of checks holds it; after this the round is lost."
    )

    objects = ServerQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "slug"],
                condition=Q(deleted_at=None),
                name="server_slug_once",
                violation_error_message="A server with this slug exists already.",
                violation_error_code="unique",
            ),
            models.CheckConstraint(
                condition=~Q(slug__in=sorted(RESERVED_SLUGS)),
                name="server_slug_not_reserved",
                violation_error_message="This slug is reserved. Choose another.",
            ),
            models.CheckConstraint(
                condition=Q(transport="stdio") | ~Q(url=""),
                name="server_http_has_url",
                violation_error_message="A server over HTTP needs a URL.",
            ),
        ]
        indexes = [
            models.Index(fields=["organization", "name"], name="server_org_name"),
            models.Index(
                fields=["check_due_at"], condition=Q(is_enabled=True, deleted_at=None), name="server_check_due"
            ),
            models.Index(fields=["checking_until"], condition=Q(checking_until__isnull=False), name="server_checking"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_approved(self) -> bool:
        """Whether staff let agents use it."""
        return self.approved_at is not None

    @property
    def env_names(self) -> list[str]:
        """The names of its variables: what may be shown of them."""
        return sorted(self.env)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that tell whether it is still what somebody looked at: how it is reached, when read.

        They are made with the secret key: the values of its variables cannot be guessed from them.
        """
        read_at = self.discovered_at and self.discovered_at.isoformat()
        seen = json.dumps([self.url, self.command, self.env, read_at], sort_keys=True)
        return salted_hmac("registry.server", seen, algorithm="sha256").hexdigest()


class CredentialKind(models.TextChoices):
    """How a credential travels to the server."""

    BEARER = "bearer", "Bearer token"
    HEADER = "header", "Header"
    BASIC = "basic", "User and password"


class Credential(TenantRecord):
    """Which secret opens which server, and how it is presented. The secret itself is sealed elsewhere."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="credentials")
    kind = models.CharField(max_length=10, choices=CredentialKind.choices, default=CredentialKind.BEARER)
    header = models.CharField(
        max_length=60, blank=True, help_text="Of a header credential: its name.",
        validators=[RegexValidator(r"^[A-Za-z0-9-]+\Z", "A header's name has letters, digits and hyphens.")],
    )  # fmt: skip
    username = models.CharField(max_length=200, blank=True)
    secret_id = models.UUIDField(editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("created_at",)

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.server}"


class CapabilityQuerySet(TenantQuerySet):
    """Capabilities."""

    def present(self) -> "CapabilityQuerySet":
        """Those that their server still offers."""
        return self.filter(removed_at=None, server__deleted_at=None)

    def usable(self) -> "CapabilityQuerySet":
        """Those that agents may use: approved as they are now, enabled, on a usable server."""
        return (
            self.present()
            .filter(is_enabled=True, approved_digest=F("digest"), server__is_enabled=True)
            .exclude(server__approved_at=None)
        )


class Capability(TenantRecord):
    """A tool, resource, resource template or prompt that a server offers, exactly as it defined it."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="capabilities")
    kind = models.CharField(max_length=20, choices=CapabilityKind.choices, editable=False)
    name = models.CharField(max_length=1024, editable=False, help_text="Its name on the server; of a resource its URI.")
    public_name = models.CharField(max_length=1024, editable=False, help_text="Its name for agents.")
    definition: "models.JSONField[Any, Any]" = models.JSONField(editable=False)
    digest = models.CharField(max_length=64, editable=False, help_text="SHA-256 of the canonical definition.")
    approved_digest = models.CharField(max_length=64, blank=True, editable=False)
    approved_definition: "models.JSONField[Any, Any]" = models.JSONField(null=True, blank=True, editable=False)
    warnings: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True, editable=False)
    is_enabled = models.BooleanField(default=True)
    alias = models.CharField(
        max_length=44, blank=True, validators=[RegexValidator(r"^[A-Za-z0-9_-]*\Z", "Use letters, digits, _ and -.")],
        help_text="Another name for agents, instead of slug__name.",
    )  # fmt: skip
    description_override = models.TextField(blank=True, max_length=4000)
    tags: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True)
    risk = models.CharField(max_length=10, choices=Risk.choices, default=Risk.MEDIUM)
    required_scopes: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True)
    rate_limit_per_minute = models.PositiveIntegerField(null=True, blank=True)
    cache_seconds = models.PositiveIntegerField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = CapabilityQuerySet.as_manager()

    class Meta:
        ordering = ("public_name",)
        verbose_name_plural = "capabilities"
        constraints = [
            models.UniqueConstraint(
                fields=["server", "kind", "name"],
                name="capability_once_per_server",
                violation_error_message="The server offers this twice.",
            ),
            models.UniqueConstraint(
                fields=["organization", "kind", "public_name"],
                condition=Q(removed_at=None),
                name="capability_public_name_once",
                violation_error_message="Another capability has this name for agents already.",
                violation_error_code="unique",
            ),
        ]

    def __str__(self) -> str:
        return self.public_name

    @property
    def journal_name(self) -> str:
        """What the journal calls it: as agents do."""
        return f"capability:{self.public_name}"

    changes: Sequence[str] = ()
    """What differs from the approved definition; the services that show capabilities fill it in."""

    @property
    def is_approved(self) -> bool:
        """Whether staff approved it as it is defined now."""
        return bool(self.approved_digest) and self.approved_digest == self.digest

    def approve(self) -> None:
        """Take the definition of now as the one that agents may use; whoever calls this saves it."""
        self.approved_digest, self.approved_definition = self.digest, self.definition
        self.updated_at = timezone.now()


class HealthCheck(TenantRecord):
    """One look at a server: when, how it went, how long it took."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="health_checks")
    at = models.DateTimeField(default=timezone.now)
    health = models.CharField(max_length=10, choices=Health.choices)
    latency_ms = models.FloatField(null=True, blank=True)
    message = models.CharField(max_length=500, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = [models.Index(fields=["server", "-at"], name="health_check_server_at")]

    def __str__(self) -> str:
        return f"{self.server}: {self.health}"


class HealthHour(TenantRecord):
    """What a server's checks of one hour came to: they are kept for longer than each check, and summed up quickly."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="health_hours")
    at = models.DateTimeField(help_text="When the hour began.")
    checks = models.PositiveIntegerField(default=0)
    passed = models.PositiveIntegerField(default=0, help_text="Checks that found it healthy or degraded.")
    latency_ms_total = models.FloatField(default=0, help_text="Of the checks that passed.")
    latency_ms_most = models.FloatField(default=0)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("at",)
        constraints = [models.UniqueConstraint(fields=["server", "at"], name="health_hour_once")]

    def __str__(self) -> str:
        return f"{self.server} at {self.at:%Y-%m-%d %H:00}"

    @property
    def latency_ms(self) -> float | None:
        """What a check that passed took on average."""
        return self.latency_ms_total / self.passed if self.passed else None


class Discovery(TenantRecord):
    """One reading of everything a server offers, and what that changed."""

    server = models.ForeignKey(Server, on_delete=models.CASCADE, related_name="discoveries")
    job_id = models.UUIDField(null=True, blank=True)
    protocol_version = models.CharField(max_length=20, blank=True)
    added: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True)
    changed: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True)
    removed: "models.JSONField[Any, Any]" = models.JSONField(default=list, blank=True)
    rejected: "models.JSONField[Any, Any]" = models.JSONField(
        default=list, blank=True, help_text="What we refused, with the reason."
    )
    total = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True)
    duration_ms = models.FloatField(default=0)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "discoveries"

    def __str__(self) -> str:
        return f"{self.server} at {self.created_at:%Y-%m-%d %H:%M}"
