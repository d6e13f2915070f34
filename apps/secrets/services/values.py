"""Secrets themselves: keep, open, replace, forget."""

from collections.abc import Iterable
from uuid import UUID

from django.db import transaction

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotFound
from apps.core.ids import new_id
from apps.core.loader import backend
from apps.secrets.backends.base import SecretStore
from apps.secrets.models import SEALED, Secret

LONGEST_BYTES = 65_536


def keep(actor: Actor, *, purpose: str, plain: str) -> Secret:
    """Keep a value for the actor's organisation; raises InvalidInput when it is empty or too long."""
    actor.require_confirmed()
    if actor.organization_id is None:
        raise InvalidInput("A secret belongs to an organisation. Name one.")
    _check(plain)
    secret = Secret(id=new_id(), organization_id=actor.organization_id, purpose=purpose, store_name=SEALED)
    secret.value = _store(secret).put(plain, organization_id=secret.organization_id, secret_id=secret.id)
    with transaction.atomic():
        secret.store()
        audit.record(actor, "secret.kept", secret)
    return secret


def open_secret(secret_id: UUID, *, organization_id: UUID) -> str:
    """The plain value; raises NotFound, or BackendError when it cannot be opened in its place."""
    secret = _find(secret_id, organization_id)
    return _store(secret).get(secret.value, organization_id=organization_id, secret_id=secret.id)


def replace(actor: Actor, *, secret_id: UUID, plain: str) -> Secret:
    """Put another value in the place of the old one."""
    actor.require_confirmed()
    secret = _find(secret_id, actor.organization_id)
    _check(plain)
    secret.value = _store(secret).put(plain, organization_id=secret.organization_id, secret_id=secret.id)
    with transaction.atomic():
        secret.store(update_fields=["value", "updated_at"])
        audit.record(actor, "secret.replaced", secret)
    return secret


def forget(actor: Actor, *, secret_id: UUID) -> None:
    """Destroy a secret for good."""
    secret = _find(secret_id, actor.organization_id)
    with transaction.atomic():
        Secret.objects.filter(pk=secret.pk).delete()
        audit.record(actor, "secret.forgotten", secret)
    _store(secret).forget(secret.value, organization_id=secret.organization_id, secret_id=secret.id)


def hold(secret_ids: Iterable[UUID]) -> None:
    """Hold secrets that may be destroyed until the caller's transaction ends, in one order for everybody."""
    # allowed: nothing is read
    held = Secret.objects.filter(pk__in=list(secret_ids)).select_for_update().order_by("pk")
    list(held.values_list("pk"))


def _find(secret_id: UUID, organization_id: UUID | None) -> Secret:
    secret = Secret.objects.for_org(organization_id).filter(pk=secret_id).first()
    if secret is None:
        raise NotFound("There is no such secret.")
    return secret


def _store(secret: Secret) -> SecretStore:
    store: SecretStore = backend("secret_store", secret.store_name)
    return store


def _check(plain: str) -> None:
    if not plain or len(plain.encode()) > LONGEST_BYTES:
        raise InvalidInput.for_field("secret", f"A secret has between 1 and {LONGEST_BYTES} bytes.")
