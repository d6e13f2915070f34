"""`manage.py sealing_key_rotate`: a new key seals secrets."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.actor import system_actor
from apps.core.errors import ServiceError
from apps.secrets import services


class Command(BaseCommand):
    """Rotate the kept sealing key while everything runs."""

    help = "Add a sealing key with the next number, in the data folder; secrets_rekey then seals everything under it."

    def add_arguments(self, parser: CommandParser) -> None:
        """The first step or the last."""
        parser.add_argument(
            "--drop-old", action="store_true", help="Add none; throw older keys away when no secret needs them."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate or drop, and say what comes next."""
        actor = system_actor(surface="command")
        try:
            if options["drop_old"]:
                dropped = services.drop_older_keys(actor)
                self.stdout.write(f"Thrown away: {', '.join(map(str, dropped)) or 'nothing'}.")
                return
            number = services.rotate_sealing_key(actor)
        except ServiceError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"Key {number} seals from now on. Run manage.py secrets_rekey, then this with --drop-old.")
