"""Usage events, one for each metered call, and the roll-ups that they add up to by hour and by day."""

from django.db import models
from django.utils import timezone

from apps.core.models import TenantQuerySet, TenantRecord


class Status(models.TextChoices):
    """How a call ended."""

    OK = "ok", "OK"
    ERROR = "error", "Error"
    DENIED = "denied", "Denied"


class Period(models.TextChoices):
    """How much time one roll-up covers; both begin and end in UTC."""

    HOUR = "hour", "Hour"
    DAY = "day", "Day"


BOUNDS_MS = tuple(2 ** (half / 2) for half in range(31))
"""Where the buckets of latencies end: 1 ms, then √2 times as much each, to 33 s; a last bucket has what took longer."""

BUCKETS = tuple(f"bucket_{number}" for number in range(len(BOUNDS_MS) + 1))
"""The columns that count the calls of each bucket."""


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
        ordering = ("-at", "-id")
        # One for each filter that a list offers, in the order of the list: a page is read, never sorted.
        indexes = [
            models.Index(fields=["-at", "-id"], name="usage_at"),
            models.Index(fields=["status", "-at", "-id"], name="usage_status_at"),
            models.Index(fields=["server", "-at", "-id"], name="usage_server_at"),
            models.Index(fields=["organization", "-at", "-id"], name="usage_org_at"),
            models.Index(fields=["organization", "status", "-at", "-id"], name="usage_org_status_at"),
            models.Index(fields=["organization", "server", "-at", "-id"], name="usage_org_server_at"),
            models.Index(fields=["organization", "name", "-at", "-id"], name="usage_org_name_at"),
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.name}".strip()


class Rollup(TenantRecord):
    """What the calls of one tool in one hour, or in one day, add up to.

    Sums are of whole numbers, so that they are exact in whatever order they are added. Latencies are those of the calls
    that were let through; their percentiles can be merged over tools, hours and organisations, because the buckets are
    the same everywhere.
    """

    period = models.CharField(max_length=4, choices=Period.choices)
    starts_at = models.DateTimeField()
    server = models.CharField(max_length=20, blank=True, help_text="The slug of the server; empty for native tools.")
    name = models.CharField(max_length=200, blank=True, help_text="The tool; empty for names that nothing has.")
    calls = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0)
    denied = models.BigIntegerField(default=0)
    latency_us = models.BigIntegerField(default=0, help_text="All latencies together, in microseconds.")
    longest_us = models.BigIntegerField(default=0, help_text="The longest latency, in microseconds.")
    bytes_in = models.BigIntegerField(default=0)
    bytes_out = models.BigIntegerField(default=0)
    tokens_in = models.BigIntegerField(default=0)
    tokens_out = models.BigIntegerField(default=0)
    cost_nanodollars = models.BigIntegerField(default=0)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("-starts_at", "-id")
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "period", "starts_at", "server", "name"], name="rollup_once_per_tool"
            )
        ]
        indexes = [models.Index(fields=["period", "starts_at"], name="rollup_period_starts_at")]

    def __str__(self) -> str:
        return f"{self.name or 'unknown'} in the {self.period} of {self.starts_at:%Y-%m-%d %H:%M}"


# Columns, because SQL of both databases can add them up; an array or JSON could only be added up here.
for _column in BUCKETS:
    Rollup.add_to_class(_column, models.IntegerField(default=0))
