"""`manage.py doctor`: what is not well, why, and the cure to type."""

import logging
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from config.doctor import as_json, as_text, examine


class Command(BaseCommand):
    """Looks at everything that the platform needs. manage.py runs its first part alone where settings are wrong."""

    help = "Look at settings, database, workers, disk and servers; name what is wrong and the cure. Status 1 if any is."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """In which form, and whether to look at the servers anew."""
        parser.add_argument("--json", action="store_true", help="Print one JSON object.")
        parser.add_argument(
            "--check",
            action="store_true",
            help="Check every enabled server anew.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print every finding; status 1 when one is wrong."""
        logging.disable(logging.ERROR)  # what fails is told below, with its cure
        try:
            findings = examine(check=options["check"])
        finally:
            logging.disable(logging.NOTSET)
        self.stdout.write(as_json(findings) if options["json"] else as_text(findings))
        if not all(each.ok for each in findings):
            sys.exit(1)
