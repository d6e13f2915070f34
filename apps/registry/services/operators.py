"""What whoever runs the platform sees of all organisations' servers: their state, and whether they are allowed here.

Only commands of the operator call this; nothing of it is for a member of one organisation.
"""

import shlex
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings

from apps.core import egress
from apps.core.errors import InvalidInput
from apps.registry.backends import commands
from apps.registry.models import Server, Transport


@dataclass(frozen=True, slots=True)
class ServerState:
    """A server by its organisation and slug, its last check, and why it is not allowed here, if it is not."""

    organization: str
    slug: str
    transport: str
    is_enabled: bool
    health: str
    message: str
    checked_at: datetime | None
    check_interval_seconds: int
    refusal: str
    entry: str
    """The entry of GATEHOUSE_EGRESS_ALLOW or GATEHOUSE_STDIO_ALLOW that would allow it; empty where one does."""


def list_server_states() -> list[ServerState]:
    """Every server of every organisation that is not deleted."""
    rows = Server.objects.present().select_related("organization").order_by("organization__slug", "slug")
    return [_state_of(server) for server in rows]


def unused_allowances(*, egress_entries: tuple[str, ...], stdio_entries: tuple[str, ...]) -> tuple[str, ...]:
    """The entries of both lists that no server needs."""
    present = Server.objects.present()
    targets = {_entry_of(url) for url in present.exclude(url="").values_list("url", flat=True)}
    command_lines = list(present.filter(transport=Transport.STDIO).values_list("command", flat=True))
    return (
        *(entry for entry in egress_entries if entry not in targets and _bracketed(entry) not in targets),
        *(entry for entry in stdio_entries if not any(commands.matches(entry, line) for line in command_lines)),
    )


def _state_of(server: Server) -> ServerState:
    is_child = server.transport == Transport.STDIO
    return ServerState(
        organization=server.organization.slug,
        slug=server.slug,
        transport=server.transport,
        is_enabled=server.is_enabled,
        health=server.health,
        message=server.health_message,
        checked_at=server.checked_at,
        check_interval_seconds=server.check_interval_seconds,
        refusal=_refusal_of(server),
        entry=_missing_entry(server.command) if is_child else _entry_of(server.url),
    )


def _refusal_of(server: Server) -> str:
    try:
        if server.transport == Transport.STDIO:
            commands.check_command(server.command)
        else:
            egress.check_url(server.url)
    except InvalidInput as error:
        return error.message
    return ""


def _missing_entry(command: list[str]) -> str:
    """The command line as the operator would list it; empty where it is listed, and something else is wrong."""
    is_listed = any(commands.matches(entry, command) for entry in settings.STDIO_ALLOW)
    return "" if is_listed else shlex.join(command)


def _entry_of(url: str) -> str:
    """host:port of a URL, as the operator would list it; empty where it is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return ""
    host = (parts.hostname or "").lower()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bracketed(entry: str) -> str:
    host, _, port = entry.rpartition(":")
    return f"[{host}]:{port}"
