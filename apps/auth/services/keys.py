"""API keys: `gate_` + look-up id + `_` + secret + checksum. Only a keyed hash of the secret is kept.

The checksum lets a mistyped or invented key be refused without a query, and lets secret scanners be sure.
"""

import hmac
import logging
import re
import secrets
import string
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import ApiKey, ApiKeyQuerySet, Membership
from apps.auth.services.memory import raise_revision
from apps.auth.services.rights import check_covered, grants_of_role, grants_of_scopes, require_grants
from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotAuthenticated, NotFound
from apps.core.schemas import Page, PageQuery, page_of

logger = logging.getLogger(__name__)

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
LOOKUP_LENGTH = 16
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
MOST_SCOPES = 100
LONGEST_SCOPE = 200
USE_NOTED_EVERY = timedelta(minutes=1)
_SHAPE = re.compile(
    rf"gate_([0-9A-Za-z]{{{LOOKUP_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)
_SCOPE = re.compile(r"[a-z*][a-z0-9_.*]*(:[A-Za-z0-9_.*?/-]+)?")
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with the text that is shown this once."""

    key: ApiKey
    plain: str


def create_key(
    actor: Actor,
    *,
    name: str,
    scopes: Iterable[str] = (),
    expires_at: datetime | None = None,
    user_id: UUID | None = None,
) -> NewKey:
    """Make a key of a member, by default of the actor's own; its text cannot be shown again.

    Raises NotPermitted for a scope, or for rights of the owner, that the actor does not hold.
    """
    owner = user_id or actor.user_id
    actor.require("key.write" if owner and owner == actor.user_id else "key.manage")
    membership = _membership_of_owner(actor, owner)
    kept = _checked_scopes(scopes)
    owned = grants_of_role(membership.role)
    wanted = grants_of_scopes(kept) if kept else owned
    require_grants(actor, wanted)
    check_covered(wanted, owned)
    if expires_at and expires_at <= timezone.now():
        raise InvalidInput.for_field("expires_at", "Choose a moment in the future.")
    lookup, secret = _random(LOOKUP_LENGTH), _random(SECRET_LENGTH)
    number = max(settings.KEY_PEPPERS)
    key = ApiKey(
        organization_id=membership.organization_id, user=membership.user, name=name, scopes=kept, expires_at=expires_at,
        lookup=lookup, digest=_digest(lookup, secret, number), pepper_number=number,
    )  # fmt: skip
    with transaction.atomic():
        key.store()
        audit.record(actor, "key.created", key, details={"scopes": kept, "owner": str(membership.user)})
    return NewKey(key, f"gate_{lookup}_{secret}{_checksum(lookup, secret)}")


def list_keys(actor: Actor, *, page: PageQuery) -> Page:
    """The actor's own keys in the organisation, or everybody's with `key.read`."""
    return page_of(_visible(actor).select_related("user"), page)


def get_key(actor: Actor, *, key_id: UUID) -> ApiKey:
    """One key that the actor may see; raises NotFound."""
    key: ApiKey | None = _visible(actor).filter(pk=key_id).select_related("user").first()
    if key is None:
        raise NotFound("There is no such key.")
    return key


def revoke_key(actor: Actor, *, key_id: UUID) -> ApiKey:
    """End a key for good: at once here, within a second in every other web process."""
    key = get_key(actor, key_id=key_id)
    actor.require("key.write" if key.user_id == actor.user_id else "key.manage")
    if key.revoked_at:
        return key
    with transaction.atomic():
        key.revoked_at = timezone.now()
        key.store(update_fields=["revoked_at", "updated_at"])
        raise_revision(key.organization_id)
        audit.record(actor, "key.revoked", key)
    return key


def find_key(credential: str) -> ApiKey:
    """The key that this text is; whether it may still be used is another question. Raises NotAuthenticated.

    A wrong shape or checksum costs no query. A known and an unknown look-up id with a wrong secret do the same work.
    """
    parts = _SHAPE.fullmatch(credential)
    if parts is None or not hmac.compare_digest(_checksum(parts[1], parts[2]), parts[3]):
        raise NotAuthenticated
    lookup, secret = parts[1], parts[2]
    digest, number = (
        ApiKey.objects.filter(lookup=lookup).values_list("digest", "pepper_number").first()
        or (_NOBODY, max(settings.KEY_PEPPERS))
    )  # fmt: skip
    if not hmac.compare_digest(_digest(lookup, secret, number), digest):
        raise NotAuthenticated
    key: ApiKey | None = ApiKey.objects.select_related("user").filter(lookup=lookup).first()
    if key is None:
        raise NotAuthenticated
    return key


def note_use(key: ApiKey, *, address: str) -> None:
    """Keep when and from where the key was used last, at most once a minute; a busy database is no reason to fail."""
    now = timezone.now()
    if key.last_used_at and now - key.last_used_at < USE_NOTED_EVERY:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - USE_NOTED_EVERY)
    try:
        with transaction.atomic():
            ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now, last_used_address=address[:45])
    except DatabaseError:
        logger.warning("The last use of a key could not be written.", exc_info=True)


def _visible(actor: Actor) -> ApiKeyQuerySet:
    rows = ApiKey.objects.for_org(actor.organization_id)
    if actor.can("key.read"):
        return rows
    actor.require("key.write")
    return rows.filter(user_id=actor.user_id)


def _membership_of_owner(actor: Actor, owner: UUID | None) -> Membership:
    membership: Membership | None = (
        Membership.objects.for_org(actor.organization_id)
        .filter(user_id=owner, user__is_active=True)
        .select_related("user")
        .first()
    )
    if membership is None:
        raise InvalidInput.for_field("user_id", "Keys belong to members of the organisation. Add this person first.")
    return membership


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    kept = sorted(set(scopes))
    if len(kept) > MOST_SCOPES:
        raise InvalidInput.for_field("scopes", f"A key takes at most {MOST_SCOPES} scopes.")
    for scope in kept:
        if len(scope) > LONGEST_SCOPE or not _SCOPE.fullmatch(scope) or not grants_of_scopes([scope]):
            raise InvalidInput.for_field("scopes", f"{scope[:LONGEST_SCOPE]} names no permission.")
    return kept


def _digest(lookup: str, secret: str, pepper_number: int) -> str:
    pepper = settings.KEY_PEPPERS.get(pepper_number, "")
    return hmac.new(pepper.encode(), f"{lookup}.{secret}".encode(), "sha256").hexdigest()


def _checksum(lookup: str, secret: str) -> str:
    number = zlib.crc32(f"{lookup}_{secret}".encode())
    letters = []
    for _ in range(CHECKSUM_LENGTH):
        number, place = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[place])
    return "".join(reversed(letters))


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
