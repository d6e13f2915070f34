"""The people of the tests' stories: Alice owns Acme, Bob owns Globex, the platform admin belongs to nobody."""

from dataclasses import dataclass
from typing import Any

from apps.core.actor import Actor

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Person:
    """A user, what they may do in their organisation, and how they sign in."""

    user: Any
    organization: Any
    actor: Actor
    password: str = PASSWORD

    @property
    def email(self) -> str:
        """What they sign in with."""
        return str(self.user.email)


def make_person(name: str, slug: str | None, role: str) -> Person:
    """A user with a role in the organisation of this slug (made on first use), or a platform admin."""
    from apps.auth import services as auth
    from apps.auth.models import Membership, Organization, User

    user = User.objects.create_user(f"{name}@{slug or 'gatehouse'}.example", PASSWORD, is_superuser=slug is None)
    organization = None
    if slug:
        organization = (
            Organization.objects.filter(slug=slug).first() or Organization(name=slug.title(), slug=slug).store()
        )
        Membership(organization=organization, user=user, role=role).store()
    actor = auth.actor_for_user(user, organization_id=organization.id if organization else None, surface="rest")
    return Person(user, organization, actor)
