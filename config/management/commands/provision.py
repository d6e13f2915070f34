"""`manage.py provision`: an organisation with a user and a key for each role, for scripts and tests."""

import json
import secrets
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from apps.auth import services as auth
from apps.auth.models import Organization, Role, User
from apps.core.actor import system_actor
from apps.core.errors import ServiceError, render

ADMIN_EMAIL = "admin@gatehouse.example"
PASSWORD_BYTES = 15


class Command(BaseCommand):
    """Make the organisation and print, once, how its people come in."""

    help = "Make an organisation with one user and one API key for each role, and print them once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Which organisation, and in which form to print."""
        parser.add_argument("--org", required=True, metavar="SLUG", help="The slug of the new organisation.")
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        """All of it or nothing: a slug that is taken changes nothing and ends with status 1."""
        try:
            made = provision(options["org"])
        except ServiceError as error:
            self.stderr.write(json.dumps(render(error)) if options["json"] else f"{error.code}: {error.message}")
            sys.exit(1)
        self.stdout.write(json.dumps(made) if options["json"] else as_table(made))


@transaction.atomic
def provision(slug: str) -> dict[str, Any]:
    """The organisation, a user and a key for each role, and a platform admin if there is none (else None)."""
    admin = make_platform_admin()  # first: of two chains of the journal, the platform's comes before the other
    organization = auth.create_organization(system_actor(surface="command"), name=slug, slug=slug)
    users, keys = {}, {}
    for role in Role.values:
        users[role], keys[role] = make_member(organization, role)
    return {
        "org": {"id": str(organization.id), "slug": organization.slug},
        "users": users,
        "keys": keys,
        "platform_admin": admin,
    }


def new_password() -> str:
    """A password that nobody has to think of: 120 random bits."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def make_member(organization: Organization, role: str) -> tuple[dict[str, str], str]:
    """A user of this role and a key of theirs without scopes: it may what its owner may."""
    actor = system_actor(organization.id, surface="command")
    account = {"email": f"{role}@{organization.slug}.example", "password": new_password()}
    user = auth.create_user(actor, email=account["email"], password=account["password"], name=role.capitalize())
    auth.add_member(actor, organization_id=organization.id, user_id=user.id, role=role)
    key = auth.create_key(actor, name=f"{role} of {organization.slug}", user_id=user.id)
    return account, key.plain


def make_platform_admin() -> dict[str, str] | None:
    """The account of the platform's first admin; None when there is one already."""
    if User.objects.filter(is_superuser=True).exists():
        return None
    account = {"email": ADMIN_EMAIL, "password": new_password()}
    auth.create_user(
        system_actor(surface="command"), email=account["email"], password=account["password"], name="Admin",
        is_platform_admin=True,
    )  # fmt: skip
    return account


def as_table(made: dict[str, Any]) -> str:
    """The same for a person: shown once, like everything here."""
    rows = [
        f"{role:15}{user['email']:36}{user['password']:24}{made['keys'][role]}" for role, user in made["users"].items()
    ]
    admin = made["platform_admin"]
    if admin:
        rows.append(f"{'platform admin':15}{admin['email']:36}{admin['password']}")
    heading = f"{'ROLE':15}{'E-MAIL':36}{'PASSWORD':24}KEY"
    return "\n".join(
        [f"Organisation {made['org']['slug']} ({made['org']['id']}). Keep this; it is not shown again.", heading, *rows]
    )
