"""Login, refresh and logout: families of tokens that end together."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import Organization, RefreshToken, User
from apps.auth.services import tokens
from apps.auth.services.invitations import forget_ended_invitations
from apps.auth.services.lockouts import forget_old_failures
from apps.auth.services.memory import forget_actors
from apps.auth.services.passwords import verify_password
from apps.auth.services.rights import actor_for_user, organizations_of
from apps.auth.services.second_factors import check_second_factor, is_second_factor_missing
from apps.auth.services.signing import prune_signing_keys
from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotAuthenticated, NotFound, ServiceError
from apps.core.ids import new_id


@dataclass(frozen=True, slots=True)
class Tokens:
    """A pair of tokens, with the organisation that they name."""

    access: str
    refresh: str
    expires_in: int
    organization: Organization | None
    token_type: str = "Bearer"  # noqa: S105 - a word of the protocol


def login(
    *, email: str, password: str, code: str | None = None, organization: str | None = None,
    resource: str | None = None, address: str = "",
) -> Tokens:  # fmt: skip
    """Begin a family of tokens for a person who knows their password, and has their second factor if there is one.

    `organization` is a slug or an id; without one, a member of exactly one organisation acts there. `resource` asks for
    tokens of the MCP endpoint instead of REST. Raises NotAuthenticated, SecondFactorNeeded, RateLimited, NotPermitted,
    NotFound, InvalidInput.
    """
    audience = _audience(resource)
    user = verify_password(email=email, password=password, address=address)
    check_second_factor(user, code=code, address=address)
    chosen = _choose(user, organization)
    actor = actor_for_user(user, organization_id=chosen.id if chosen else None, surface="rest", address=address)
    with transaction.atomic():
        User.objects.filter(pk=user.pk).update(last_login=timezone.now())
        given = _issue(user, actor, chosen, family_id=new_id(), audience=audience)
        audit.record(actor, "session.opened", f"user:{user.email}")
    return given


def refresh_tokens(*, refresh: str, address: str = "") -> Tokens:
    """Exchange a refresh token for the next pair, once.

    A spent token that comes back was copied: its whole family ends. That is committed, then NotAuthenticated raised.
    """
    claims = tokens.read_refresh_token(refresh)
    with transaction.atomic():
        is_first = _spend(claims)
        given = _next_pair(claims, address) if is_first else None
    if not is_first:
        _end_copied_family(claims, address)
    if given is None:
        raise NotAuthenticated(tokens.ENDED)
    return given


def logout(actor: Actor | None, *, refresh: str, address: str = "") -> None:
    """End the family of a refresh token: its access tokens too, within a second. Who holds the token may end it."""
    claims = tokens.read_refresh_token(refresh)
    row = RefreshToken.objects.filter(token_id=claims.jti).select_related("user").first()
    if row is None or (actor and actor.user_id != row.user_id):
        raise NotAuthenticated(tokens.ENDED)
    asking = actor if actor and actor.organization_id == row.organization_id else _plain_actor(row, address)
    with transaction.atomic():
        audit.hold_chain(asking.organization_id)  # before the tokens, like whoever takes a right away
        if RefreshToken.objects.of_family(row.family_id).end():
            audit.record(asking, "session.ended", f"user:{row.user.email}")
        forget_actors()


def forget_ended() -> None:
    """Delete what has ended: refresh tokens, invitations, failed logins without a lock, keys that verify nothing."""
    prune_signing_keys()
    forget_ended_invitations()
    now = timezone.now()
    RefreshToken.objects.filter(expires_at__lt=now).delete()
    forget_old_failures()


def _audience(resource: str | None) -> str:
    if resource is None:
        return str(settings.REST_AUDIENCE)
    if resource != settings.MCP_AUDIENCE:
        raise InvalidInput.for_field("resource", f"Tokens are given for {settings.MCP_AUDIENCE} only.")
    return str(settings.MCP_AUDIENCE)


def _choose(user: User, named: str | None) -> Organization | None:
    mine = organizations_of(user)
    if named is None:
        return mine[0] if len(mine) == 1 and not user.is_superuser else None
    chosen = next((each for each in mine if named in (each.slug, str(each.id))), None)
    if chosen is None:
        raise NotFound("You belong to no such organisation.")
    return chosen


def _spend(claims: tokens.Claims) -> bool:
    """Mark the token as spent; says whether this caller is the one who did."""
    now = timezone.now()
    unspent = RefreshToken.objects.alive().filter(
        token_id=claims.jti, user_id=claims.user, spent_at=None, expires_at__gt=now
    )
    return unspent.update(spent_at=now) == 1


def _next_pair(claims: tokens.Claims, address: str) -> Tokens | None:
    """The pair that follows the token; None where its user may not go on."""
    row = RefreshToken.objects.select_related("user", "organization").get(token_id=claims.jti)
    if row.user.token_epoch != claims.epoch or is_second_factor_missing(row.user):
        return None
    try:
        actor = actor_for_user(row.user, organization_id=row.organization_id, surface="rest", address=address)
    except ServiceError:
        return None
    return _issue(row.user, actor, row.organization, family_id=row.family_id, audience=row.audience)


def _end_copied_family(claims: tokens.Claims, address: str) -> None:
    """End the family of a token that was spent before, if it was.

    In a transaction of its own: PostgreSQL has locked the token's row for whoever waited for it in vain, until their
    transaction ends, and the chain is to be held before the tokens.
    """
    row = RefreshToken.objects.select_related("user").filter(token_id=claims.jti).exclude(spent_at=None).first()
    if row is None:
        return
    with transaction.atomic():
        audit.hold_chain(row.organization_id)  # before the tokens, like whoever takes a right away
        if RefreshToken.objects.of_family(row.family_id).end():
            forget_actors()
            reuser = _plain_actor(row, address)
            audit.record(reuser, "session.token_reused", f"user:{row.user.email}", outcome="refused")


def _issue(user: User, actor: Actor, organization: Organization | None, *, family_id: UUID, audience: str) -> Tokens:
    shared = {
        "sub": str(user.id),
        "user_id": str(user.id),
        "org": str(organization.id) if organization else None,
        "roles": [actor.role] if actor.role else [],
        "permissions": sorted(actor.grants),
        "sid": str(family_id),
        "epoch": user.token_epoch,
    }
    access = tokens.AccessToken(audience=audience)
    refresh = tokens.RefreshToken(audience=tokens.refresh_audience())
    for token in (access, refresh):
        token.payload.update(shared)
    RefreshToken(
        user=user, organization=organization, family_id=family_id, token_id=refresh["jti"], audience=audience,
        expires_at=datetime.fromtimestamp(refresh["exp"], UTC),
    ).store()  # fmt: skip
    seconds = int(tokens.AccessToken.lifetime.total_seconds())
    return Tokens(str(access), str(refresh), seconds, organization)


def _plain_actor(row: RefreshToken, address: str) -> Actor:
    """The user of a token that opens nothing any more, for the journal."""
    return Actor(
        kind="user", id=row.user_id, label=row.user.email, surface="rest", organization_id=row.organization_id,
        user_id=row.user_id, address=address,
    )  # fmt: skip
