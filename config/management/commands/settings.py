"""`manage.py settings`: what this installation is set to, and where each value comes from, without its secrets."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from config.support import describe_settings, masker


class Command(BaseCommand):
    """Prints the configuration so that it can be read, compared and handed on."""

    help = "Print every setting with its value and where it comes from; secrets only as given or unset."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """In which form."""
        parser.add_argument("--json", action="store_true", help="Print one JSON list.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print every setting."""
        mask = masker()
        described = describe_settings()
        self.stdout.write(mask(json.dumps(described, indent=2, default=str) if options["json"] else _table(described)))


def _table(described: list[dict[str, Any]]) -> str:
    """A line for each setting: its name, its value, and where that comes from."""
    width = max(len(each["setting"]) for each in described)
    return "\n".join(f"{each['setting']:{width}}  {_written(each['is'])}  ({each['from']})" for each in described)


def _written(value: Any) -> str:
    if value is None or value == ():
        return "unset"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
