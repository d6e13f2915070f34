"""Jobs: the database row is the truth about background work; a broker only carries its id."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.core.models import TenantQuerySet, TenantRecord


class State(models.TextChoices):
    """Where a job stands."""

    PENDING = "pending", "Pending"
    RUNNING = "running", "Running"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class JobQuerySet(TenantQuerySet):
    """Jobs."""

    def open(self) -> "JobQuerySet":
        """Those that have not ended."""
        return self.filter(state__in=[State.PENDING, State.RUNNING])

    def waiting(self, *, at: datetime) -> "JobQuerySet":
        """Those that are due."""
        return self.filter(state=State.PENDING, run_after__lte=at)

    def unsent(self, *, at: datetime, sent_before: datetime) -> "JobQuerySet":
        """Due, and no broker was given them, or one was so long ago that it has lost them."""
        return self.waiting(at=at).filter(Q(sent_at=None) | Q(sent_at__lt=sent_before))

    def held_back(self, organization_id: UUID, *, at: datetime) -> "JobQuerySet":
        """Those of an organisation that are due and in nobody's hands: it ran as many at once as it may."""
        return self.for_org(organization_id).waiting(at=at).filter(sent_at=None)

    def alive(self, *, since: datetime) -> "JobQuerySet":
        """Running, with a sign of life."""
        return self.filter(state=State.RUNNING, heartbeat_at__gte=since)

    def silent(self, *, since: datetime) -> "JobQuerySet":
        """Running without a sign of life: their worker is gone."""
        return self.filter(state=State.RUNNING, heartbeat_at__lt=since)


class Job(TenantRecord):
    """One piece of background work with its arguments, its state and its result.

    Arguments hold ids and plain values, never secrets.
    """

    kind = models.CharField(max_length=60, help_text="The name of the task: registry.discover.")
    subject = models.CharField(max_length=200, blank=True, help_text="What it works on: server:weather.")
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    arguments: "models.JSONField[Any, Any]" = models.JSONField(default=dict, blank=True)
    progress = models.PositiveSmallIntegerField(default=0, help_text="In per cent.")
    result: "models.JSONField[Any, Any]" = models.JSONField(null=True, blank=True)
    error: "models.JSONField[Any, Any]" = models.JSONField(null=True, blank=True, help_text="Code and message.")
    attempts = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=4)
    run_after = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(
        null=True, blank=True, default=timezone.now, help_text="When a broker was last given it; empty: none has it."
    )
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    lease = models.UUIDField(null=True, blank=True, help_text="Who runs it now; a late worker finds another here.")
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    actor_kind = models.CharField(max_length=10)
    actor_id = models.UUIDField(null=True, blank=True)
    actor_label = models.CharField(max_length=200)
    request_id = models.CharField(max_length=64, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = [
            models.Index(fields=["organization", "-id"], name="job_org_id"),
            # One for each filter of the list, in its order.
            *(
                models.Index(fields=[*whose, field, "-id"], name=f"job_{'org_' if whose else ''}{field}")
                for field in ("state", "kind", "subject")
                for whose in ((), ("organization",))
            ),
            models.Index(fields=["state", "run_after"], name="job_state_run_after"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(progress__lte=100),
                name="job_progress_is_per_cent",
                violation_error_message="Progress is a percentage.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}".strip()


class Heartbeat(models.Model):
    """When background work of a kind was last seen: a worker that runs the schedule writes it, `doctor` reads it."""

    name = models.CharField(max_length=60, primary_key=True, help_text="Of whom: the name of the task.")
    at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Firing(models.Model):
    """When a schedule was last started, by whichever beat: each claims the row first, so that one of them starts it."""

    name = models.CharField(max_length=200, primary_key=True, help_text="Of the schedule.")
    at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
