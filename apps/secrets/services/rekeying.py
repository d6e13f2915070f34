"""Sealing every secret anew under the newest key, while everything runs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Substr

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import BackendError
from apps.core.loader import backend
from apps.core.sealing import key_number, newest_key
from apps.secrets.backends.base import SecretStore
from apps.secrets.models import SEALED, Secret

BATCH = 100
_LONGEST_MARK = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of some secrets: how many were sealed anew, and which cannot be opened by any key."""

    resealed: int
    unreadable: list[Secret]


def count_by_key() -> dict[int, int]:
    """How many secrets each key has sealed; under -1 what is no sealed value."""
    marks = Secret.objects.filter(store_name=SEALED).values_list(Substr("value", 1, _LONGEST_MARK), flat=True)
    return dict(Counter(key_number(mark) for mark in marks.iterator()))


def rekey_secrets(actor: Actor, *, batch_size: int = BATCH) -> Iterator[Batch]:
    """Seal anew what older keys sealed, some rows at a time; what is done stays done when this is interrupted.

    A secret that somebody replaces meanwhile is left as they made it.
    """
    actor.require_platform_admin()
    last = UUID(int=0)
    while rows := list(Secret.objects.sealed_elsewise([newest_key()]).filter(pk__gt=last).order_by("pk")[:batch_size]):
        last = rows[-1].pk
        yield _reseal(actor, rows)


def _reseal(actor: Actor, rows: list[Secret]) -> Batch:
    store: SecretStore = backend("secret_store", SEALED)
    fresh: list[tuple[Secret, str]] = []
    unreadable: list[Secret] = []
    for secret in rows:
        place = {"organization_id": secret.organization_id, "secret_id": secret.id}
        try:
            fresh.append((secret, store.put(store.get(secret.value, **place), **place)))
        except BackendError:
            unreadable.append(secret)
    with transaction.atomic():
        audit.hold_chain(actor.organization_id)  # before the secrets, like whoever takes a second factor away
        changed = sum(
            Secret.objects.filter(pk=secret.pk, value=secret.value).update(value=value) for secret, value in fresh
        )
        if changed:
            audit.record(actor, "secrets.rekeyed", f"sealing_key:{newest_key()}", details={"secrets": changed})
    return Batch(changed, unreadable)
