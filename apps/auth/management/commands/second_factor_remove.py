"""`manage.py second_factor_remove`: for somebody who has lost their second factor and its recovery codes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.auth import services
from apps.core.actor import system_actor
from apps.core.errors import ServiceError


class Command(BaseCommand):
    """Take the second factor of an account away."""

    help = "Take the second factor of an account away. Be sure that it is its owner who asks."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose."""
        parser.add_argument("email", help="The e-mail address of the account.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Take it away and say so."""
        try:
            user = services.remove_second_factor_of(system_actor(surface="command"), email=options["email"])
        except ServiceError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{user} has no second factor any more, and is signed out everywhere.")
