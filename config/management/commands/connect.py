"""`manage.py connect CLIENT`: the configuration that an agent's program wants, ready to be pasted.

Standard output carries the configuration and nothing else; where it goes is said on standard error.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config.env import BASE_DIR

NAME = "gatehouse"
PLACEHOLDER = "gate_YOUR_KEY"
KEY_VARIABLE = "GATEHOUSE_KEY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is connected to: an address with a key, and whether it is this very installation."""

    url: str
    key: str
    is_ours: bool

    @property
    def headers(self) -> dict[str, str]:
        """How the key is presented."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class Client:
    """A program: where its configuration goes, and how it is written."""

    place: str
    write: Callable[[Endpoint], str]


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
        endpoint = Endpoint(checked_url(options["url"]), key or PLACEHOLDER, is_ours=not options["url"])
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


# What each client reads ---------------------------------------------------------------------------------------------


def write_claude_code(endpoint: Endpoint) -> str:
    """A command; --header takes several values, so that it comes after name and address."""
    return shlex.join([
        *("claude", "mcp", "add", "--transport", "http", "--scope", "user", NAME, endpoint.url),
        *("--header", f"Authorization: Bearer {endpoint.key}"),
    ])  # fmt: skip


def write_claude_desktop(endpoint: Endpoint) -> str:
    """Its file knows only programs: our own on this machine, else a bridge that speaks HTTP for it."""
    return as_json({"mcpServers": {NAME: _own_program(endpoint) if endpoint.is_ours else _bridge(endpoint)}})


def _own_program(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "command": sys.executable,
        "args": [str(BASE_DIR / "manage.py"), "mcp", "stdio"],
        "env": {KEY_VARIABLE: endpoint.key, **_installation()},
    }


def _installation() -> dict[str, str]:
    """The variables of this shell that name the installation: a desktop program starts with none of them."""
    named = ("GATEHOUSE_DATA", "GATEHOUSE_ENV", "GATEHOUSE_PUBLIC_URL", "GATEHOUSE_PORT")
    return {name: os.environ[name] for name in named if os.environ.get(name)}


def _bridge(endpoint: Endpoint) -> dict[str, Any]:
    """mcp-remote, without a space in its header: some systems split arguments there."""
    plain = [] if endpoint.url.startswith("https://") else ["--allow-http"]
    return {
        "command": "npx",
        "args": ["-y", "mcp-remote", endpoint.url, *plain, "--header", "Authorization:${AUTHORIZATION}"],
        "env": {"AUTHORIZATION": f"Bearer {endpoint.key}"},
    }


def write_cursor(endpoint: Endpoint) -> str:
    """A url means a remote server."""
    return as_json({"mcpServers": {NAME: {"url": endpoint.url, "headers": endpoint.headers}}})


def write_vscode(endpoint: Endpoint) -> str:
    """Its key is `servers`, and the type is named."""
    return as_json({"servers": {NAME: {"type": "http", "url": endpoint.url, "headers": endpoint.headers}}})


def write_codex(endpoint: Endpoint) -> str:
    """TOML, whose basic strings are written like those of JSON."""
    header = f"{{ Authorization = {json.dumps(endpoint.headers['Authorization'])} }}"
    return f"[mcp_servers.{NAME}]\nurl = {json.dumps(endpoint.url)}\nhttp_headers = {header}"


def write_gemini(endpoint: Endpoint) -> str:
    """A httpUrl means streamable HTTP; a url would mean SSE."""
    return as_json({"mcpServers": {NAME: {"httpUrl": endpoint.url, "headers": endpoint.headers}}})


def as_json(value: dict[str, Any]) -> str:
    """For a person to read and a program to parse."""
    return json.dumps(value, indent=2)


CLIENTS = {
    "claude-code": Client("Type this in a terminal:", write_claude_code),
    "claude-desktop": Client(
        "Settings, Developer, Edit Config opens claude_desktop_config.json. Put this there, then quit and start again:",
        write_claude_desktop,
    ),
    "cursor": Client("Put this into ~/.cursor/mcp.json, or .cursor/mcp.json of one project:", write_cursor),
    "vscode": Client("'MCP: Open User Configuration' opens mcp.json. Put this there:", write_vscode),
    "codex": Client("Put this at the end of ~/.codex/config.toml:", write_codex),
    "gemini-cli": Client("Put this into ~/.gemini/settings.json:", write_gemini),
}
