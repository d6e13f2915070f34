"""What staff do to a server: the buttons of its page, and the actions on the list."""

from apps.core.actor import Actor
from apps.core.errors import ServiceError
from apps.core.staff import TemplateParts, deed, milliseconds
from apps.registry import services
from apps.registry.admin.health import TEMPLATE, HealthPage, health_context
from apps.registry.models import Server


def _is_here(server: Server) -> bool:
    return server.deleted_at is None


class ServerDeeds(HealthPage):
    """Adds them to the page of a server."""

    @deed(
        "Approve",
        permission="server.approve",
        icon="verified",
        tone="main",
        seen=lambda server: server.digest,
        is_offered=lambda server: _is_here(server) and not server.is_approved,
    )
    def approve(self, actor: Actor, server: Server) -> str:
        """Let agents use it."""
        services.approve_server(actor, server_id=server.pk, digest=server.digest)
        return f"{server} is approved. Agents can use what it offers now; what it adds later waits for you."

    @deed(
        "Approve what waits", permission="server.approve", icon="verified", tone="main", in_lists=False,
        seen=lambda server: server.digest,
        is_offered=lambda server: _is_here(server) and server.is_approved and server.waits,
        question="Agents may use everything that this server has added or changed since it was approved.",
    )  # fmt: skip
    def approve_waiting(self, actor: Actor, server: Server) -> str:
        """Let agents use what it has added or changed."""
        services.approve_server(actor, server_id=server.pk, digest=server.digest)
        return f"Everything that {server} offers now is approved."

    @deed(
        "Test connection",
        permission="server.check",
        icon="network_check",
        in_lists=False,
        is_offered=_is_here,
    )
    def test_connection(self, actor: Actor, server: Server) -> TemplateParts:
        """Try each step of reaching it."""
        steps = services.test_connection(actor, server_id=server.pk)
        shown = {**health_context(actor, server), "deeds": self.health_deeds(server)}
        return TemplateParts(TEMPLATE, {**shown, "steps": steps, "steps_ok": all(step.ok for step in steps)})

    @deed("Discover", permission="server.write", icon="travel_explore", is_offered=_is_here)
    def discover(self, actor: Actor, server: Server) -> str:
        """Read everything it offers, in the background."""
        services.start_discovery(actor, server_id=server.pk)
        return f"{server} is being discovered. Its capabilities appear here when the job has ended."

    @deed(
        "Check now", permission="server.check", icon="monitor_heart", in_lists=False,
        is_offered=_is_here,
    )  # fmt: skip
    def check_now(self, actor: Actor, server: Server) -> str:
        """Look at its health now."""
        found = services.check_server(actor, server_id=server.pk)
        said = f" It took {milliseconds(found.latency_ms)}." if found.latency_ms is not None else ""
        if found.health != "healthy":
            raise ServiceError(f"{server} is {found.get_health_display().lower()}: {found.message}")
        return f"{server} is healthy.{said}"

    @deed(
        "Enable",
        permission="server.write",
        icon="toggle_on",
        is_offered=lambda server: _is_here(server) and not server.is_enabled,
    )
    def enable(self, actor: Actor, server: Server) -> str:
        """Let agents use it again."""
        services.enable_server(actor, server_id=server.pk)
        return f"{server} is enabled."

    @deed(
        "Disable",
        permission="server.write",
        icon="toggle_off",
        is_offered=lambda server: _is_here(server) and server.is_enabled,
    )
    def disable(self, actor: Actor, server: Server) -> str:
        """Keep agents from using it, at once."""
        services.disable_server(actor, server_id=server.pk)
        return f"{server} is disabled. Agents see it no more."

    @deed(
        "Revoke approval", permission="server.approve", icon="gpp_bad", tone="bad",
        is_offered=lambda server: _is_here(server) and server.is_approved,
        question="Agents lose this server's tools at once. To give them back, somebody has to approve it again.",
    )  # fmt: skip
    def revoke(self, actor: Actor, server: Server) -> str:
        """Take the approval back."""
        services.revoke_approval(actor, server_id=server.pk)
        return f"{server} is no longer approved."

    @deed(
        "Remove", permission="server.write", icon="delete", tone="bad", is_offered=_is_here,
        question="Agents lose this server's tools at once. Its history stays, and it can be restored.",
    )  # fmt: skip
    def remove(self, actor: Actor, server: Server) -> str:
        """Take it out of use; it can be restored."""
        services.delete_server(actor, server_id=server.pk)
        return f"{server} is removed. The list shows it under “Removed servers”."

    @deed(
        "Restore",
        permission="server.write",
        icon="restore_from_trash",
        tone="main",
        is_offered=lambda server: not _is_here(server),
    )
    def restore(self, actor: Actor, server: Server) -> str:
        """Bring it back."""
        services.restore_server(actor, server_id=server.pk)
        return f"{server} is back."
