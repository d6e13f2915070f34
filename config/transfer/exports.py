"""The configuration of an organisation as a file: everything but its secrets, and which of them are missing."""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import InvalidInput
from apps.registry import services as registry
from apps.registry.models import Capability, Transport
from apps.registry.schemas import CapabilityPatch, ServerFilters, ServerLimits
from config.transfer.bundles import bundles_of, written_bundle
from config.transfer.items import VERSION, open_command, open_url
from config.transfer.rows import capabilities_of, every

_DECIDED = tuple(CapabilityPatch.model_fields)
_USUAL = {name: getattr(Capability(), name) for name in _DECIDED}
_COLUMNS = (
    "slug", "name", "transport", "url", "command", "environment", "tags", "owner_label", "is_enabled", "is_approved",
    "is_critical", "health", "missing",
)  # fmt: skip
_BUNDLE_COLUMNS = ("slug", "name", "description", "instructions", "is_enabled", "names_verbatim", "missing")
_ITEM_COLUMNS = ("server", "kind", "name", "native", "alias", "description_override")
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
FORMATS = {
    "json": ("application/json", "Everything: servers, decisions about their tools, bundles, members"),
    "mcp.json": ("application/json", "The servers, as clients read them"),
    "csv": ("text/csv; charset=utf-8", "The servers, as a table"),
    "bundles.csv": ("text/csv; charset=utf-8", "The bundles, as a table"),
}


def export_configuration(actor: Actor, *, kind: str) -> str:
    """The configuration of the actor's organisation in one of the formats; the journal notes that it was taken."""
    if actor.organization_id is None:
        raise InvalidInput("A configuration belongs to an organisation. Choose one in the menu first.")
    write = {"json": _as_json, "mcp.json": _as_client, "csv": _as_table, "bundles.csv": _as_bundles}.get(kind)
    if write is None:
        raise InvalidInput.for_field("format", f"Choose one of {', '.join(FORMATS)}.")
    written = write(actor)
    audit.record(actor, "configuration.exported", details={"format": kind})
    return written


def guarded(value: Any) -> Any:
    """A cell of a table; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA) else value


def _servers(actor: Actor) -> Iterable[Any]:
    filters = ServerFilters()
    return every(lambda page: registry.list_servers(actor, filters=filters, page=page))


def _as_json(actor: Actor) -> str:
    document = {
        "gatehouse": VERSION,
        "organization": actor.organization_slug,
        "exported_at": timezone.now().isoformat(timespec="seconds"),
        "servers": [_server(actor, each) for each in _servers(actor)],
        "bundles": [written_bundle(each) for each in bundles_of(actor)],
        "members": list(_members(actor)),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _server(actor: Actor, server: Any) -> dict[str, Any]:
    is_stdio = server.transport == Transport.STDIO
    reach = {"command": open_command(server.command)} if is_stdio else {"url": open_url(server.url)}
    limits = {name: getattr(server, name) for name in ServerLimits.model_fields}
    missing = _missing(actor, server)
    return {
        "name": server.name, "slug": server.slug, "transport": server.transport, **reach, **limits,
        "is_enabled": server.is_enabled,
        **({"missing": missing} if missing else {}),
        "capabilities": [_capability(each) for each in capabilities_of(actor, server).values() if _decisions(each)],
    }  # fmt: skip


def _capability(capability: Any) -> dict[str, Any]:
    return {"kind": capability.kind, "name": capability.name, **_decisions(capability)}


def _decisions(capability: Any) -> dict[str, Any]:
    """What staff decided otherwise than usual."""
    given = {name: getattr(capability, name) for name in _DECIDED}
    return {name: value for name, value in given.items() if value != _USUAL[name]}


def _members(actor: Actor) -> Iterable[dict[str, str]]:
    here = actor.organization_id
    assert here is not None  # noqa: S101 - asked before
    for member in every(lambda page: auth.list_members(actor, organization_id=here, page=page)):
        yield {"email": member.user.email, "role": member.role, "name": member.user.name}


def _missing(actor: Actor, server: Any) -> list[str]:
    """What the file leaves out of a server, because it is secret or may be."""
    credentials = registry.list_credentials(actor, server_id=server.pk)
    return [
        *(f"variable {name}" for name in server.env_names),
        *(f"credential: {' '.join(filter(None, (each.kind, each.header, each.username)))}" for each in credentials),
        *(["what is masked in the address"] if open_url(server.url) != server.url else []),
        *(["what is masked in the command"] if open_command(server.command) != server.command else []),
    ]


def _as_client(actor: Actor) -> str:
    servers, missing = {}, {}
    for server in _servers(actor):
        servers[server.slug] = _for_client(server)
        left_out = _missing(actor, server)
        if left_out:
            missing[server.slug] = left_out
    # Clients read what they know: the rest tells a person what to add.
    return json.dumps({"mcpServers": servers, **({"missing": missing} if missing else {})}, indent=2) + "\n"


def _for_client(server: Any) -> dict[str, Any]:
    if server.transport == Transport.STDIO:
        program, *arguments = open_command(server.command)
        return {"type": "stdio", "command": program, "args": arguments}
    return {"type": "sse" if server.transport == Transport.SSE else "http", "url": open_url(server.url)}


def _as_table(actor: Actor) -> str:
    return _table(_COLUMNS, (_row(actor, server) for server in _servers(actor)))


def _as_bundles(actor: Actor) -> str:
    """A line for each thing in a bundle; a bundle without any has one all the same."""
    columns = (*_BUNDLE_COLUMNS, *(f"item_{name}" for name in _ITEM_COLUMNS))
    return _table(columns, (row for bundle in bundles_of(actor) for row in _rows_of(written_bundle(bundle))))


def _rows_of(bundle: dict[str, Any]) -> Iterable[list[Any]]:
    bundle["missing"] = ", ".join(bundle.get("missing", ()))
    for item in bundle["items"] or [{}]:
        yield [*(bundle[name] for name in _BUNDLE_COLUMNS), *(item.get(name, "") for name in _ITEM_COLUMNS)]


def _table(columns: Iterable[str], rows: Iterable[list[Any]]) -> str:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(columns)
    writer.writerows([guarded(each) for each in row] for row in rows)
    return table.getvalue()


def _row(actor: Actor, server: Any) -> list[Any]:
    shown = {
        "url": open_url(server.url), "command": " ".join(open_command(server.command)), "tags": ", ".join(server.tags),
        "missing": ", ".join(_missing(actor, server)),
    }  # fmt: skip
    return [shown[name] if name in shown else getattr(server, name) for name in _COLUMNS]
