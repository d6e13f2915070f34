"""Makes entries of the journal, the only way there is: by recording them."""

from typing import Any

import factory
from factory.django import DjangoModelFactory

from apps.audit import services
from apps.audit.models import Entry
from apps.core.actor import system_actor


class EntryFactory(DjangoModelFactory[Entry]):
    """An entry in an organisation's chain."""

    class Meta:
        model = Entry

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    action = "server.registered"
    subject = factory.Sequence(lambda number: f"server:server-{number}")
    outcome = "done"

    @classmethod
    def _create(cls, model_class: type[Entry], *args: Any, **fields: Any) -> Entry:
        organization, action, subject = (fields.pop(name) for name in ("organization", "action", "subject"))
        return services.record(system_actor(organization.id), action, subject, **fields)
