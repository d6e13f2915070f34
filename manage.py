#!/usr/bin/env python
"""Runs Django's commands, among them `up`, which starts everything."""

import argparse
import os
import signal
import sys

UP_FLAGS = ("host", "port", "data")


def main() -> None:
    """Hand the command line to Django; Ctrl+C ends it without a trace."""
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def run() -> None:
    """Run the command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if sys.argv[1:2] == ["up"]:
        hand_flags_to_settings(sys.argv[2:])
    from config.env import SettingsError

    try:
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    except SettingsError as error:
        if sys.argv[1:2] == ["doctor"]:
            sys.exit(diagnose_settings(sys.argv[2:]))
        sys.exit(f"Gatehouse cannot start.\n{error}")


def diagnose_settings(arguments: list[str]) -> int:
    """What `doctor` can say while the settings keep Django from starting; the exit status."""
    from config.doctor import as_json, as_text, examine

    findings = examine()
    print(as_json(findings) if "--json" in arguments else as_text(findings))
    return 0 if all(each.ok for each in findings) else 1


def hand_flags_to_settings(arguments: list[str]) -> None:
    """`up --port 9000` is `GATEHOUSE_PORT=9000 up`: settings are read before any command sees its flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in UP_FLAGS:
        parser.add_argument(f"--{flag}")
    try:
        given, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return  # a flag without its value: the command itself says so
    os.environ.update({f"GATEHOUSE_{name.upper()}": value for name, value in vars(given).items() if value})


if __name__ == "__main__":
    main()
