#!/usr/bin/env python
"""Runs Django's commands, among them `up`, which starts everything."""

import os
import sys


def main() -> None:
    """Hand the command line to Django."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from config.env import SettingsError

    try:
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except SettingsError as error:
        sys.exit(f"Gatehouse cannot start.\n{error}")


if __name__ == "__main__":
    main()
