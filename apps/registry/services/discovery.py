"""Discovery: reading what a server offers and noting what that changes.

New capabilities wait for approval. One whose definition changed after it was approved is withheld until it is approved
again. What is refused is kept in the record with the reason, never dropped in silence.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.actor import Actor, system_actor
from apps.core.doors import is_deeper_than, storable_text
from apps.core.errors import BackendError, NotFound
from apps.core.schemas import Page, PageQuery, page_of
from apps.jobs import services as jobs
from apps.jobs.schemas import JobFilters, JobOut
from apps.registry.backends.base import Hello
from apps.registry.models import Capability, CapabilityKind, Discovery, Server
from apps.registry.schemas import RegisteredOut, ServerIn, ServerOut
from apps.registry.services.aliases import give_up_taken, record_given_up
from apps.registry.services.definitions import (
    DEEPEST,
    NAME_KEYS,
    canonical,
    changes_between,
    digest_of,
    refusal_of,
    shown,
    warnings_of,
)
from apps.registry.services.names import public_names
from apps.registry.services.reading import Reading, read_all, run_short
from apps.registry.services.routes import route_of
from apps.registry.services.servers import get_server, hold_server, register_server

DISCOVER = "registry.discover"
LONGEST_INSTRUCTIONS = 20_000
LARGEST_INFO_BYTES = 16_384
SCHEMAS_SECONDS = 10.0
"""How much time of the processor it may take, in one discovery, to try whether schemas can be enforced. What is not
tried has a warning that says so, and is enforced all the same where it can be."""
LONGEST_ERROR = 500
MOST_NOTED = 500
_OPEN_STATES = ("running", "pending")


@dataclass(slots=True)
class _Outcome:
    """What a reading changed."""

    added: list[dict[str, Any]] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    removed: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)
    given_up: Mapping[UUID, str] = field(default_factory=dict)
    total: int = 0

    def as_result(self, hello: Hello) -> dict[str, Any]:
        """What the job answers."""
        return {
            "protocol_version": hello.protocol_version, "total": self.total, "added": self.added[:MOST_NOTED],
            "changed": self.changed[:MOST_NOTED], "removed": self.removed[:MOST_NOTED],
            "rejected": self.rejected[:MOST_NOTED],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Judged:
    """A definition that is taken, and what looks wrong in it."""

    definition: dict[str, Any]
    digest: str
    warnings: list[dict[str, str]]


def register_and_discover(actor: Actor, *, server: ServerIn) -> RegisteredOut:
    """Make a server known and start the job that discovers what it offers: whoever registers one wants to see it."""
    given = server.model_dump(exclude_none=True)
    with transaction.atomic():
        made = register_server(actor, **given)
        job = start_discovery(actor, server_id=made.id)
    return RegisteredOut(**ServerOut.model_validate(made).model_dump(), job_id=job.id)


def start_discovery(actor: Actor, *, server_id: UUID) -> JobOut:
    """Discover a server in the background; while a discovery of it is under way, that one is returned."""
    server = get_server(actor, server_id=server_id)
    actor.require("server.write")
    with transaction.atomic():
        hold_server(server)  # of two who ask at the same moment the second finds the job of the first
        running = _running_job(server)
        if running is not None:
            return running
        job = jobs.start(actor, DISCOVER, subject=f"server:{server.slug}", server_id=server.id)
    return JobOut.model_validate(job)


def _running_job(server: Server) -> JobOut | None:
    asking = system_actor(server.organization_id)
    for state in _OPEN_STATES:
        filters = JobFilters.model_validate({"kind": DISCOVER, "subject": f"server:{server.slug}", "state": state})
        found = jobs.list_jobs(asking, filters=filters, page=PageQuery(page=1, page_size=1)).items
        if found:
            return JobOut.model_validate(found[0])
    return None


def discover_server(actor: Actor, *, server_id: UUID | str) -> dict[str, Any]:
    """Read everything a server offers and note what that changes; the work of the job.

    Raises BackendError when it cannot be read; the failure is recorded too, and nothing else changes.
    """
    server = get_server(actor, server_id=UUID(str(server_id)))
    actor.require("server.write")
    route = replace(route_of(server), protocol_version="")
    started = time.monotonic()
    try:
        reading = run_short(lambda: read_all(route))
    except BackendError as error:
        _note_failure(server, error, time.monotonic() - started)
        raise
    return _keep(actor, server, reading, time.monotonic() - started)


def list_discoveries(actor: Actor, *, server_id: UUID, page: PageQuery) -> Page:
    """The readings of a server, the newest first."""
    server = get_server(actor, server_id=server_id)
    return page_of(Discovery.objects.for_org(actor.organization_id).filter(server=server), page)


def _note_failure(server: Server, error: BackendError, seconds: float) -> None:
    with transaction.atomic():
        jobs.confirm()
        Discovery(
            organization_id=server.organization_id, server=server, job_id=jobs.current_job_id(),
            error=storable_text(error.message)[:LONGEST_ERROR], duration_ms=seconds * 1000,
        ).store()  # fmt: skip


def _keep(actor: Actor, before: Server, reading: Reading, seconds: float) -> dict[str, Any]:
    hello, outcome = reading.hello, _Outcome()
    offered = _judge(reading, outcome)  # it takes time where somebody wants it to: nobody waits for our lock meanwhile
    with transaction.atomic():
        # allowed: the row that was read, held
        server = Server.objects.select_for_update(no_key=True).present().filter(pk=before.pk).first()
        if server is None or (server.url, server.command, server.env) != (before.url, before.command, before.env):
            raise NotFound("The server was changed or deleted while it was read. Discover it again.")
        outcome.given_up = _give_up_aliases(server, offered)
        for kind in CapabilityKind.values:
            _keep_kind(server, kind, reading, offered.get(kind, {}), outcome)
        _keep_hello(server, hello)
        result = outcome.as_result(hello)
        Discovery(
            organization_id=server.organization_id, server=server, job_id=jobs.current_job_id(),
            duration_ms=seconds * 1000, **result,
        ).store()  # fmt: skip
        jobs.settle(result)  # before the journal's chain, like whoever cancels the job
        _journal(actor, server, outcome)
        auth.raise_revision(server.organization_id)
    return result


def _judge(reading: Reading, outcome: _Outcome) -> dict[str, dict[str, _Judged]]:
    """The definitions that are taken, by kind and name; the others are noted with the reason."""
    until = time.thread_time() + SCHEMAS_SECONDS
    return {kind: _accepted(kind, items, outcome, until) for kind, items in reading.items.items()}


def _give_up_aliases(server: Server, offered: Mapping[str, Mapping[str, _Judged]]) -> dict[UUID, str]:
    gone = Capability.objects.filter(server=server).exclude(removed_at=None).exclude(alias="")
    returning = [row for row in gone if row.name in offered.get(row.kind, {})]
    if returning:
        jobs.confirm()  # before the journal's chain, which is held then
    return give_up_taken(returning)


def _keep_kind(server: Server, kind: str, reading: Reading, offered: dict[str, _Judged], outcome: _Outcome) -> None:
    rows = {row.name: row for row in Capability.objects.filter(server=server, kind=kind)}
    present = [row for row in rows.values() if row.removed_at is None]
    if kind in reading.refused:
        outcome.rejected.append({"kind": kind, "name": "", "reason": storable_text(reading.refused[kind])})
        outcome.total += len(present)
        return
    names = public_names(
        kind, server.slug, offered,
        held={row.name: row.public_name for row in present if not row.alias},
        taken=[row.alias for row in rows.values() if row.alias],
    )  # fmt: skip
    offered = _without_twins(kind, offered, names, outcome)
    outcome.total += len(offered)
    _remove([row for row in present if row.name not in offered], outcome)
    to_add, to_save = [], []
    for name, judged in offered.items():
        row = rows.get(name)
        if row is None:
            row = Capability(organization_id=server.organization_id, server=server, kind=kind, name=name)
            to_add.append(row)
        else:
            to_save.append(row)
        _define(row, judged, names[name], outcome)
    Capability.objects.bulk_create(to_add, batch_size=200)
    Capability.objects.bulk_update(
        to_save, ["definition", "digest", "warnings", "public_name", "removed_at", "updated_at"], batch_size=200
    )


def _define(row: Capability, judged: _Judged, public_name: str, outcome: _Outcome) -> None:
    definition, digest = judged.definition, judged.digest
    noted = {"kind": row.kind, "name": row.name}
    if not row.digest or row.removed_at is not None:
        outcome.added.append(noted)
    elif digest != row.digest:
        outcome.changed.append({**noted, "changes": changes_between(row.definition, definition)})
    if row.approved_digest and digest not in (row.approved_digest, row.digest):
        outcome.withheld.append(public_name)
    row.definition, row.digest, row.warnings = definition, digest, judged.warnings
    row.public_name, row.removed_at, row.updated_at = row.alias or public_name, None, timezone.now()


def _remove(gone: list[Capability], outcome: _Outcome) -> None:
    outcome.removed.extend({"kind": row.kind, "name": row.name} for row in gone)
    now = timezone.now()
    Capability.objects.filter(pk__in=[row.pk for row in gone]).update(removed_at=now, updated_at=now)


def _accepted(kind: str, items: list[Any], outcome: _Outcome, until: float) -> dict[str, _Judged]:
    accepted: dict[str, _Judged] = {}
    for item in items:
        name = item.get(NAME_KEYS[CapabilityKind(kind)]) if isinstance(item, dict) else None
        reason = refusal_of(kind, item)
        if not reason and name in accepted:
            reason = "The server offers this name twice; the first is taken."
        if reason:
            outcome.rejected.append({"kind": kind, "name": shown(name or ""), "reason": storable_text(reason)})
        elif isinstance(name, str):
            accepted[name] = _Judged(item, digest_of(item), warnings_of(item, until=until))
    return accepted


def _without_twins(
    kind: str, offered: dict[str, _Judged], names: Mapping[str, str], outcome: _Outcome
) -> dict[str, _Judged]:
    """Two names whose digests are made to be equal would be one name for agents: the later one is not taken."""
    first: dict[str, str] = {}
    for name in sorted(offered):
        first.setdefault(names[name].casefold(), name)
    kept = set(first.values())
    for name in sorted(set(offered) - kept):
        reason = "Its name for agents would be that of another capability."
        outcome.rejected.append({"kind": kind, "name": shown(name), "reason": reason})
    return {name: judged for name, judged in offered.items() if name in kept}


def _keep_hello(server: Server, hello: Hello) -> None:
    server.protocol_version = hello.protocol_version
    server.server_info = hello.server_info if _is_storable(hello.server_info) else {}
    server.declared_capabilities = hello.capabilities if _is_storable(hello.capabilities) else {}
    server.instructions = storable_text(hello.instructions)[:LONGEST_INSTRUCTIONS]
    server.discovered_at = timezone.now()
    server.store(
        update_fields=[
            "protocol_version", "server_info", "declared_capabilities", "instructions", "discovered_at", "updated_at",
        ]
    )  # fmt: skip


def _is_storable(said: dict[str, Any]) -> bool:
    if is_deeper_than(said, DEEPEST):
        return False
    written = canonical(said)
    return len(written) <= LARGEST_INFO_BYTES and b"\\u0000" not in written


def _journal(actor: Actor, server: Server, outcome: _Outcome) -> None:
    counts = {
        "added": len(outcome.added), "changed": len(outcome.changed), "removed": len(outcome.removed),
        "rejected": len(outcome.rejected), "total": outcome.total,
    }  # fmt: skip
    audit.record(actor, "server.discovered", server, details=counts)
    record_given_up(actor, outcome.given_up)
    if outcome.withheld:
        names = outcome.withheld[:100]
        audit.record(
            actor, "capability.withheld", server, details={"names": names, "because": "its definition changed"}
        )
