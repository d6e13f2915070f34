"""Usage events: one for each metered call, allowed or denied."""

from django.db import models
from django.utils import timezone

from apps.core.models import TenantQuerySet, TenantRecord


class Status(models.TextChoices):
    """How a call ended."""

    OK = "ok", "OK"
    ERROR = "error", "Error"
    DENIED = "denied", "Denied"


class UsageEvent(TenantRecord):
    """One metered call: who, what, when, how it ended and what it cost."""

    at = models.DateTimeField(default=timezone.now)
    surface = models.CharField(max_length=10)
    endpoint = models.CharField(max_length=200, help_text="Where the call arrived: /mcp.")
    method = models.CharField(max_length=40, help_text="What was asked: tools/call.")
    name = models.CharField(max_length=200, blank=True, help_text="The tool's name as the caller knows it.")
    server = models.CharField(max_length=20, blank=True, help_text="The slug of the server; empty for native tools.")
    status = models.CharField(max_length=10, choices=Status.choices)
    error_code = models.CharField(max_length=40, blank=True)
    actor_kind = models.CharField(max_length=10)
    actor_id = models.UUIDField(null=True, blank=True)
    actor_label = models.CharField(max_length=200)
    user_id = models.UUIDField(null=True, blank=True)
    key_id = models.UUIDField(null=True, blank=True)
    latency_ms = models.FloatField(help_text="From arrival to answer, in milliseconds.")
    bytes_in = models.PositiveBigIntegerField(default=0)
    bytes_out = models.PositiveBigIntegerField(default=0)
    tokens_in = models.PositiveBigIntegerField(default=0)
    tokens_out = models.PositiveBigIntegerField(default=0)
    cost = models.DecimalField(max_digits=14, decimal_places=8, default=0, help_text="In US dollars.")
    request_id = models.CharField(max_length=64, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["-at"], name="usage_at"),
            models.Index(fields=["organization", "-id"], name="usage_org_id"),
            models.Index(fields=["organization", "-at"], name="usage_org_at"),
            models.Index(fields=["organization", "status", "-id"], name="usage_org_status"),
            models.Index(fields=["organization", "server", "-id"], name="usage_org_server"),
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.name}".strip()
