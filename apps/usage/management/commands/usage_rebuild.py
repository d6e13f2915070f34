"""`manage.py usage_rebuild`: the roll-ups, made anew from the usage events."""

from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from apps.core.actor import system_actor
from apps.usage import services


class Command(BaseCommand):
    """Make the roll-ups anew, day by day, while everything runs."""

    help = "Make the hourly and daily roll-ups anew from the usage events, while everything runs."

    def add_arguments(self, parser: CommandParser) -> None:
        """From which day on."""
        parser.add_argument("--since", type=date.fromisoformat, help="The first day, as 2026-11-20; else all days.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, and say of each day how many calls it has."""
        days = 0
        for rebuilt in services.rebuild_rollups(system_actor(surface="command"), since=options["since"]):
            days += 1
            self.stdout.write(f"{rebuilt.day}: {rebuilt.calls} calls")
        self.stdout.write(f"The roll-ups of {days} days were made anew.")
