"""`manage.py signing_key_rotate`: a new key signs tokens, and nobody is signed out."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.auth import services
from apps.core.actor import system_actor
from apps.core.errors import ServiceError


class Command(BaseCommand):
    """Rotate the kept signing key while everything runs."""

    help = "Let a new key sign tokens. Older keys verify until their last token has ended, and are thrown away then."

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate, and say which keys there are now."""
        try:
            services.rotate_signing_key(system_actor(surface="command"))
        except ServiceError as error:
            raise CommandError(error.message) from error
        first, *older = services.verifying_keys()
        self.stdout.write(f"{first.kid} signs from now on, in every process on this data folder.")
        for key in older:
            self.stdout.write(f"{key.kid} verifies until {key.ends_at:%Y-%m-%d %H:%M} UTC.")
