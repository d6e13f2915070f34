"""Makes secrets."""

from typing import Any

import factory
from factory.django import DjangoModelFactory

from apps.core.actor import system_actor
from apps.secrets import services
from apps.secrets.models import Secret


class SecretFactory(DjangoModelFactory[Secret]):
    """A secret whose plain value is `plain`."""

    class Meta:
        model = Secret

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    purpose = factory.Sequence(lambda number: f"server:server-{number}")
    plain = "correct horse battery staple"

    @classmethod
    def _create(cls, model_class: type[Secret], *args: Any, **fields: Any) -> Secret:
        return services.keep(system_actor(fields["organization"].id), purpose=fields["purpose"], plain=fields["plain"])
