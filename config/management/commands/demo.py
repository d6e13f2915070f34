"""`manage.py demo`: the organisation "demo" with an approved server, an admin account and a key."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from apps.auth import services as auth
from apps.auth.models import ApiKey, Organization
from apps.core.actor import Actor, system_actor
from apps.core.errors import ServiceError
from apps.registry import services as registry
from apps.registry.models import Server
from config.management.commands.provision import make_platform_admin, new_password

SLUG = "demo"
SERVER_SLUG = "time"
KEY_NAME = "demo"
AGENT_EMAIL = "agent@demo.example"
TIMEOUT_SECONDS = 30.0
"""It is a program that starts with its first request: the limit that an operator gives servers may be too short."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What is shown once, when the demo is made; no account where a platform admin existed already."""

    admin: dict[str, str] | None
    key: str


class Command(BaseCommand):
    """Make the demo, or say that it stands."""

    help = "Make the demo organisation: an approved server over stdio, an admin account and a key, shown once."

    def handle(self, *args: Any, **options: Any) -> None:
        """Make what is missing."""
        try:
            demo = make_demo(asked_for=True)
        except ServiceError as error:
            raise CommandError(f"{error.code}: {error.message}") from error
        if demo is None:
            self.stdout.write("The demo exists already. Its key and password were shown when it was made.")
        else:
            if demo.admin:
                self.stdout.write(f"Admin account  {demo.admin['email']}  {demo.admin['password']}")
            self.stdout.write(f"Demo key       {demo.key}")


def make_demo(*, asked_for: bool = False) -> Demo | None:
    """Make the demo in an empty installation, or where it is asked for; None when it stands or is not wanted.

    Each step finds what an interrupted start has left. The account and the key come last, with one another.
    """
    organization = Organization.objects.filter(slug=SLUG).first()
    if organization is None and (Organization.objects.exists() and not asked_for):
        return None
    if organization and ApiKey.objects.for_org(organization.id).filter(name=KEY_NAME).exists():
        return None
    actor = system_actor(surface="command")
    if organization is None:
        organization = auth.create_organization(actor, name="Demo", slug=SLUG)
    offer_time(system_actor(organization.id, surface="command"))
    return make_accounts(organization)


def offer_time(actor: Actor) -> None:
    """Register, discover and approve mcp-server-time, which was installed with Gatehouse."""
    server = Server.objects.for_org(actor.organization_id).present().filter(slug=SERVER_SLUG).first()
    if server is None:
        server = registry.register_server(
            actor,
            name="Time",
            slug=SERVER_SLUG,
            transport="stdio",
            command=settings.DEMO_COMMAND,
            timeout_seconds=TIMEOUT_SECONDS,
            description="Tells the time anywhere on earth; a real server from PyPI, run over stdio.",
        )
    if server.discovered_at is None:
        registry.discover_server(actor, server_id=server.id)
    registry.approve_server(actor, server_id=server.id)


@transaction.atomic
def make_accounts(organization: Organization) -> Demo:
    """A platform admin if there is none, and a developer's key for an agent."""
    actor = system_actor(organization.id, surface="command")
    admin = make_platform_admin()
    agent = auth.create_user(actor, email=AGENT_EMAIL, password=new_password(), name="Demo agent")
    auth.add_member(actor, organization_id=organization.id, user_id=agent.id, role="developer")
    key = auth.create_key(actor, name=KEY_NAME, user_id=agent.id)
    return Demo(admin, key.plain)
