"""What each agent's program wants to be told: the configuration that connects it to an endpoint, ready to be pasted."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from apps.core.errors import InvalidInput

NAME = "gatehouse"
PLACEHOLDER = "gate_YOUR_KEY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is connected to: an address with a key, and what the client calls it.

    `program` is how a client on this very machine starts a server of this installation, where it may.
    """

    url: str
    key: str
    name: str = NAME
    program: Mapping[str, Any] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """How the key is presented."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class Client:
    """A program: where its configuration goes, and how it is written."""

    place: str
    write: Callable[[Endpoint], str]


@dataclass(frozen=True, slots=True)
class Connection:
    """The configuration of one client for one endpoint."""

    client: str
    url: str
    place: str
    configuration: str


def connection_to(url: str, *, client: str, name: str = NAME) -> Connection:
    """As from another machine, with a placeholder for the key; raises InvalidInput for a client that we do not know."""
    known = CLIENTS.get(client)
    if known is None:
        raise InvalidInput.for_field("client", f"Choose one of {', '.join(CLIENTS)}.")
    return Connection(client, url, known.place, known.write(Endpoint(url, PLACEHOLDER, name)))


# What each client reads ---------------------------------------------------------------------------------------------


def write_claude_code(endpoint: Endpoint) -> str:
    """A command; --header takes several values, so that it comes after name and address."""
    return shlex.join([
        *("claude", "mcp", "add", "--transport", "http", "--scope", "user", endpoint.name, endpoint.url),
        *("--header", f"Authorization: Bearer {endpoint.key}"),
    ])  # fmt: skip


def write_claude_desktop(endpoint: Endpoint) -> str:
    """Its file knows only programs: our own on this machine, else a bridge that speaks HTTP for it."""
    return as_json({"mcpServers": {endpoint.name: endpoint.program or _bridge(endpoint)}})


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
    return as_json({"mcpServers": {endpoint.name: {"url": endpoint.url, "headers": endpoint.headers}}})


def write_vscode(endpoint: Endpoint) -> str:
    """Its key is `servers`, and the type is named."""
    return as_json({"servers": {endpoint.name: {"type": "http", "url": endpoint.url, "headers": endpoint.headers}}})


def write_codex(endpoint: Endpoint) -> str:
    """TOML, whose basic strings are written like those of JSON."""
    header = f"{{ Authorization = {json.dumps(endpoint.headers['Authorization'])} }}"
    return f"[mcp_servers.{endpoint.name}]\nurl = {json.dumps(endpoint.url)}\nhttp_headers = {header}"


def write_gemini(endpoint: Endpoint) -> str:
    """A httpUrl means streamable HTTP; a url would mean SSE."""
    return as_json({"mcpServers": {endpoint.name: {"httpUrl": endpoint.url, "headers": endpoint.headers}}})


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
