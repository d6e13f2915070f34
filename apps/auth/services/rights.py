"""Who an actor is and what it may do, from roles and memberships."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from uuid import UUID

from django.apps import apps as installed
from django.utils import timezone

from apps.auth.models import ROLE_GRANTS, STAFF_ROLES, ApiKey, Membership, Organization, User
from apps.core.actor import Actor, Surface, expand_grants, narrow_grants, system_actor
from apps.core.errors import NotAuthenticated, NotFound, NotPermitted

LONGEST_LABEL = 200


@cache
def known_permissions() -> dict[str, str]:
    """Every permission that an app declares, with the sentence that explains it."""
    found: dict[str, str] = {}
    for config in installed.get_app_configs():
        found.update(getattr(config, "permissions", {}))
    return found


@cache
def grants_of_role(role: str) -> frozenset[str]:
    """The permissions of a role; none for a role that does not exist."""
    return expand_grants(ROLE_GRANTS.get(role, ()), known_permissions())


def grants_of_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """The permissions that scopes name."""
    return expand_grants(scopes, known_permissions())


def grants_of(user: User, role: str) -> frozenset[str]:
    """What a user may do in a role; a platform admin may do everything."""
    return frozenset(known_permissions()) if user.is_superuser else grants_of_role(role)


def is_staff(actor: Actor) -> bool:
    """Whether the actor runs the organisation it acts in: its owners and admins, and platform admins."""
    return actor.is_platform_admin or actor.role in STAFF_ROLES


def require_grants(actor: Actor, wanted: frozenset[str]) -> None:
    """Raise NotPermitted unless the actor holds all of these: nobody gives away what they do not have."""
    if actor.kind != "system":
        check_covered(wanted, actor.grants)


def check_covered(wanted: frozenset[str], held: frozenset[str]) -> None:
    """Raise NotPermitted naming what is wanted and not held."""
    missing = sorted(wanted - narrow_grants(held, wanted))
    if missing:
        raise NotPermitted(
            f"Nobody can give away what they do not hold: {', '.join(missing)}.", details={"missing": missing}
        )


def membership_of(user: User, organization_id: UUID | None) -> Membership | None:
    """The user's membership in an active organisation."""
    return (
        Membership.objects.for_org(organization_id)
        .of_user(user.id)
        .filter(organization__is_active=True)
        .select_related("organization")
        .first()
    )


def organizations_of(user: User) -> list[Organization]:
    """The active organisations where the user is a member; for a platform admin, all active ones."""
    active = Organization.objects.active()
    return list(active if user.is_superuser else active.filter(pk__in=user.memberships.values("organization_id")))


def staff_organizations_of(user: User) -> list[Organization]:
    """The active organisations whose control room opens for the user: as owner or admin, or as platform admin."""
    active = Organization.objects.active()
    staffed = Membership.objects.staff().filter(user=user).values("organization_id")
    return list(active if user.is_superuser else active.filter(pk__in=staffed))


def actor_for_user(user: User, *, organization_id: UUID | None, surface: Surface, address: str = "") -> Actor:
    """The user in one of their organisations, or in none.

    Raises NotAuthenticated for a user who was switched off, NotFound where the user is no member.
    """
    if not user.is_active:
        raise NotAuthenticated
    if organization_id is None:
        return user_actor(user, None, "", surface=surface, address=address)
    membership = membership_of(user, organization_id)
    if membership:
        return user_actor(user, membership.organization, membership.role, surface=surface, address=address)
    organization = Organization.objects.active().filter(pk=organization_id).first() if user.is_superuser else None
    if organization is None:
        raise NotFound("You belong to no such organisation.")
    return user_actor(user, organization, "", surface=surface, address=address)


def user_actor(
    user: User, organization: Organization | None, role: str, *, surface: Surface, address: str = ""
) -> Actor:
    """The actor of a user whose place has been looked up."""
    return Actor(
        kind="user",
        id=user.id,
        label=user.email[:LONGEST_LABEL],
        surface=surface,
        organization_id=organization.id if organization else None,
        organization_slug=organization.slug if organization else "",
        user_id=user.id,
        role=role,
        grants=grants_of(user, role),
        is_platform_admin=user.is_superuser,
        address=address,
    )


def key_actor(key: ApiKey, *, surface: Surface, address: str = "") -> Actor:
    """The actor of a key: its owner's permissions in its organisation, narrowed by its scopes.

    A key never carries the power of a platform admin. Raises NotAuthenticated where the key opens nothing any more.
    """
    membership = membership_of(key.user, key.organization_id)
    if key.revoked_at:
        raise NotAuthenticated("This key has been revoked. Create a new one under Keys.")
    if key.expires_at and key.expires_at <= timezone.now():
        raise NotAuthenticated("This key has expired. Create a new one under Keys.")
    if not key.user.is_active or membership is None:
        raise NotAuthenticated("The owner of this key is no member of its organisation any more.")
    grants = grants_of_role(membership.role)
    return Actor(
        kind="key",
        id=key.id,
        label=f"{key.name} ({key.user.email})"[:LONGEST_LABEL],
        surface=surface,
        organization_id=key.organization_id,
        organization_slug=membership.organization.slug,
        user_id=key.user_id,
        key_id=key.id,
        role=membership.role,
        grants=narrow_grants(grants, grants_of_scopes(key.scopes)) if key.scopes else grants,
        address=address,
    )


def actor_for_job(kind: str, actor_id: UUID | None, organization_id: UUID | None) -> Actor:
    """The actor of a job, as it is now: work that began with a right ends without it.

    Raises NotAuthenticated or NotFound when user, key or membership is gone.
    """
    if kind == "system":
        return system_actor(organization_id)
    if kind == "user" and actor_id:
        user = User.objects.filter(pk=actor_id).first()
        if user:
            return actor_for_user(user, organization_id=organization_id, surface="job")
    if kind == "key":
        key = ApiKey.objects.for_org(organization_id).filter(pk=actor_id).select_related("user").first()
        if key:
            return key_actor(key, surface="job")
    raise NotAuthenticated("Whoever started this is not known any more.")


@dataclass(frozen=True, slots=True)
class Place:
    """An organisation where somebody may act, and as what."""

    id: UUID
    slug: str
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class Me:
    """What a caller is told about themselves."""

    user: User
    key: ApiKey | None
    organization: Place | None
    role: str
    permissions: list[str]
    is_platform_admin: bool
    organizations: list[Place]


def describe_me(actor: Actor) -> Me:
    """Who the actor is, where it acts, what it may do, and where else it could act."""
    user = User.objects.get(pk=actor.user_id or UUID(int=0))
    key = ApiKey.objects.for_org(actor.organization_id).filter(pk=actor.key_id).first() if actor.key_id else None
    roles = dict(user.memberships.values_list("organization_id", "role"))
    places = [Place(each.id, each.slug, each.name, roles.get(each.id, "")) for each in organizations_of(user)]
    here = next((place for place in places if place.id == actor.organization_id), None)
    shown = [here] if key and here else places
    return Me(user, key, here, actor.role, sorted(actor.grants), actor.is_platform_admin, shown)
