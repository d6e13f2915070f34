"""Secrets: sealed values that are written and used, never shown."""

from uuid import UUID

from django.db import models

from apps.core.models import Record


class SecretQuerySet(models.QuerySet["Secret"]):
    """Secrets."""

    def for_org(self, organization_id: UUID | None) -> "SecretQuerySet":
        """Only the secrets of this organisation; none where no organisation is named."""
        return self.filter(organization_id=organization_id) if organization_id else self.none()


class Secret(Record):
    """A value sealed in its place: organisation, row and field are part of the seal."""

    organization_id = models.UUIDField(db_index=True)
    purpose = models.CharField(max_length=200, help_text="What it is for: server:weather.")
    store_name = models.CharField(max_length=20, default="sealed", help_text="The store that holds the value.")
    value = models.TextField(editable=False, help_text="The sealed value, or the store's reference to it.")

    objects = SecretQuerySet.as_manager()

    class Meta:
        ordering = ("purpose",)

    def __str__(self) -> str:
        return self.purpose
