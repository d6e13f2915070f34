"""Users of the platform: made, given a password, switched off and on."""

from uuid import UUID

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F

from apps.audit import services as audit
from apps.auth.models import Membership, RefreshToken, User, plain_email
from apps.auth.services.lockouts import forgive, key_of_codes
from apps.auth.services.memory import forget_actors, raise_revision
from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotFound


def create_user(
    actor: Actor, *, email: str, password: str | None, name: str = "", is_platform_admin: bool = False
) -> User:
    """Make a user of the platform; without a password they cannot log in yet. For platform admins."""
    actor.require_platform_admin()
    actor.require_confirmed()
    return make_user(actor, email=email, password=password, name=name, is_platform_admin=is_platform_admin)


def make_user(
    actor: Actor, *, email: str, password: str | None, name: str = "", is_platform_admin: bool = False
) -> User:
    """Make a user for a service that has checked the right to."""
    user = User(email=plain_email(email), name=name, is_superuser=is_platform_admin)
    _set_checked_password(user, password)
    with transaction.atomic():
        user.store()
        audit.record(actor, "user.created", user, details={"is_platform_admin": is_platform_admin})
    return user


def get_user(actor: Actor, *, user_id: UUID) -> User:
    """A user that the actor may see: oneself, members of the organisation, for a platform admin everybody."""
    users = User.objects.filter(pk=user_id)
    if not actor.is_platform_admin and user_id != actor.user_id:
        users = users.filter(pk__in=Membership.objects.for_org(actor.organization_id).values("user_id"))
    user = users.first()
    if user is None:
        raise NotFound("There is no such user.")
    return user


def set_password(actor: Actor, *, user_id: UUID, password: str) -> User:
    """Change a password, one's own or, for a platform admin, anybody's; every token of the user ends."""
    if actor.kind == "key" or user_id != actor.user_id:
        actor.require_platform_admin()
    actor.require_confirmed()
    user = get_user(actor, user_id=user_id)
    _set_checked_password(user, password)
    with transaction.atomic():
        user.store(update_fields=["password", "updated_at"])
        forgive(key_of_codes(user.pk))  # whoever guessed codes knew the old password
        end_everything(actor, user)
        audit.record(actor, "user.password_changed", user)
    return user


def deactivate_user(actor: Actor, *, user_id: UUID) -> User:
    """Switch a user off: their tokens end, their keys open nothing. For platform admins."""
    return _switch(actor, user_id, is_active=False)


def activate_user(actor: Actor, *, user_id: UUID) -> User:
    """Switch a user on again: their keys open what they did, tokens need a new login. For platform admins."""
    return _switch(actor, user_id, is_active=True)


def end_sessions(user: User, *, organization_id: UUID | None = None) -> int:
    """End the user's families of tokens, all of them or those of one organisation; says how many tokens were alive."""
    tokens = RefreshToken.objects.filter(user=user)
    forget_actors()
    return (tokens.filter(organization_id=organization_id) if organization_id else tokens).end()


def _switch(actor: Actor, user_id: UUID, *, is_active: bool) -> User:
    actor.require_platform_admin()
    actor.require_confirmed()
    user = get_user(actor, user_id=user_id)
    if user.is_active == is_active:
        return user
    with transaction.atomic():
        user.is_active = is_active
        user.store(update_fields=["is_active", "updated_at"])
        end_everything(actor, user)
        told = {"is_active": {"from": not is_active, "to": is_active}}
        audit.record(actor, "user.activated" if is_active else "user.deactivated", user, details={"changes": told})
    return user


def end_everything(actor: Actor, user: User) -> None:
    """End every session of the user, in the control room too, in the caller's transaction.

    The journal's chains are held before the tokens, also the one in which the actor is going to be recorded.
    """
    User.objects.filter(pk=user.pk).update(token_epoch=F("token_epoch") + 1)
    user.refresh_from_db(fields=["token_epoch"])
    mine = list(Membership.objects.filter(user=user).values_list("organization_id", flat=True))
    audit.hold_chains([actor.organization_id, *mine])
    for organization_id in mine:
        raise_revision(organization_id)
    end_sessions(user)


def _set_checked_password(user: User, password: str | None) -> None:
    if password is not None:
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise InvalidInput(
                "Choose a better password.", details={"fields": {"password": list(error.messages)}}
            ) from error
    user.set_password(password)
