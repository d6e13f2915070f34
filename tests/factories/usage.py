"""Makes usage events, each in its roll-ups as the writer does it, and roll-ups without events."""

from typing import Any

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from apps.usage.models import Rollup, UsageEvent
from apps.usage.services.rollups import add_to_rollups


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

    @classmethod
    def _create(cls, model_class: type[UsageEvent], *args: Any, **fields: Any) -> UsageEvent:
        event: UsageEvent = super()._create(model_class, *args, **fields)
        add_to_rollups([event])
        return event


class RollupFactory(DjangoModelFactory[Rollup]):
    """A day with one call."""

    class Meta:
        model = Rollup

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    period = "day"
    starts_at = factory.LazyFunction(lambda: timezone.now().replace(hour=0, minute=0, second=0, microsecond=0))
    server = "time"
    name = factory.Sequence(lambda number: f"time__rolled_up_{number}")
    calls = 1
    latency_us = longest_us = 12_500
    bucket_8 = 1
