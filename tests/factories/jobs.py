"""Makes jobs."""

import factory
from factory.django import DjangoModelFactory

from apps.jobs.models import Job


class JobFactory(DjangoModelFactory[Job]):
    """A job that waits."""

    class Meta:
        model = Job

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    kind = "registry.discover"
    subject = factory.Sequence(lambda number: f"server:server-{number}")
    actor_kind = "system"
    actor_label = "gatehouse"
