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
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import Q
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import ApiKey, ApiKeyQuerySet, Membership, User
from apps.auth.services.addresses import check_within, checked_networks
from apps.auth.services.memory import raise_revision
from apps.auth.services.rights import check_covered, grants_of_role, grants_of_scopes, require_grants
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput, NotAuthenticated, NotFound
from apps.core.schemas import Page, PageQuery, page_of

logger = logging.getLogger(__name__)

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
LOOKUP_LENGTH = 16
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
MOST_SCOPES = 100
LONGEST_SCOPE = 200
USE_NOTED_EVERY = timedelta(minutes=1)
USUAL_OVERLAP_SECONDS = 86_400
LONGEST_OVERLAP_SECONDS = 30 * 86_400
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
    allowed_addresses: Iterable[str] = (),
) -> NewKey:
    """Make a key of a member, by default of the actor's own; its text cannot be shown again.

    Raises NotPermitted for a scope, or for rights of the owner, that the actor does not hold, and for addresses from
    which the actor's own key may not be used.
    """
    owner = user_id or actor.user_id
    actor.require("key.write" if owner and owner == actor.user_id else "key.manage")
    actor.require_confirmed()
    membership = _membership_of_owner(actor, owner)
    kept = _checked_scopes(scopes)
    owned = grants_of_role(membership.role)
    wanted = grants_of_scopes(kept) if kept else owned
    require_grants(actor, wanted)
    check_covered(wanted, owned)
    networks = checked_networks(allowed_addresses)
    _require_addresses(actor, networks)
    if expires_at and expires_at <= timezone.now():
        raise InvalidInput.for_field("expires_at", "Choose a moment in the future.")
    return _store(
        actor, organization_id=membership.organization_id, user=membership.user, name=name, scopes=kept,
        expires_at=expires_at, allowed_addresses=networks,
    )  # fmt: skip


def rotate_key(actor: Actor, *, key_id: UUID, overlap_seconds: int = USUAL_OVERLAP_SECONDS) -> NewKey:
    """Make the successor of a key, with its owner, scopes, addresses and lifetime; the old one ends after the overlap.

    Raises Conflict for a key that opens nothing any more or has a successor, NotPermitted for one that can do more than
    the actor.
    """
    old = get_key(actor, key_id=key_id)
    actor.require("key.write" if old.user_id == actor.user_id else "key.manage")
    actor.require_confirmed()
    if not 0 <= overlap_seconds <= LONGEST_OVERLAP_SECONDS:
        raise InvalidInput.for_field("overlap_seconds", f"Choose between 0 and {LONGEST_OVERLAP_SECONDS} seconds.")
    membership = _membership_of_owner(actor, old.user_id)
    require_grants(actor, grants_of_scopes(old.scopes) if old.scopes else grants_of_role(membership.role))
    _require_addresses(actor, old.allowed_addresses)
    now = timezone.now()
    before = _may_be_rotated(old, now)
    ends_at = min(filter(None, (old.expires_at, now + timedelta(seconds=overlap_seconds))))
    with transaction.atomic():
        raise_revision(old.organization_id)  # before the rows: it takes the journal's chain first
        new = _store(
            actor, organization_id=old.organization_id, user=old.user, name=old.name, scopes=old.scopes,
            expires_at=now + (before.expires_at - before.created_at) if before.expires_at else None,
            allowed_addresses=old.allowed_addresses,
        )  # fmt: skip
        unchanged = ApiKey.objects.usable(now).filter(pk=old.pk, successor_id=old.successor_id)
        if not unchanged.update(successor=new.key, expires_at=ends_at, updated_at=now):
            raise Conflict("This key has changed meanwhile. Look at it again.")
        told = {"expires_at": {"from": old.expires_at and old.expires_at.isoformat(), "to": ends_at.isoformat()}}
        said = {"successor": new.key.prefix, "ends_at": ends_at.isoformat(), "changes": told}
        audit.record(actor, "key.rotated", old, details=said)
    return new


def _may_be_rotated(key: ApiKey, now: datetime) -> ApiKey:
    """The key whose lifetime the successor gets: a rotation has shortened that of a key with a lost successor."""
    if key.revoked_at or (key.expires_at and key.expires_at <= now):
        raise Conflict("This key opens nothing any more. Create a new one.")
    successor = key.successor
    if successor and not successor.revoked_at:
        raise Conflict("This key has a successor already. Rotate that one, or revoke it if its text was lost.")
    return successor or key


def _store(actor: Actor, *, user: User, **fields: Any) -> NewKey:
    lookup, secret = _random(LOOKUP_LENGTH), _random(SECRET_LENGTH)
    number = max(settings.KEY_PEPPERS)
    digest = _digest(lookup, secret, number)
    key = ApiKey(user=user, lookup=lookup, digest=digest, pepper_number=number, **fields)
    made = audit.made_with(key, ("name", "scopes", "allowed_addresses", "expires_at"))
    said = {"scopes": key.scopes, "allowed_addresses": key.allowed_addresses, "owner": str(user), "changes": made}
    with transaction.atomic():
        audit.hold_chain(key.organization_id)  # like whoever removes a member, and revokes their keys
        if not Membership.objects.for_org(key.organization_id).filter(user=user).exists():
            raise NotFound("There is no such member.")
        key.store()
        audit.record(actor, "key.created", key, details=said)
    return NewKey(key, f"gate_{lookup}_{secret}{_checksum(lookup, secret)}")


def _require_addresses(actor: Actor, networks: list[str]) -> None:
    """A key that is bound to addresses gives away nothing that works elsewhere."""
    # allowed: the very key that asks
    maker = ApiKey.objects.usable(timezone.now()).filter(pk=actor.key_id).first() if actor.key_id else None
    if maker:
        check_within(networks, maker.allowed_addresses)
    elif actor.key_id:
        raise NotAuthenticated


def list_keys(actor: Actor, *, page: PageQuery) -> Page:
    """The actor's own keys in the organisation, or everybody's with `key.read`."""
    return page_of(_visible(actor).select_related("user"), page)


def get_key(actor: Actor, *, key_id: UUID) -> ApiKey:
    """One key that the actor may see; raises NotFound."""
    key: ApiKey | None = _visible(actor).filter(pk=key_id).select_related("user", "successor").first()
    if key is None:
        raise NotFound("There is no such key.")
    return key


def revoke_key(actor: Actor, *, key_id: UUID) -> ApiKey:
    """End a key for good: at once here, within a second in every other web process."""
    key = get_key(actor, key_id=key_id)
    actor.require("key.write" if key.user_id == actor.user_id else "key.manage")
    actor.require_confirmed()
    if key.revoked_at:
        return key
    with transaction.atomic():
        raise_revision(key.organization_id)  # before the row: it takes the journal's chain first
        key.revoked_at = timezone.now()
        key.store(update_fields=["revoked_at", "updated_at"])
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
        # allowed: the key says whose it is
        ApiKey.objects.filter(lookup=lookup).values_list("digest", "pepper_number").first()
        or (_NOBODY, max(settings.KEY_PEPPERS))
    )  # fmt: skip
    if not hmac.compare_digest(_digest(lookup, secret, number), digest):
        raise NotAuthenticated
    # allowed: the key says whose it is
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
