"""Every upstream of every organisation, by name, and the two lists that allow them."""

from collections.abc import Iterator
from datetime import UTC, datetime

from apps.core.actor import system_actor
from apps.core.errors import ServiceError
from apps.registry import services as registry
from apps.registry.models import Health, Server, Transport
from config.doctor.findings import Finding, drop_variable, manage, set_variable
from config.env import env

LATE_CHECKS = 10
"""A check that is this many intervals old is none any more."""


def check_now() -> None:
    """Look at every enabled server once more."""
    for server in Server.objects.present().filter(is_enabled=True):
        try:
            registry.check_server(system_actor(server.organization_id, surface="command"), server_id=server.id)
        except ServiceError:
            continue  # deleted meanwhile: it is not listed any more


def examine_servers() -> Iterator[Finding]:
    """One line for each server."""
    for state in registry.list_server_states():
        yield _finding(state)


def _finding(state: registry.ServerState) -> Finding:
    what = f"server {state.organization}/{state.slug}"
    if not state.is_enabled:
        return Finding(what, "note", "switched off")
    if state.refusal and not state.entry:
        why = f"{state.refusal} Install it for the user who runs Gatehouse, then look again."
        return Finding(what, "wrong", why, manage("doctor", "--check"))
    if state.refusal:
        return Finding(what, "wrong", state.refusal, _allow(state))
    if state.checked_at is None:
        return Finding(what, "note", "not checked yet", manage("doctor", "--check"))
    ago = (datetime.now(UTC) - state.checked_at).total_seconds()
    if state.health == Health.UNHEALTHY:
        why = f"{state.message or 'Its last check failed.'} (checked {ago:.0f} s ago) Start it, then look again."
        return Finding(what, "wrong", why, manage("doctor", "--check"))
    if ago > state.check_interval_seconds * LATE_CHECKS:
        return Finding(what, "note", f"{state.health}, but checked {ago:.0f} s ago", manage("doctor", "--check"))
    return Finding(what, "ok", f"{state.health}, checked {ago:.0f} s ago")


def _allow(state: registry.ServerState) -> str:
    """The list with the server's entry added: the operator decides whether to type it."""
    if state.transport == Transport.STDIO:
        return set_variable("GATEHOUSE_STDIO_ALLOW", "; ".join([*env().stdio_allow, state.entry]))
    return set_variable("GATEHOUSE_EGRESS_ALLOW", ",".join([*env().egress_allow, state.entry]))


def examine_lists() -> Iterator[Finding]:
    """Whether either list allows what nobody needs."""
    unused = registry.unused_allowances(egress_entries=env().egress_allow, stdio_entries=env().stdio_allow)
    yield _list("egress allowlist", "GATEHOUSE_EGRESS_ALLOW", ",", env().egress_allow, unused)
    yield _list("stdio allowlist", "GATEHOUSE_STDIO_ALLOW", "; ", env().stdio_allow, unused)


def _list(what: str, variable: str, mark: str, entries: tuple[str, ...], unused: tuple[str, ...]) -> Finding:
    idle = [each for each in entries if each in unused]
    if not idle:
        return Finding(what, "ok", f"{len(entries)} entries, each with a server" if entries else "empty")
    rest = [each for each in entries if each not in idle]
    cure = set_variable(variable, mark.join(rest)) if rest else drop_variable(variable)
    return Finding(what, "note", f"No server needs {', '.join(idle)}. Take away what is not about to be used.", cure)
