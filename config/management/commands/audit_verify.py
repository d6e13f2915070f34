"""`manage.py audit_verify`: whether the journal is whole."""

import sys
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.audit import services as audit
from apps.auth.models import Organization


class Command(BaseCommand):
    """Read every chain, or one, and name the first entry that does not hold."""

    help = "Check the journal's chains and name the first broken entry of each; ends with status 1 if there is one."

    def add_arguments(self, parser: CommandParser) -> None:
        """Which organisation."""
        parser.add_argument(
            "--org", metavar="SLUG", help="Only this organisation, by slug or id; default: all of them."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Say what was found, chain by chain."""
        chains = [find_chain(options["org"])] if options["org"] else audit.chains()
        slugs = dict(Organization.objects.values_list("id", "slug"))
        is_whole = True
        for chain in chains:
            name = slugs.get(chain, str(chain)) if chain.int else "the platform itself"
            for found in audit.verify(chain):
                is_whole = False
                self.stdout.write(f"{name}: entry {found.sequence} is broken. {found.why}")
        if not is_whole:
            sys.exit(1)
        self.stdout.write(f"The journal is whole: {len(chains)} {'chain' if len(chains) == 1 else 'chains'} checked.")


def find_chain(name: str) -> UUID:
    """The chain of an organisation by slug, or by id, which outlives the organisation."""
    organization = Organization.objects.filter(slug=name).first()
    if organization:
        return organization.pk
    try:
        return UUID(name)
    except ValueError as error:
        raise CommandError(f"There is no organisation {name}. Name one by its slug or its id.") from error
