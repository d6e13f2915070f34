"""Servers and what they offer, without any process behind them: enough for what is only listed."""

from typing import Any

import orjson

from apps.gateway import services as gateway
from apps.registry import services as registry
from apps.registry.models import Capability, Server
from apps.registry.services.definitions import digest_of
from tests.factories.registry import CapabilityFactory, ServerFactory
from tests.people import Person

KEYS = {"tool": "name", "prompt": "name", "resource": "uri", "resource_template": "uriTemplate"}


def server_of(person: Person, slug: str) -> Server:
    """A server that is approved already."""
    server = ServerFactory(organization=person.organization, name=slug, slug=slug)
    return registry.approve_server(person.actor, server_id=server.id)


def offer(server: Server, kind: str, name: str, **definition: Any) -> Capability:
    """Something that the server offers, approved."""
    said = {KEYS[kind]: name, "name": name, **({"inputSchema": {"type": "object"}} if kind == "tool" else {})}
    said |= definition
    public = f"{server.slug}+{name}" if kind.startswith("resource") else f"{server.slug}__{name}"
    digest = digest_of(said)
    made: Capability = CapabilityFactory(
        server=server, kind=kind, name=name, public_name=public, definition=said, digest=digest, approved_digest=digest
    )
    return made


def seen_by(person: Person, **options: Any) -> gateway.View:
    """The view of somebody, read anew."""
    gateway.forget_snapshots()
    return gateway.read_view(person.actor, **options)


def listed(view: gateway.View, kind: Any) -> list[dict[str, Any]]:
    """A list as it is sent."""
    shown: list[dict[str, Any]] = orjson.loads(view.encoded(kind, is_modern=True))
    return shown
