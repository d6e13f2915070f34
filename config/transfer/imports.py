"""What an import would do, line by line, and doing it: the same services, in one transaction, rolled back or kept."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from django.db import transaction

from apps.audit import services as audit
from apps.auth import services as auth
from apps.auth.models import plain_email
from apps.core.actor import Actor
from apps.core.errors import ConfirmationNeeded, InvalidInput, NotFound, ServiceError
from apps.core.schemas import Page, PageQuery
from apps.gateway import services as gateway
from apps.registry import services as registry
from apps.registry.schemas import ServerFilters, ServerIn
from config.transfer.bundles import BundleImporter
from config.transfer.items import Document, Item, open_command, open_url
from config.transfer.plans import Line, Plan
from config.transfer.rows import capabilities_of, every

_OF_ITS_OWN = frozenset({"slug", "is_enabled", "missing"})
MOST_CHANGES = 300
"""On SQLite nobody else writes while an import is rehearsed or done, and each change costs about ten milliseconds."""
_LATER = f"At most {MOST_CHANGES} changes are made at once. Import the file again for the rest."
# Whether a bundle fits together is seen when it has been put together, which costs what keeping it does.
_TOO_MUCH_REFUSED = "Too many bundles before this one are refused. Mend them, then import the file again."
_CAN_BE_EMPTY = frozenset({"timeout_seconds"})


def rehearse(actor: Actor, document: Document) -> Plan:
    """What the import would do: it is done, and taken back, so that nothing here can judge otherwise than services."""
    with transaction.atomic():
        plan = _carry_out(actor, document)
        transaction.set_rollback(True)
    return plan


def import_document(actor: Actor, document: Document, *, digest: str) -> Plan:
    """Do what was shown, in one transaction; nothing, where the plan that comes back has another digest."""
    with transaction.atomic():
        plan = _carry_out(actor, document)
        if plan.digest != digest:
            transaction.set_rollback(True)
            return plan
        audit.record(actor, "configuration.imported", details={"from": document.source, **plan.counts})
    return plan


def _carry_out(actor: Actor, document: Document) -> Plan:
    if actor.organization_id is None:
        raise InvalidInput("A configuration belongs to an organisation. Choose one in the menu first.")
    _hold_what_changes(actor, actor.organization_id, document)
    importer = _Importer(actor, actor.organization_id)
    # One after the other, so that what an earlier line made is there for a later one.
    lines = [importer.line(item) for item in document.items]
    said = json.dumps([[line.kind, line.name, line.outcome, line.fields, line.notes, line.why] for line in lines])
    return Plan(lines, hashlib.sha256(said.encode()).hexdigest())


def _hold_what_changes(actor: Actor, here: UUID, document: Document) -> None:
    """All of it before the first change holds the journal's chain, in the order in which everybody holds them.

    Of the servers only those that the file differs from: their health checks wait meanwhile.
    """
    items = [item for item in document.items if not item.why]
    gateway.hold_bundles(actor, slugs={str(item.given["slug"]) for item in items if item.kind == "bundle"})
    registry.hold_servers(actor, slugs=_Importer(actor, here).servers_to_change(items))


class _Importer:
    """Knows what is there already, and brings in one item after the other."""

    def __init__(self, actor: Actor, here: UUID) -> None:
        self.actor = actor
        self._here = here
        self._seen: set[tuple[str, ...]] = set()
        self._made: set[str] = set()
        self._changes = 0
        self._refused_bundles = 0
        self._servers = {server.slug: server for server in every(self._page_of_servers)}
        self._members = {member.user.email: member for member in every(self._page_of_members)}
        self._capabilities: dict[str, dict[tuple[str, str], Any]] = {}
        self._bundles = BundleImporter(actor, self._servers, self._made)

    def line(self, item: Item) -> Line:
        """What comes of an item; what a service refuses leaves the others alone."""
        if item.why:
            return _refused(item, item.why)
        if self._changes and self._changes + item.weight > MOST_CHANGES:
            return _refused(item, _LATER)
        if item.kind == "bundle" and self._refused_bundles >= MOST_CHANGES:
            return _refused(item, _TOO_MUCH_REFUSED)
        bring = {
            "server": self._server,
            "capability": self._capability,
            "bundle": self._bundles.line,
            "member": self._member,
        }[item.kind]
        try:
            self._once(item)
            with transaction.atomic():
                line = bring(item)
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            self._refused_bundles += item.weight if item.kind == "bundle" else 0
            return _refused(item, _words(error))
        self._changes += item.weight if line.outcome in ("make", "change") else 0
        return line

    def _once(self, item: Item) -> None:
        slug = (item.given.get("slug"),)
        names = {"server": slug, "bundle": slug, "member": (str(item.given.get("email")).lower(),)}
        key = names.get(item.kind, (item.server, item.given.get("kind"), item.given.get("name")))
        if (item.kind, *map(str, key)) in self._seen:
            raise InvalidInput("The file names this twice. Only the first is taken.")
        self._seen.add((item.kind, *map(str, key)))

    def servers_to_change(self, items: Iterable[Item]) -> set[str]:
        """The servers that differ from what the file says, themselves or in what they offer."""
        return {item.server or item.given["slug"] for item in items if self._differs(item)}

    def _differs(self, item: Item) -> bool:
        if item.kind == "server" and item.given["slug"] in self._servers:
            return bool(self._changes_of(item, self._servers[item.given["slug"]]))
        if item.kind == "capability" and item.server in self._servers:
            found = self._offered_by(item.server).get((item.given["kind"], item.given["name"]))
            return found is not None and bool(audit.what_changes(found, _decided(item)))
        return False

    # Servers

    def _server(self, item: Item) -> Line:
        there = self._servers.get(item.given["slug"])
        return self._change_server(item, there) if there else self._make_server(item)

    def _make_server(self, item: Item) -> Line:
        given = {name: value for name, value in item.given.items() if name not in ("is_enabled", "missing")}
        given.setdefault("name", given["slug"])
        made = registry.register_and_discover(self.actor, server=ServerIn.model_validate(given))
        if item.given.get("is_enabled") is False:
            registry.disable_server(self.actor, server_id=made.id)
        self._made.add(made.slug)
        self._servers[made.slug] = registry.get_server(self.actor, server_id=made.id)
        notes = ["Agents see nothing of it before somebody approves it.", *_missing(item)]
        return Line("server", item.name, "make", _told(item.given, skip={"missing"}), tuple(notes))

    def _change_server(self, item: Item, server: Any) -> Line:
        given, switch = _given_of_server(item), item.given.get("is_enabled", server.is_enabled)
        fields = self._changes_of(item, server)
        if not fields:
            return Line("server", item.name, "leave", notes=_missing(item))
        notes = self._notes_on(server, fields)
        registry.update_server(self.actor, server_id=server.pk, **given)
        if switch != server.is_enabled:
            turn = registry.enable_server if switch else registry.disable_server
            turn(self.actor, server_id=server.pk)
        return Line("server", item.name, "change", _open(fields), notes)

    def _changes_of(self, item: Item, server: Any) -> dict[str, dict[str, Any]]:
        switch = item.given.get("is_enabled", server.is_enabled)
        return audit.what_changes(server, {**_given_of_server(item), "is_enabled": switch})

    def _notes_on(self, server: Any, fields: Mapping[str, Any]) -> tuple[str, ...]:
        notes = []
        if server.is_approved and {"url", "command"} & set(fields):
            notes.append("Its approval is withdrawn, because it may be another server now. Somebody approves it again.")
        if "url" in fields and registry.list_credentials(self.actor, server_id=server.pk):
            notes.append("If it is another host, its credentials are destroyed: they were given for the old one.")
        return tuple(notes)

    # What servers offer

    def _capability(self, item: Item) -> Line:
        found = self._offered_by(item.server).get((item.given["kind"], item.given["name"]))
        name = f"{item.server}: {item.given['name']}"
        if found is None:
            why = "The server does not offer this yet. Discover it, then import this file again."
            return Line("capability", name, "refuse", why=why)
        given = _decided(item)
        fields = audit.what_changes(found, given)
        if not fields:
            return Line("capability", name, "leave")
        registry.update_capability(self.actor, capability_id=found.pk, **given)
        return Line("capability", name, "change", fields)

    def _offered_by(self, slug: str) -> dict[tuple[str, str], Any]:
        if slug not in self._capabilities:
            server = self._servers.get(slug)
            if server is None:
                raise InvalidInput("There is no such server, and this file makes none.")
            self._capabilities[slug] = capabilities_of(self.actor, server)
        return self._capabilities[slug]

    # People

    def _member(self, item: Item) -> Line:
        given, here = item.given, self._here
        there = self._members.get(plain_email(given["email"]))
        if there is None:
            raise NotFound(_NOT_HERE)
        if there.role == given["role"]:
            return Line("member", item.name, "leave")
        auth.change_role(self.actor, organization_id=here, membership_id=there.pk, role=given["role"])
        told = {"role": {"from": there.role, "to": given["role"]}}
        return Line("member", item.name, "change", told, ("Their tokens in this organisation end.",))

    def _page_of_servers(self, page: PageQuery) -> Page:
        return registry.list_servers(self.actor, filters=ServerFilters(), page=page)

    def _page_of_members(self, page: PageQuery) -> Page:
        return auth.list_members(self.actor, organization_id=self._here, page=page)


_NOT_HERE = "This person is no member here. Invite them under Invitations: the link is shown once."


def _given_of_server(item: Item) -> dict[str, Any]:
    """What a file says of a server that is there, without what is no field of it."""
    return {
        name: value for name, value in item.given.items()
        if name not in _OF_ITS_OWN and (value is not None or name in _CAN_BE_EMPTY)
    }  # fmt: skip


def _decided(item: Item) -> dict[str, Any]:
    """What a file says that staff have decided of a capability."""
    return {field: value for field, value in item.given.items() if field not in ("kind", "name")}


def _told(given: Mapping[str, Any], *, skip: set[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"to": value} for name, value in given.items() if name not in skip and value not in ("", None, [], {})
    }


def _open(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The fields as they may be shown: what is there now may be an address with a secret in it."""
    masks: Mapping[str, Callable[[Any], Any]] = {"url": open_url, "command": open_command}
    return {
        name: {when: masks[name](value) for when, value in told.items()} if name in masks else told
        for name, told in fields.items()
    }


def _missing(item: Item) -> tuple[str, ...]:
    listed = item.given.get("missing", [])
    return (f"Not in the file, give it by hand: {', '.join(listed)}.",) if listed else ()


def _refused(item: Item, why: str) -> Line:
    name = f"{item.server}: {item.name}" if item.kind == "capability" else item.name
    return Line(item.kind, name, "refuse", why=why)


def _words(error: ServiceError) -> str:
    fields: Mapping[str, list[str]] = error.details.get("fields") or {}
    said = "; ".join(f"{name}: {' '.join(messages)}" for name, messages in fields.items() if name != "non_field")
    return said or error.message
