"""`manage.py secrets_rekey`: every secret under the newest sealing key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.actor import system_actor
from apps.core.sealing import newest_key
from apps.secrets import services


class Command(BaseCommand):
    """Seal what older keys sealed anew, while everything runs; started again, it goes on where it was."""

    help = "Seal every secret anew under the newest of GATEHOUSE_SEALING_KEYS, while everything runs."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether only to look."""
        parser.add_argument("--check", action="store_true", help="Change nothing; say which keys sealed how many.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, and say what is left; ends with status 1 if something is."""
        if not options["check"]:
            self.rekey()
        counts, newest = services.count_by_key(), newest_key()
        for number in sorted(counts.keys() | {newest}):
            name = f"key {number}{' (newest)' if number == newest else ''}" if number >= 0 else "no key"
            self.stdout.write(f"{counts.get(number, 0)} secrets are sealed by {name}.")
        left = sum(counts.values()) - counts.get(newest, 0)
        if left and not options["check"]:
            raise CommandError(f"{left} secrets still use older keys. Those named above must be entered again.")

    def rekey(self) -> None:
        """Batch by batch; a secret that no key opens is named and left."""
        done = 0
        for batch in services.rekey_secrets(system_actor(surface="command")):
            done += batch.resealed
            for secret in batch.unreadable:
                self.stderr.write(f"{secret.purpose} ({secret.pk}) cannot be opened by any key; it is left as it is.")
        self.stdout.write(f"{done} secrets were sealed anew.")
