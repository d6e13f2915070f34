"""`manage.py connect CLIENT`: the configuration that an agent's program wants, ready to be pasted.

Standard output carries the configuration and nothing else; where it goes is said on standard error.
"""

import os
import shlex
import sys
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.gateway.services import CLIENTS, PLACEHOLDER, Endpoint
from config.env import BASE_DIR

KEY_VARIABLE = "GATEHOUSE_KEY"


class Command(BaseCommand):
    """Prints the configuration of one client."""

    help = "Print the configuration that connects an agent's program to this installation."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Which program, with which key, to which address."""
        parser.add_argument("client", choices=list(CLIENTS), metavar="CLIENT", help=", ".join(CLIENTS))
        parser.add_argument("--key", help=f"The API key; default: {KEY_VARIABLE}, else a placeholder.")
        parser.add_argument("--url", help="The MCP endpoint; default: that of this installation.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Configuration to standard output, what to do with it to standard error."""
        client = CLIENTS[options["client"]]
        key = options["key"] or settings.ENV.key
        url, key_shown = checked_url(options["url"]), key or PLACEHOLDER
        endpoint = Endpoint(url, key_shown, program=None if options["url"] else own_program(key_shown))
        self.stderr.write(client.place)
        if not key:
            self.stderr.write(how_to_get_a_key())
        self.stdout.write(client.write(endpoint))


def checked_url(url: str | None) -> str:
    """The endpoint's address; raises CommandError for what no client could use."""
    if not url:
        return str(settings.MCP_AUDIENCE)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise CommandError(
            f"{url!r} is no address of an MCP endpoint. It looks like https://gatehouse.example.com/mcp."
        )
    return url


def how_to_get_a_key() -> str:
    """For whoever has none."""
    return (
        f"Replace {PLACEHOLDER} with an API key. Make one in the control room, {settings.PUBLIC_URL}/admin/, under API"
        " keys: it is shown once. Or make an organisation with a key for each role:"
        f" {shlex.join([sys.executable, str(BASE_DIR / 'manage.py'), 'provision', '--org', 'SLUG'])}"
    )


# This machine ---------------------------------------------------------------------------------------------------


def own_program(key: str) -> dict[str, Any]:
    """How a client on this machine starts our server over standard input and output."""
    return {
        "command": sys.executable,
        "args": [str(BASE_DIR / "manage.py"), "mcp", "stdio"],
        "env": {KEY_VARIABLE: key, **_installation()},
    }


def _installation() -> dict[str, str]:
    """The variables of this shell that name the installation: a desktop program starts with none of them."""
    named = ("GATEHOUSE_DATA", "GATEHOUSE_ENV", "GATEHOUSE_PUBLIC_URL", "GATEHOUSE_PORT")
    return {name: os.environ[name] for name in named if os.environ.get(name)}
