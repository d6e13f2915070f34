"""Organisations and their members."""

from uuid import UUID

from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import ApiKey, Membership, Organization, Plan, Role, User
from apps.auth.services.memory import raise_revision
from apps.auth.services.people import end_sessions, get_user
from apps.auth.services.rights import grants_of_role, require_grants
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput, NotFound, NotPermitted
from apps.core.schemas import Page, PageQuery, page_of


def create_organization(actor: Actor, *, name: str, slug: str, plan: str = Plan.FREE) -> Organization:
    """Make an organisation without members. For platform admins."""
    actor.require_platform_admin()
    _refuse_id_as_slug(slug)
    organization = Organization(name=name, slug=slug, plan=plan)
    with transaction.atomic():
        organization.store()
        made = audit.made_with(organization, ("name", "slug", "plan"))
        audit.record(
            actor, "organization.created", organization, organization_id=organization.id,
            details={"plan": plan, "changes": made},
        )  # fmt: skip
    return organization


def update_organization(
    actor: Actor,
    *,
    organization_id: UUID,
    name: str | None = None,
    slug: str | None = None,
    plan: str | None = None,
    is_active: bool | None = None,
) -> Organization:
    """Change what is given: the name with `org.write`, the rest as a platform admin."""
    organization = get_organization(actor, organization_id=organization_id)
    actor.require("org.write")
    given = {"name": name, "slug": slug, "plan": plan, "is_active": is_active}
    changes = {
        field: value for field, value in given.items() if value is not None and value != getattr(organization, field)
    }
    if set(changes) - {"name"}:
        actor.require_platform_admin()
    if not changes:
        return organization
    _refuse_id_as_slug(slug or "")
    told = audit.what_changes(organization, changes)
    for field, value in changes.items():
        setattr(organization, field, value)
    with transaction.atomic():
        raise_revision(organization.id)  # before the row is saved: it takes the journal's chain first
        organization.store(update_fields=[*changes, "updated_at"])
        audit.record(
            actor, "organization.changed", organization, organization_id=organization.id,
            details={"fields": sorted(changes), "changes": told},
        )  # fmt: skip
    organization.refresh_from_db()
    return organization


def get_organization(actor: Actor, *, organization_id: UUID) -> Organization:
    """The actor's own organisation; for a platform admin any. Raises NotFound."""
    organization = Organization.objects.filter(pk=organization_id).first() if _reaches(actor, organization_id) else None
    if organization is None:
        raise NotFound("There is no such organisation.")
    actor.require("org.read")
    return organization


def list_organizations(actor: Actor, *, page: PageQuery) -> Page:
    """Where the actor may act: a user's organisations, a key's one, for a platform admin all."""
    rows = Organization.objects.all()
    if not actor.is_platform_admin:
        mine = Membership.objects.of_user(actor.user_id)
        mine = mine.for_org(actor.organization_id) if actor.kind == "key" else mine
        rows = rows.active().filter(pk__in=mine.values("organization_id"))
    return page_of(rows, page)


def add_member(actor: Actor, *, organization_id: UUID, user_id: UUID, role: str = Role.VIEWER) -> Membership:
    """Let a user whom the actor can see into the organisation. Raises NotFound, Conflict for a member."""
    organization = _organization_to_staff(actor, organization_id)
    check_role(actor, role)
    return join(actor, organization, get_user(actor, user_id=user_id), role)


def change_role(actor: Actor, *, organization_id: UUID, membership_id: UUID, role: str) -> Membership:
    """Give a member another role. Their tokens in the organisation end, because they name the old one."""
    with transaction.atomic():
        membership = _membership_to_change(actor, organization_id, membership_id)
        check_role(actor, role)
        before = membership.role
        if before == role:
            return membership
        _keep_an_owner(membership)
        membership.role = role
        membership.store(update_fields=["role", "updated_at"])
        _end_rights(membership)
        told = {"role": {"from": before, "to": role}}
        audit.record(actor, "member.role_changed", membership, details={"from": before, "to": role, "changes": told})
    return membership


def remove_member(actor: Actor, *, organization_id: UUID, membership_id: UUID) -> None:
    """Take a person out of the organisation; their tokens there end and their keys there are revoked."""
    with transaction.atomic():
        membership = _membership_to_change(actor, organization_id, membership_id)
        _keep_an_owner(membership)
        _end_rights(membership)
        keys = ApiKey.objects.for_org(organization_id).filter(user=membership.user, revoked_at=None)
        revoked = keys.update(revoked_at=timezone.now())
        audit.record(actor, "member.removed", membership, details={"keys_revoked": revoked})
        membership.delete()


def list_members(actor: Actor, *, organization_id: UUID, page: PageQuery) -> Page:
    """Who belongs to the organisation."""
    get_organization(actor, organization_id=organization_id)
    return page_of(Membership.objects.for_org(organization_id).select_related("user"), page)


def get_member(actor: Actor, *, organization_id: UUID, membership_id: UUID) -> Membership:
    """One membership of an organisation that the actor may see. Raises NotFound."""
    get_organization(actor, organization_id=organization_id)
    membership: Membership | None = (
        Membership.objects.for_org(organization_id).filter(pk=membership_id).select_related("user").first()
    )
    if membership is None:
        raise NotFound("There is no such member.")
    return membership


def list_users(actor: Actor, *, page: PageQuery) -> Page:
    """The people of the organisation, for its staff; for a platform admin who named none, everybody."""
    actor.require("member.write")
    users = User.objects.all()
    if actor.organization_id or not actor.is_platform_admin:
        users = users.filter(pk__in=Membership.objects.for_org(actor.organization_id).values("user_id"))
    return page_of(users, page)


def _reaches(actor: Actor, organization_id: UUID) -> bool:
    return actor.is_platform_admin or actor.organization_id == organization_id


def _organization_to_staff(actor: Actor, organization_id: UUID) -> Organization:
    organization = get_organization(actor, organization_id=organization_id)
    actor.require("member.write")
    actor.require_confirmed()
    return organization


def _membership_to_change(actor: Actor, organization_id: UUID, membership_id: UUID) -> Membership:
    """The membership, with the journal's chain held: two owners must not remove each other at the same time."""
    get_organization(actor, organization_id=organization_id)
    audit.hold_chain(organization_id)
    _require_role_still(actor, organization_id)
    membership = get_member(actor, organization_id=organization_id, membership_id=membership_id)
    actor.require("member.write")
    actor.require_confirmed()
    check_role(actor, membership.role)
    return membership


def _require_role_still(actor: Actor, organization_id: UUID) -> None:
    """Raise NotPermitted where the actor's own role has been changed while they waited."""
    if actor.role and actor.user_id:
        mine = Membership.objects.for_org(organization_id).filter(user_id=actor.user_id, role=actor.role)
        if not mine.exists():
            raise NotPermitted("Your role in this organisation has just been changed.")


def check_role(actor: Actor, role: str) -> None:
    """Nobody gives or takes a role that holds more than they do, and only owners make and change owners."""
    if role not in Role.values:
        raise InvalidInput.for_field("role", f"Choose one of {', '.join(Role.values)}.")
    require_grants(actor, grants_of_role(role))
    if role == Role.OWNER and actor.role != Role.OWNER and not actor.is_platform_admin:
        raise NotPermitted("Only an owner can make, change or remove an owner.")


def _keep_an_owner(membership: Membership) -> None:
    owners = Membership.objects.for_org(membership.organization_id).filter(role=Role.OWNER, user__is_active=True)
    if membership.role == Role.OWNER and not owners.exclude(pk=membership.pk).exists():
        raise Conflict("This is the last owner of the organisation. Make somebody else an owner first.")


def join(actor: Actor, organization: Organization, user: User, role: str) -> Membership:
    """Make a member, for a service that has checked the right to."""
    membership = Membership(organization=organization, user=user, role=role)
    with transaction.atomic():
        membership.store()
        raise_revision(organization.id)
        audit.record(actor, "member.added", membership, details={"role": role, "changes": {"role": {"to": role}}})
    return membership


def _end_rights(membership: Membership) -> None:
    end_sessions(membership.user, organization_id=membership.organization_id)
    raise_revision(membership.organization_id)


def _refuse_id_as_slug(slug: str) -> None:
    """A slug that reads as an id could stand for another organisation in X-Organization."""
    try:
        UUID(slug)
    except ValueError:
        return
    raise InvalidInput.for_field("slug", "Choose a slug that does not look like an id.")
