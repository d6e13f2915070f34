"""Registering servers, changing them, and deciding whether agents may use them."""

from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core import egress
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput, NotFound
from apps.core.schemas import Page, PageQuery, page_of
from apps.registry.backends import commands
from apps.registry.models import Capability, Credential, Environment, Server, ServerQuerySet, Transport
from apps.registry.schemas import ServerFilters
from apps.registry.services.aliases import give_up_taken, own_name, record_given_up
from apps.secrets import services as secrets

STDIO_CHECK_SECONDS = 600
"""How often a stdio server is checked unless somebody says otherwise: each check starts a process."""
_CHANGEABLE = frozenset({
    "name", "description", "url", "command", "env", "environment", "tags", "owner_label", "is_critical",
    "isolate_sessions", "timeout_seconds", "max_concurrency", "check_interval_seconds", "check_timeout_seconds",
    "check_retries",
})  # fmt: skip
_FIXED = frozenset({"slug", "transport"})
_NAMES_ONLY = frozenset({"env"})
_REACHED_BY = ("url", "command", "env")
_NO_SERVER = "There is no such server."
_LEARNT = ("approved_at", "approved_by", "protocol_version", "checked_at", "check_due_at")


def register_server(
    actor: Actor, *, name: str, slug: str, transport: str = Transport.STREAMABLE_HTTP, url: str = "",
    command: tuple[str, ...] | list[str] = (), env: dict[str, str] | None = None, description: str = "",
    environment: str = Environment.PRODUCTION, tags: tuple[str, ...] | list[str] = (), **limits: Any,
) -> Server:  # fmt: skip
    """Make a server known. Nobody uses it before staff approve it; discover it to see what it offers.

    `limits` are the other fields that `update_server` takes. A stdio server is registered by a platform admin only, and
    its whole command line must be listed in GATEHOUSE_STDIO_ALLOW.
    """
    actor.require("server.write")
    _check_names(limits)
    if actor.organization_id is None:
        raise InvalidInput("A server belongs to an organisation. Choose one, by REST in the header X-Organization.")
    if transport == Transport.STDIO:
        actor.require_platform_admin()
        actor.require_confirmed()
        limits.setdefault("check_interval_seconds", STDIO_CHECK_SECONDS)
    server = Server(
        organization_id=actor.organization_id, name=name, slug=slug, transport=transport, url=url,
        command=list(command), env=dict(env or {}), description=description, environment=environment,
        tags=list(tags), **limits,
    )  # fmt: skip
    _check_reach(server)
    _check_tags(server.tags)
    with transaction.atomic():
        # Before the row: whoever makes another of this slug waits for it, and may hold the chain.
        audit.hold_chain(actor.organization_id)
        server.store()
        made = audit.made_with(server, {*_CHANGEABLE, *_FIXED}, names_only=_NAMES_ONLY)
        audit.record(actor, "server.registered", server, details={**_reach(server), "changes": made})
    return server


def get_server(actor: Actor, *, server_id: UUID) -> Server:
    """A server of the actor's organisation; one that was deleted is not found."""
    actor.require("server.read")
    return _find(actor, server_id)


def list_servers(actor: Actor, *, filters: ServerFilters, page: PageQuery) -> Page:
    """The servers of the actor's organisation that match all conditions."""
    actor.require("server.read")
    rows = Server.objects.for_org(actor.organization_id).present()
    return page_of(_matching(rows, filters).order_by(filters.ordering, "id"), page)


def update_server(actor: Actor, *, server_id: UUID, **changes: Any) -> Server:
    """Change a server. Another URL, command or variable withdraws the approval: it may be another server now.

    Another host also destroys the credentials, which were given for the old one. A stdio server is changed by a
    platform admin only. The slug and the transport never change.
    """
    server = get_server(actor, server_id=server_id)
    actor.require("server.write")
    if server.transport == Transport.STDIO:
        actor.require_platform_admin()
        actor.require_confirmed()
    with transaction.atomic():
        return _update(actor, hold_server(server), changes)


def _update(actor: Actor, server: Server, changes: dict[str, Any]) -> Server:
    changes = _real_changes(server, changes)
    if not changes:
        return server
    old_url = server.url
    told = audit.what_changes(server, changes, names_only=_NAMES_ONLY)
    for field, value in changes.items():
        setattr(server, field, value)
    _check_reach(server)
    _check_tags(server.tags)
    touched = {*changes, "updated_at"}
    if "check_interval_seconds" in changes:
        server.check_due_at = timezone.now()
        touched.add("check_due_at")
    is_elsewhere = is_elsewhere_than(server, old_url)
    if is_elsewhere:
        _hold_secrets([server.pk])
    if any(field in changes for field in _REACHED_BY):
        _become_unknown(actor, server)
        touched.update(_LEARNT)
    server.store(update_fields=touched)
    if is_elsewhere:
        _destroy_credentials(actor, server)
    said = {"fields": sorted(changes), **_reach(server), "changes": told}
    audit.record(actor, "server.updated", server, details=said)
    auth.raise_revision(server.organization_id)
    return server


def delete_server(actor: Actor, *, server_id: UUID) -> None:
    """Take a server away from agents at once. Its rows stay, and `restore_server` brings it back."""
    server = get_server(actor, server_id=server_id)
    actor.require("server.write")
    with transaction.atomic():
        server = hold_server(server)
        server.deleted_at = timezone.now()
        server.store(update_fields=["deleted_at", "updated_at"])
        server.capabilities.filter(removed_at=None).update(removed_at=server.deleted_at)
        audit.record(actor, "server.deleted", server)
        auth.raise_revision(server.organization_id)


def restore_server(actor: Actor, *, server_id: UUID) -> Server:
    """Bring a deleted server back as it was, waiting for approval. Raises Conflict where its slug is taken now.

    An alias that another capability was given meanwhile stays with that one.
    """
    actor.require("server.write")
    found = Server.objects.for_org(actor.organization_id).exclude(deleted_at=None)
    server: Server | None = found.filter(pk=server_id).first()
    if server is None:
        raise NotFound("There is no deleted server by that id.")
    if server.transport == Transport.STDIO:
        actor.require_platform_admin()
        actor.require_confirmed()
    with transaction.atomic():
        server = hold_server(server, is_present=False)
        deleted_at = server.deleted_at
        if deleted_at is None:
            return server
        server.deleted_at, server.approved_at, server.approved_by = None, None, ""
        server.store()
        given_up = _bring_back(server.capabilities.filter(removed_at=deleted_at))
        audit.record(actor, "server.restored", server)
        record_given_up(actor, given_up)
        auth.raise_revision(server.organization_id)
    return server


def _bring_back(gone: QuerySet[Capability]) -> dict[UUID, str]:
    given_up = give_up_taken(gone)
    nameless = list(gone.filter(pk__in=given_up))
    gone.exclude(pk__in=given_up).update(removed_at=None)
    for row in nameless:
        row.public_name, row.removed_at = own_name(row), None
        row.store(update_fields=["public_name", "removed_at", "updated_at"])
    return given_up


def approve_server(actor: Actor, *, server_id: UUID, digest: str = "") -> Server:
    """Let agents use a server and the capabilities it has now; what it adds later waits.

    Approving again approves what has been waiting. With the digest of the server that was looked at, raises Conflict
    when it has been pointed elsewhere or read anew meanwhile.
    """
    server = get_server(actor, server_id=server_id)
    actor.require("server.approve")
    if server.transport == Transport.STDIO:
        actor.require_confirmed()
    with transaction.atomic():
        server = hold_server(server)
        if digest and digest != server.digest:
            raise Conflict("The server has changed since you looked at it. Look at it again.")
        waiting = [row for row in Capability.objects.present().filter(server=server) if not row.is_approved]
        if server.is_approved and not waiting:
            return server
        for row in waiting:
            row.approve()
        Capability.objects.bulk_update(
            waiting, ["approved_digest", "approved_definition", "updated_at"], batch_size=200
        )
        if not server.is_approved:
            server.approved_at, server.approved_by = timezone.now(), actor.label
            server.store(update_fields=["approved_at", "approved_by", "updated_at"])
        names = [row.public_name for row in waiting[:100]]
        audit.record(
            actor, "server.approved", server, details={"capabilities": len(waiting), "names": names, **_reach(server)}
        )
        auth.raise_revision(server.organization_id)
    return server


def revoke_approval(actor: Actor, *, server_id: UUID) -> Server:
    """Take a server away from agents until it is approved again."""
    server = get_server(actor, server_id=server_id)
    actor.require("server.approve")
    with transaction.atomic():
        server = hold_server(server)
        if not server.is_approved:
            return server
        server.approved_at, server.approved_by = None, ""
        server.store(update_fields=["approved_at", "approved_by", "updated_at"])
        audit.record(actor, "server.approval_revoked", server)
        auth.raise_revision(server.organization_id)
    return server


def enable_server(actor: Actor, *, server_id: UUID) -> Server:
    """Let agents use a server again that was switched off."""
    return _switch(actor, server_id, is_enabled=True)


def disable_server(actor: Actor, *, server_id: UUID) -> Server:
    """Keep agents from using a server, at once; it is not checked meanwhile."""
    return _switch(actor, server_id, is_enabled=False)


def _switch(actor: Actor, server_id: UUID, *, is_enabled: bool) -> Server:
    server = get_server(actor, server_id=server_id)
    actor.require("server.write")
    with transaction.atomic():
        server = hold_server(server)
        if server.is_enabled == is_enabled:
            return server
        told = audit.what_changes(server, {"is_enabled": is_enabled})
        server.is_enabled = is_enabled
        server.store(update_fields=["is_enabled", "updated_at"])
        audit.record(actor, "server.enabled" if is_enabled else "server.disabled", server, details={"changes": told})
        auth.raise_revision(server.organization_id)
    return server


def hold_server(server: Server, *, is_present: bool = True) -> Server:
    """The row as it is now, held until the caller's transaction ends; raises NotFound where it was deleted meanwhile.

    Without `is_present` one that was deleted can be held too. It is held before anything of the server is changed, and
    before the journal's chain. Rows that refer to it can still be made (`no_key`): whoever makes one holds the chain,
    for which we may wait.
    """
    # allowed: the row that the actor has been given, held
    held: Server | None = Server.objects.select_for_update(no_key=True).filter(pk=server.pk).first()
    if held is None or (is_present and held.deleted_at is not None):
        raise NotFound(_NO_SERVER)
    return held


def hold_servers(actor: Actor, *, slugs: Collection[str]) -> None:
    """Hold some of the organisation's servers, for a caller that changes several in one transaction.

    Whoever may change none holds none.
    """
    if slugs and (actor.can("server.write") or actor.can("server.approve")):
        found = Server.objects.for_org(actor.organization_id).present().filter(slug__in=slugs)
        _hold_secrets(list(found.select_for_update(no_key=True).order_by("pk").values_list("pk", flat=True)))


def is_elsewhere_than(server: Server, url: str) -> bool:
    """Whether it is at another host than it was: what was given for that one is not for this."""
    return _origin(url) != _origin(server.url)


def _hold_secrets(server_ids: Collection[UUID]) -> None:
    """Before the journal's chain: they may be destroyed."""
    secrets.hold(Credential.objects.filter(server_id__in=server_ids).values_list("secret_id", flat=True))


def _matching(rows: ServerQuerySet, filters: ServerFilters) -> ServerQuerySet:
    equal = filters.model_dump(include={"transport", "environment", "health", "is_enabled"}, exclude_none=True)
    rows = rows.filter(**equal)
    if filters.is_approved is not None:
        rows = rows.approved(filters.is_approved)
    if filters.tag:
        rows = rows.tagged(filters.tag)
    if filters.capability:
        rows = rows.offering(filters.capability)
    return rows.named_like(filters.q) if filters.q else rows


def _find(actor: Actor, server_id: UUID) -> Server:
    found = Server.objects.for_org(actor.organization_id).present()
    server: Server | None = found.filter(pk=server_id).first()
    if server is None:
        raise NotFound(_NO_SERVER)
    return server


def _real_changes(server: Server, changes: dict[str, Any]) -> dict[str, Any]:
    """The fields whose value differs; raises InvalidInput for those that never change."""
    fixed = {field: changes.pop(field) for field in sorted(_FIXED & set(changes))}
    for field, value in fixed.items():
        if getattr(server, field) != value:
            raise InvalidInput.for_field(field, f"The {field} of a server never changes. Register another server.")
    if "is_enabled" in changes:
        raise InvalidInput.for_field("is_enabled", "Enable or disable the server instead.")
    _check_names(changes)
    for field in ("command", "tags"):
        if field in changes:
            changes[field] = list(changes[field])
    return {field: value for field, value in changes.items() if getattr(server, field) != value}


def _check_names(changes: dict[str, Any]) -> None:
    unknown = sorted(set(changes) - _CHANGEABLE)
    if unknown:
        raise InvalidInput.for_field(unknown[0], "This cannot be set.")


def _check_reach(server: Server) -> None:
    """Raise InvalidInput unless the server can be reached in the way it says, and in no other."""
    if server.transport == Transport.STDIO:
        if server.url:
            raise InvalidInput.for_field("url", "A stdio server has a command, not a URL.")
        commands.check_command(server.command)
        commands.check_env(server.env)
    else:
        if server.command or server.env:
            raise InvalidInput.for_field("command", "Only a stdio server has a command and variables.")
        egress.check_url(server.url)


def _check_tags(tags: list[Any]) -> None:
    if len(tags) > 50 or any(  # noqa: PLR2004 - said in the message
        not isinstance(tag, str) or not 0 < len(tag) <= 50 or '"' in tag or "\\" in tag  # noqa: PLR2004
        for tag in tags
    ):
        raise InvalidInput.for_field("tags", "At most 50 tags of 1 to 50 characters, without quotes and backslashes.")


def _become_unknown(actor: Actor, server: Server) -> None:
    """What was approved and learnt was about what stood there before."""
    if server.is_approved:
        audit.record(actor, "server.approval_revoked", server, details={"because": "it is reached in another way now"})
    server.approved_at, server.approved_by, server.protocol_version, server.checked_at = None, "", "", None
    server.check_due_at = timezone.now()


def _destroy_credentials(actor: Actor, server: Server) -> None:
    from apps.registry.services.credentials import destroy

    for credential in Credential.objects.filter(server=server).select_related("server"):
        destroy(actor, credential)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _reach(server: Server) -> dict[str, Any]:
    """How the server is reached, as the journal shows it: the exact command, the names of variables only."""
    if server.transport == Transport.STDIO:
        return {"command": list(server.command), "variables": sorted(server.env)}
    return {"url": server.url}
