"""Makes usage events."""

import factory
from factory.django import DjangoModelFactory

from apps.usage.models import UsageEvent


class UsageEventFactory(DjangoModelFactory[UsageEvent]):
    """A call that went well."""

    class Meta:
        model = UsageEvent

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    surface = "mcp"
    endpoint = "/mcp"
    method = "tools/call"
    name = factory.Sequence(lambda number: f"time__tool_{number}")
    server = "time"
    status = "ok"
    actor_kind = "key"
    actor_label = "ci"
    latency_ms = 12.5
