"""What every row of ours has, and the only place where rows are saved."""

from collections.abc import Iterable
from typing import Any, Self
from uuid import UUID

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from apps.core.errors import Conflict, InvalidInput
from apps.core.ids import new_id

_TAKEN = frozenset({"unique", "unique_together"})


class Record(models.Model):
    """A row with an ordered id and its times."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True

    def store(self, *, update_fields: Iterable[str] | None = None) -> Self:
        """Validate and save.

        Raises InvalidInput with the refused fields, or Conflict where the database or a unique rule says no.
        """
        try:
            self.full_clean()
            with transaction.atomic():
                self.save(update_fields=list(update_fields) if update_fields else None)
        except ValidationError as error:
            raise _as_service_error(error) from error
        except IntegrityError as error:
            raise Conflict("This contradicts something that already exists.") from error
        return self


class Bucket(models.Model):
    """How far a rate limit is used up; `limits.py` reads and writes it in one statement."""

    key = models.CharField(max_length=64, primary_key=True, help_text="SHA-256 of what is limited.")
    due = models.FloatField(help_text="When the next call would be on schedule, in seconds since 1970.")

    def __str__(self) -> str:
        return self.key


class TenantQuerySet(models.QuerySet[Any]):
    """Rows of organisations. Every list of a tenant's rows starts with `for_org`."""

    def for_org(self, organization_id: UUID | None) -> Self:
        """Only the rows of this organisation; none where no organisation is named."""
        return self.filter(organization_id=organization_id) if organization_id else self.none()


class TenantRecord(Record):
    """A row that belongs to an organisation."""

    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.CASCADE, related_name="+", editable=False
    )

    class Meta:
        abstract = True


def _as_service_error(error: ValidationError) -> InvalidInput | Conflict:
    fields = {
        name if name != NON_FIELD_ERRORS else "non_field": [str(message) for part in parts for message in part.messages]
        for name, parts in error.error_dict.items()
    }
    codes = {part.code for parts in error.error_dict.values() for part in parts}
    message = next(iter(fields.values()))[0]
    kind = Conflict if codes and codes <= _TAKEN else InvalidInput
    return kind(message, details={"fields": fields})
