"""`manage.py support_bundle`: one file for somebody who helps, without secrets."""

import logging
import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from config.support import bundle_name, find_log, write_bundle


class Command(BaseCommand):
    """Writes the bundle, readable by its owner alone."""

    help = "Write a zip with redacted settings, the doctor's findings, versions, migrations, health and row counts."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Where to, and from which log."""
        parser.add_argument("--out", type=Path, metavar="FILE", help="The file to write; it must not exist yet.")
        parser.add_argument(
            "--log", type=Path, metavar="FILE", help="A log file; default: the newest *.log of the data folder."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write, and say where."""
        path = options["out"] or Path(bundle_name())
        log = options["log"] or find_log()
        if log is not None and not log.is_file():
            raise CommandError(f"There is no log file {log}.")
        logging.disable(logging.ERROR)  # what fails is told inside
        try:
            content = write_bundle(log)
        finally:
            logging.disable(logging.NOTSET)
        self.save(path, content)
        self.stdout.write(f"{path} has {len(content)} bytes. Read it before you hand it on.")

    def save(self, path: Path, content: bytes) -> None:
        """A new file, for its owner alone."""
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        except FileExistsError as error:
            raise CommandError(f"{path} exists already. Name another file with --out.") from error
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
