"""Makes organisations, people, keys and sessions."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import factory
from django.conf import settings
from django.utils import timezone
from factory.django import DjangoModelFactory

from apps.auth import services
from apps.auth.models import ApiKey, Invitation, Membership, Organization, RefreshToken, Role, User
from apps.core.actor import system_actor


class OrganizationFactory(DjangoModelFactory[Organization]):
    """An organisation without members."""

    class Meta:
        model = Organization

    name = factory.Sequence(lambda number: f"Organisation {number}")
    slug = factory.Sequence(lambda number: f"organisation-{number}")


class UserFactory(DjangoModelFactory[User]):
    """A person without a password; give `password` to let them sign in."""

    class Meta:
        model = User

    email = factory.Sequence(lambda number: f"person-{number}@somewhere.example")
    name = factory.Sequence(lambda number: f"Person {number}")
    password = None

    @classmethod
    def _create(cls, model_class: type[User], *args: Any, **fields: Any) -> User:
        return User.objects.create_user(**fields)


class MembershipFactory(DjangoModelFactory[Membership]):
    """A person's role in an organisation."""

    class Meta:
        model = Membership

    organization = factory.SubFactory(OrganizationFactory)
    user = factory.SubFactory(UserFactory)
    role = Role.DEVELOPER


class ApiKeyFactory(DjangoModelFactory[ApiKey]):
    """A key of a member; its owner is let into the organisation first."""

    class Meta:
        model = ApiKey

    organization = factory.SubFactory(OrganizationFactory)
    user = factory.SubFactory(UserFactory)
    name = factory.Sequence(lambda number: f"key {number}")

    @classmethod
    def _create(cls, model_class: type[ApiKey], *args: Any, **fields: Any) -> ApiKey:
        organization, user = fields.pop("organization"), fields.pop("user")
        Membership.objects.get_or_create(organization=organization, user=user, defaults={"role": Role.DEVELOPER})
        successor = fields.pop("successor", None)
        key = services.create_key(system_actor(organization.id), user_id=user.id, **fields).key
        key.successor = successor
        return key.store(update_fields=["successor"])


class RefreshTokenFactory(DjangoModelFactory[RefreshToken]):
    """The first token of a family."""

    class Meta:
        model = RefreshToken

    organization = factory.SubFactory(OrganizationFactory)
    user = factory.SubFactory(UserFactory)
    family_id = factory.LazyFunction(uuid4)
    token_id = factory.LazyFunction(uuid4)
    audience = factory.LazyFunction(lambda: settings.REST_AUDIENCE)
    expires_at = factory.LazyFunction(lambda: timezone.now() + timedelta(days=7))


class InvitationFactory(DjangoModelFactory[Invitation]):
    """An invitation that nobody has accepted yet."""

    class Meta:
        model = Invitation

    organization = factory.SubFactory(OrganizationFactory)
    email = factory.LazyAttributeSequence(lambda row, number: f"guest-{number}@{row.organization.slug}.example")
    role = Role.VIEWER
    digest = factory.LazyFunction(lambda: uuid4().hex * 2)
    expires_at = factory.LazyFunction(lambda: timezone.now() + timedelta(days=7))
