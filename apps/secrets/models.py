"""Secrets: sealed values that are written and used, never shown."""

from collections.abc import Iterable
from uuid import UUID

from django.db import models
from django.db.models import Q

from apps.core.models import Record
from apps.core.sealing import mark_of

SEALED = "sealed"
PLATFORM = UUID(int=0)
"""Whose secrets are those that belong to no organisation, as in the journal."""


def _is_under(numbers: Iterable[int]) -> Q:
    under = Q(pk__in=[])
    for number in numbers:
        under |= Q(value__startswith=mark_of(number))
    return under


class SecretQuerySet(models.QuerySet["Secret"]):
    """Secrets."""

    def for_org(self, organization_id: UUID | None) -> "SecretQuerySet":
        """Only the secrets of this organisation; none where no organisation is named."""
        return self.filter(organization_id=organization_id) if organization_id else self.none()

    def sealed_under(self, numbers: Iterable[int]) -> "SecretQuerySet":
        """Those whose value lies here and was sealed by one of these keys."""
        return self.filter(_is_under(numbers), store_name=SEALED)

    def sealed_elsewise(self, numbers: Iterable[int]) -> "SecretQuerySet":
        """Those whose value lies here and was sealed by none of these keys."""
        return self.filter(store_name=SEALED).exclude(_is_under(numbers))


class Secret(Record):
    """A value sealed in its place: organisation, row and field are part of the seal."""

    organization_id = models.UUIDField(db_index=True)
    purpose = models.CharField(max_length=200, help_text="What it is for: server:weather.")
    store_name = models.CharField(max_length=20, default=SEALED, help_text="The store that holds the value.")
    value = models.TextField(editable=False, help_text="The sealed value, or the store's reference to it.")

    objects = SecretQuerySet.as_manager()

    class Meta:
        ordering = ("purpose",)

    def __str__(self) -> str:
        return self.purpose

    @property
    def journal_name(self) -> str:
        """What the journal calls it."""
        return f"secret:{self.purpose}"


class KeyProbe(models.Model):
    """A known text under one of the sealing keys: it tells a wrong key before a secret is needed."""

    number = models.PositiveIntegerField(primary_key=True, help_text="The number of the key.")
    value = models.TextField(editable=False)

    def __str__(self) -> str:
        return f"sealing key {self.number}"
