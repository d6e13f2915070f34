"""Every verb of people, organisations, keys and tokens."""

from apps.auth.services.bearer import actor_from_bearer, known_actor
from apps.auth.services.keys import NewKey, create_key, get_key, list_keys, revoke_key, rotate_key
from apps.auth.services.memory import raise_revision, read_revision
from apps.auth.services.organizations import (
    add_member,
    change_role,
    create_organization,
    get_member,
    get_organization,
    invite_member,
    let_in,
    list_members,
    list_organizations,
    list_users,
    remove_member,
    update_organization,
)
from apps.auth.services.passwords import verify_password
from apps.auth.services.people import activate_user, create_user, deactivate_user, get_user, set_password
from apps.auth.services.rights import (
    actor_for_job,
    actor_for_user,
    describe_me,
    grants_of_role,
    is_staff,
    known_permissions,
    organizations_of,
    staff_organizations_of,
)
from apps.auth.services.sessions import Tokens, forget_ended, login, logout, refresh_tokens
from apps.auth.services.signing import prune_signing_keys, published_keys, rotate_signing_key, verifying_keys

__all__ = [
    "NewKey",
    "Tokens",
    "activate_user",
    "actor_for_job",
    "actor_for_user",
    "actor_from_bearer",
    "add_member",
    "change_role",
    "create_key",
    "create_organization",
    "create_user",
    "deactivate_user",
    "describe_me",
    "forget_ended",
    "get_key",
    "get_member",
    "get_organization",
    "get_user",
    "grants_of_role",
    "invite_member",
    "is_staff",
    "known_actor",
    "known_permissions",
    "let_in",
    "list_keys",
    "list_members",
    "list_organizations",
    "list_users",
    "login",
    "logout",
    "organizations_of",
    "prune_signing_keys",
    "published_keys",
    "raise_revision",
    "read_revision",
    "refresh_tokens",
    "remove_member",
    "revoke_key",
    "rotate_key",
    "rotate_signing_key",
    "set_password",
    "staff_organizations_of",
    "update_organization",
    "verify_password",
    "verifying_keys",
]
