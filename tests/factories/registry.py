"""Makes servers and what belongs to them."""

from datetime import timedelta

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from apps.registry.models import (
    Capability,
    CapabilityKind,
    Credential,
    Discovery,
    Health,
    HealthCheck,
    HealthHour,
    Server,
)
from apps.registry.services.definitions import digest_of


class ServerFactory(DjangoModelFactory[Server]):
    """A streamable HTTP server that waits for approval."""

    class Meta:
        model = Server

    organization = factory.SubFactory("tests.factories.auth.OrganizationFactory")
    name = factory.Sequence(lambda number: f"Server {number}")
    slug = factory.Sequence(lambda number: f"server-{number}")
    url = factory.LazyAttribute(lambda server: f"https://{server.slug}.example/mcp")


def _kept(credential: Credential) -> object:
    """The id of a sealed secret in the organisation of the credential's server."""
    from apps.core.actor import system_actor
    from apps.secrets import services as secrets

    actor = system_actor(credential.server.organization_id)
    return secrets.keep(actor, purpose=f"server:{credential.server.slug}", plain="a secret of the factory").id


class CredentialFactory(DjangoModelFactory[Credential]):
    """A bearer token of a server."""

    class Meta:
        model = Credential

    organization = factory.SelfAttribute("server.organization")
    server = factory.SubFactory(ServerFactory)
    kind = "bearer"
    secret_id = factory.LazyAttribute(_kept)


class CapabilityFactory(DjangoModelFactory[Capability]):
    """A tool that waits for approval."""

    class Meta:
        model = Capability

    organization = factory.SelfAttribute("server.organization")
    server = factory.SubFactory(ServerFactory)
    kind = CapabilityKind.TOOL
    name = factory.Sequence(lambda number: f"tool_{number}")
    public_name = factory.LazyAttribute(lambda capability: f"{capability.server.slug}__{capability.name}")
    definition = factory.LazyAttribute(
        lambda capability: {
            "name": capability.name, "description": f"What {capability.name} does.", "inputSchema": {"type": "object"},
        }
    )  # fmt: skip
    digest = factory.LazyAttribute(lambda capability: digest_of(capability.definition))


class HealthCheckFactory(DjangoModelFactory[HealthCheck]):
    """A check that went well."""

    class Meta:
        model = HealthCheck

    organization = factory.SelfAttribute("server.organization")
    server = factory.SubFactory(ServerFactory)
    health = Health.HEALTHY
    latency_ms = 12.5


class HealthHourFactory(DjangoModelFactory[HealthHour]):
    """An hour of sixty checks that went well; each one made lies an hour further back."""

    class Meta:
        model = HealthHour

    organization = factory.SelfAttribute("server.organization")
    server = factory.SubFactory(ServerFactory)
    at = factory.Sequence(
        lambda number: timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=number)
    )
    checks = passed = 60
    latency_ms_total = 60 * 12.5
    latency_ms_most = 20.0


class DiscoveryFactory(DjangoModelFactory[Discovery]):
    """A reading that found one tool."""

    class Meta:
        model = Discovery

    organization = factory.SelfAttribute("server.organization")
    server = factory.SubFactory(ServerFactory)
    protocol_version = "2026-07-28"
    added = factory.LazyFunction(lambda: [{"kind": "tool", "name": "echo"}])
    total = 1
