"""Who asks: one frozen description that every service takes first."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal
from uuid import UUID

from apps.core.errors import ConfirmationNeeded, NotPermitted

Surface = Literal["rest", "mcp", "ws", "admin", "job", "command"]
Kind = Literal["user", "key", "system"]


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, a key or the platform itself, in one organisation, at one door.

    `grants` holds concrete permissions (`server.read`), or permissions narrowed to names by a pattern
    (`tool.call:time__*`). It never holds a wildcard over permissions: whoever builds the actor expands those.
    `is_confirmed` says of somebody in the control room that they have proved a moment ago that it is them.
    `organization_id` is None only for the platform itself and for a platform admin who has named no organisation.
    """

    kind: Kind
    id: UUID | None
    label: str
    surface: Surface
    organization_id: UUID | None = None
    organization_slug: str = ""
    user_id: UUID | None = None
    key_id: UUID | None = None
    role: str = ""
    grants: frozenset[str] = field(default_factory=frozenset)
    is_platform_admin: bool = False
    address: str = ""
    is_confirmed: bool = False

    def can(self, permission: str, name: str | None = None) -> bool:
        """Whether the permission is held, for everything or for the thing of this name.

        Without a name, a permission narrowed to names counts too: it opens the list, and each entry is asked for.
        """
        if self.kind == "system" or permission in self.grants:
            return True
        narrowed = [grant.partition(":")[2] for grant in self.grants if grant.startswith(permission + ":")]
        return bool(narrowed) and (name is None or any(fnmatchcase(name, pattern) for pattern in narrowed))

    def require(self, permission: str, name: str | None = None) -> None:
        """Raise NotPermitted unless `can`."""
        if not self.can(permission, name):
            raise NotPermitted(
                f"This needs the permission {permission}, which {self.label} does not have."
                " Ask an admin of the organisation for it.",
                details={"permission": permission},
            )

    def require_platform_admin(self) -> None:
        """Raise NotPermitted unless a platform admin asks."""
        if not self.is_platform_admin:
            raise NotPermitted("Only a platform admin may do this.")

    def require_confirmed(self) -> None:
        """Raise ConfirmationNeeded in the control room, where a cookie lasts for days, without a fresh proof.

        Every other door is opened by what a browser does not send by itself.
        """
        if self.surface == "admin" and not self.is_confirmed:
            raise ConfirmationNeeded

    def at(self, surface: Surface) -> "Actor":
        """The same actor at another door."""
        return replace(self, surface=surface)


def system_actor(organization_id: UUID | None = None, *, surface: Surface = "job") -> Actor:
    """The platform itself, for work that nobody asked for: schedules, clean-up, first start."""
    return Actor(
        kind="system",
        id=None,
        label="gatehouse",
        surface=surface,
        organization_id=organization_id,
        is_platform_admin=True,
    )


def expand_grants(patterns: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """Turn `server.*`, `*` and `tool.call:time__*` into concrete grants out of the known permissions.

    Patterns that match nothing known are dropped: a scope can never grant what no app declares.
    """
    permissions = list(known)
    grants: set[str] = set()
    for pattern in patterns:
        permission, colon, names = pattern.partition(":")
        matches = [name for name in permissions if fnmatchcase(name, permission)]
        grants.update(f"{match}:{names}" if colon else match for match in matches)
    return frozenset(grants)


def narrow_grants(grants: frozenset[str], scopes: frozenset[str]) -> frozenset[str]:
    """What both hold: a key's scopes can only take away from what its owner may do.

    An owner's whole permission meets a scope with a name pattern in that scope; two name patterns meet only when equal.
    """
    kept: set[str] = set()
    for scope in scopes:
        permission, _, _ = scope.partition(":")
        if scope in grants or permission in grants:
            kept.add(scope)
    for grant in grants:
        permission, colon, _ = grant.partition(":")
        if colon and permission in scopes:
            kept.add(grant)
    return frozenset(kept)
