"""Entries of the journal, and the head of each organisation's chain."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import models
from django.db.models import Q
from django.utils import timezone

from apps.core.ids import new_id

PLATFORM_CHAIN = UUID(int=0)
"""The chain of what happens outside every organisation."""


class EntryQuerySet(models.QuerySet["Entry"]):
    """Entries of the journal."""

    def for_org(self, organization_id: UUID | None) -> "EntryQuerySet":
        """Only the entries of this organisation; none where no organisation is named."""
        return self.filter(chain_id=organization_id) if organization_id else self.none()

    def matching(
        self,
        *,
        action: str | None = None,
        actor: str | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        subject: str | None = None,
        subject_id: str | None = None,
    ) -> "EntryQuerySet":
        """Those for which every given condition holds; `server.*` means all actions of that noun."""
        conditions = {"outcome": outcome, "subject": subject, "at__gte": since, "at__lt": until}
        conditions["subject_id"] = subject_id or None
        entries = self.filter(**{name: value for name, value in conditions.items() if value is not None})
        if action:
            entries = entries.filter(Q(action__startswith=action[:-1]) if action.endswith(".*") else Q(action=action))
        if actor:
            entries = entries.filter(Q(actor_label=actor) | Q(actor_id=actor))
        return entries


class Entry(models.Model):
    """One thing that happened. Rows are only ever added; the database refuses the rest.

    `digest` is HMAC-SHA256 over the entry's canonical JSON and the digest of the entry before it in its chain.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    chain_id = models.UUIDField(help_text="The organisation; all zeros for the platform itself.")
    sequence = models.PositiveBigIntegerField(help_text="1 for the first entry of a chain, without gaps.")
    at = models.DateTimeField(default=timezone.now)
    action = models.CharField(max_length=60, help_text="In the past tense: server.registered.")
    outcome = models.CharField(max_length=10, choices=[("done", "Done"), ("refused", "Refused")], default="done")
    actor_kind = models.CharField(max_length=10)
    actor_id = models.CharField(max_length=40, blank=True)
    actor_label = models.CharField(max_length=200)
    surface = models.CharField(max_length=10)
    address = models.CharField(max_length=45, blank=True)
    subject = models.CharField(max_length=200, blank=True, help_text="What it happened to: server:weather.")
    subject_id = models.CharField(
        max_length=40, blank=True, default="", help_text="The id of the row, which outlives its names."
    )
    details: "models.JSONField[Any, Any]" = models.JSONField(default=dict)
    request_id = models.CharField(max_length=64, blank=True)
    previous_digest = models.CharField(max_length=64)
    digest = models.CharField(max_length=64)

    objects = EntryQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "entries"
        constraints = [models.UniqueConstraint(fields=["chain_id", "sequence"], name="entry_once_per_sequence")]
        indexes = [
            # One for each filter that a list offers, in the order of the list: a page is read, never sorted.
            models.Index(fields=["-at", "-id"], name="entry_at"),
            models.Index(fields=["outcome", "-at", "-id"], name="entry_outcome_at"),
            models.Index(fields=["action", "-at", "-id"], name="entry_action_at"),
            models.Index(fields=["chain_id", "-at", "-id"], name="entry_chain_at"),
            models.Index(fields=["chain_id", "outcome", "-at", "-id"], name="entry_chain_outcome_at"),
            models.Index(fields=["chain_id", "action", "-at", "-id"], name="entry_chain_action_at"),
            # The history of a row: by its id, and by its name where an entry has no id.
            models.Index(fields=["subject_id", "chain_id"], name="entry_subject"),
            models.Index(fields=["subject", "subject_id", "chain_id"], name="entry_subject_name"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}".strip()


class ChainHead(models.Model):
    """The last entry of a chain; whoever appends holds this row's lock."""

    chain_id = models.UUIDField(primary_key=True)
    sequence = models.PositiveBigIntegerField(default=0)
    digest = models.CharField(max_length=64, default="0" * 64)

    def __str__(self) -> str:
        return f"{self.chain_id} at {self.sequence}"
