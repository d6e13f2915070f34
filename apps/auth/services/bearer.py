"""From a bearer credential to an actor: a key, or an access token for the right audience."""

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from django.db.models import Exists, OuterRef
from django.utils import timezone

from apps.auth.models import Organization, RefreshToken, User
from apps.auth.services.addresses import check_address
from apps.auth.services.keys import find_key, note_use
from apps.auth.services.memory import FRESH_SECONDS, memory, memory_key
from apps.auth.services.rights import key_actor, membership_of, user_actor
from apps.auth.services.tokens import ENDED, LONGEST_TOKEN, Claims, read_access_token
from apps.core.actor import Actor, Surface
from apps.core.errors import Malformed, NotAuthenticated, NotFound

KEY_PREFIX = "gate_"
_ORGANIZATION_NAME = re.compile(r"[a-z0-9-]{1,50}")


def known_actor(
    credential: str, *, surface: Surface, audience: str, address: str = "", organization: str | None = None
) -> Actor | None:
    """The actor found for this credential within the last second; reads memory only, so that async code may call it."""
    if not credential.isascii() or not (organization or "").isascii():
        return None
    actor = memory.recall(memory_key(credential, audience, organization, address))
    return _seen_at(actor, surface, address) if actor else None


def actor_from_bearer(
    credential: str, *, surface: Surface, audience: str, address: str = "", organization: str | None = None
) -> Actor:
    """The actor of a key, or of an access token for this audience.

    `organization` is what X-Organization says: a slug or an id; a key, or a token that names one, must agree with it.
    Raises NotAuthenticated, Malformed where they differ, NotFound where the user is no member, NotPermitted where the
    key may not be used from this address.
    """
    if not credential.isascii() or len(credential) > LONGEST_TOKEN:
        raise NotAuthenticated
    if organization is not None and not _ORGANIZATION_NAME.fullmatch(organization):
        raise Malformed("X-Organization takes the slug or the id of an organisation.")
    found = known_actor(credential, surface=surface, audience=audience, address=address, organization=organization)
    if found:
        return found
    began, clearings = time.monotonic(), memory.clearings
    if credential.startswith(KEY_PREFIX):
        actor, expires_at = _of_key(credential, surface, organization, address)
    else:
        actor, expires_at = _of_token(read_access_token(credential, audience=audience), surface, organization)
    until = began + min(FRESH_SECONDS, _seconds_until(expires_at))
    actor = _seen_at(actor, surface, address)
    memory.keep(memory_key(credential, audience, organization, address), actor, until=until, clearings=clearings)
    return actor


def _seen_at(actor: Actor, surface: Surface, address: str) -> Actor:
    if actor.surface == surface and actor.address == address:
        return actor
    return replace(actor, surface=surface, address=address)


def _seconds_until(moment: datetime | None) -> float:
    return (moment - timezone.now()).total_seconds() if moment else FRESH_SECONDS


def _of_key(credential: str, surface: Surface, organization: str | None, address: str) -> tuple[Actor, datetime | None]:
    key = find_key(credential)
    actor = key_actor(key, surface=surface)
    check_address(address, key.allowed_addresses)
    _refuse_other(actor.organization_id, actor.organization_slug, organization)
    note_use(key, address=address)
    return actor, key.expires_at


def _of_token(claims: Claims, surface: Surface, organization: str | None) -> tuple[Actor, datetime | None]:
    alive = RefreshToken.objects.of_family(claims.family).alive().filter(user_id=OuterRef("pk"))
    user = User.objects.filter(pk=claims.user, is_active=True, token_epoch=claims.epoch).filter(Exists(alive)).first()
    if user is None:
        raise NotAuthenticated(ENDED)
    claimed = claims.organization
    chosen, role = _place_in_claim(user, claimed) if claimed else _place_in_header(user, organization)
    if chosen and claimed:
        _refuse_other(chosen.id, chosen.slug, organization)
    return user_actor(user, chosen, role, surface=surface), datetime.fromtimestamp(claims.exp, UTC)


def _place_in_claim(user: User, organization_id: UUID) -> tuple[Organization | None, str]:
    membership = membership_of(user, organization_id)
    if membership:
        return membership.organization, membership.role
    organization = Organization.objects.active().filter(pk=organization_id).first() if user.is_superuser else None
    if organization is None:
        raise NotAuthenticated(ENDED)
    return organization, ""


def _place_in_header(user: User, named: str | None) -> tuple[Organization | None, str]:
    if named is None:
        return None, ""
    organization = _named(named)
    membership = membership_of(user, organization.id) if organization else None
    if organization is None or not (membership or user.is_superuser):
        raise NotFound("You belong to no such organisation.")
    return organization, membership.role if membership else ""


def _named(named: str) -> Organization | None:
    active = Organization.objects.active()
    try:
        return active.filter(pk=UUID(named)).first()
    except ValueError:
        return active.filter(slug=named).first()


def _refuse_other(organization_id: UUID | None, slug: str, named: str | None) -> None:
    if named is not None and named not in (slug, str(organization_id)):
        raise Malformed(
            "X-Organization names another organisation than the credential. Leave it out, or sign in there."
        )
