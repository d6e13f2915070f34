"""Invitations: nobody is let in whom an address alone stands for.

Whoever holds an invitation's link chooses the password of a new account, or shows that they know the one of the account
that the address has. So nobody gets a password that somebody else chose, and an account that somebody else made in
another person's name is let in nowhere: it takes the link *and* the account's own password.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import Invitation, Membership, Role, User, plain_email
from apps.auth.services.organizations import check_role, get_organization, join
from apps.auth.services.passwords import verify_password
from apps.auth.services.people import make_user
from apps.auth.services.rights import actor_for_user, user_actor
from apps.core.actor import Actor
from apps.core.errors import Conflict, NotFound, ServiceError
from apps.core.schemas import Page, PageQuery, page_of

LIFETIME = timedelta(days=7)
# The log masks what begins like this.
PREFIX = "gate_invitation_"
_TOKEN_BYTES = 32
_ENDED = "This invitation has been used or withdrawn, or its time is over. Ask for another one."


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """An invitation just made, with the link that is shown this once."""

    invitation: Invitation
    link: str


def invite_member(actor: Actor, *, organization_id: UUID, email: str, role: str = Role.VIEWER) -> NewInvitation:
    """Invite the person with this e-mail address; they become a member when they accept, with the link, in seven days.

    Whether the address has an account makes no difference to the answer. Raises Conflict for a member, and for an
    address with an open invitation.
    """
    organization = get_organization(actor, organization_id=organization_id)
    actor.require("member.write")
    actor.require_confirmed()
    check_role(actor, role)
    email, token = plain_email(email), PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    if Membership.objects.for_org(organization.id).filter(user__email=email).exists():
        raise Conflict("This person is a member already.")
    invitation = Invitation(
        organization=organization, email=email, role=role, digest=_digest(token), invited_by_id=actor.user_id,
        expires_at=timezone.now() + LIFETIME,
    )  # fmt: skip
    with transaction.atomic():
        Invitation.objects.for_org(organization.id).ended().filter(email=email).delete()
        invitation.store()
        audit.record(actor, "member.invited", invitation, details={"role": role})
    return NewInvitation(invitation, f"{settings.PUBLIC_URL}/invitation#{token}")


def list_invitations(actor: Actor, *, organization_id: UUID, page: PageQuery) -> Page:
    """The organisation's invitations that nobody has accepted yet, for its staff."""
    get_organization(actor, organization_id=organization_id)
    actor.require("member.write")
    return page_of(Invitation.objects.for_org(organization_id), page)


def withdraw_invitation(actor: Actor, *, organization_id: UUID, invitation_id: UUID) -> None:
    """Let the link of an invitation open nothing any more."""
    get_organization(actor, organization_id=organization_id)
    actor.require("member.write")
    invitation = Invitation.objects.for_org(organization_id).filter(pk=invitation_id).first()
    if invitation is None:
        raise NotFound("There is no such invitation.")
    with transaction.atomic():
        # Before the journal's chain, like whoever makes another or accepts this one.
        if not Invitation.objects.filter(pk=invitation.pk).delete()[0]:
            raise NotFound("There is no such invitation.")
        audit.record(actor, "invitation.withdrawn", invitation)


def accept_invitation(*, token: str, password: str, name: str = "", address: str = "") -> Membership:
    """Join the organisation that an invitation is for.

    The password is that of the account which the address has; where it has none, an account is made with it. Raises
    NotFound for a link that is not good, or whose maker may not invite any more; what `verify_password` raises; and
    InvalidInput for a new password that is too weak.
    """
    invitation = _open_invitation(token)
    known = User.objects.filter(email=invitation.email).exists()
    user = verify_password(email=invitation.email, password=password, address=address) if known else None
    with transaction.atomic():
        if not Invitation.objects.filter(pk=invitation.pk).delete()[0]:
            raise NotFound(_ENDED)
        audit.hold_chain(invitation.organization_id)  # like whoever takes a right away: nobody does from here on
        if not _may_still_invite(invitation):
            raise NotFound(_ENDED)
        guest = user or make_user(_stranger(invitation, address), email=invitation.email, password=password, name=name)
        actor = user_actor(guest, invitation.organization, invitation.role, surface="rest", address=address)
        return join(actor, invitation.organization, guest, invitation.role)


def forget_ended_invitations() -> None:
    """Delete those whose time is over."""
    Invitation.objects.ended().delete()


def _open_invitation(token: str) -> Invitation:
    invitation: Invitation | None = (
        Invitation.objects.open()
        .filter(digest=_digest(token), organization__is_active=True)
        .select_related("organization")
        .first()
    )
    if invitation is None or not _may_still_invite(invitation):
        raise NotFound(_ENDED)
    return invitation


def _may_still_invite(invitation: Invitation) -> bool:
    """Whether whoever made it could make it now: nobody lets anybody in after their own rights are gone."""
    if invitation.invited_by_id is None:
        return True
    maker = User.objects.filter(pk=invitation.invited_by_id).first()  # as they are now
    if maker is None:
        return False
    try:
        actor = actor_for_user(maker, organization_id=invitation.organization_id, surface="rest")
        actor.require("member.write")
        check_role(actor, invitation.role)
    except ServiceError:
        return False
    return True


def _stranger(invitation: Invitation, address: str) -> Actor:
    """Whoever holds the link, for the journal, before they have an account."""
    return Actor(
        kind="user", id=None, label=invitation.email, surface="rest", organization_id=invitation.organization_id,
        address=address,
    )  # fmt: skip


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()
