"""Getting started: what is to be done until an organisation's first call arrives, and how agents are connected."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

from apps.core.actor import Actor
from apps.core.staff import actor_of
from apps.gateway import services as gateway
from apps.usage import services as usage

if TYPE_CHECKING:
    from config.staff import StaffSite


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, where it is done, and whether it has been."""

    icon: str
    title: str
    text: str
    label: str
    url: str
    is_done: bool
    is_next: bool = False


def first_steps(site: "StaffSite", request: HttpRequest) -> list[Step]:
    """The steps up to the first call that was let through; none once there was one, nor outside an organisation."""
    actor = actor_of(request)
    if actor.organization_id is None or not _may_do_them(actor) or usage.has_been_called(actor.organization_id):
        return []
    steps = _steps(site, request)
    following = next((number for number, step in enumerate(steps) if not step.is_done), len(steps))
    return [replace(step, is_next=number == following) for number, step in enumerate(steps)]


def _may_do_them(actor: Actor) -> bool:
    return all(actor.can(permission) for permission in ("server.read", "usage.read", "key.read"))


def _steps(site: "StaffSite", request: HttpRequest) -> list[Step]:
    servers = site.page_of("registry_server").findable(request)
    keys = site.page_of("accounts_apikey").get_queryset(request)
    waiting = servers.filter(approved_at=None).order_by("-pk").first()
    return [
        Step(
            "dns",
            "Add a server",
            "Give the address of an MCP server that your agents should use.",
            "Add a server",
            reverse("admin:registry_server_add"),
            servers.exists(),
        ),
        Step(
            "verified",
            "Approve it",
            "Test the connection, discover its tools, read them, then approve the server.",
            "Look at it",
            site.page_of("registry_server").url_of(waiting) if waiting else reverse("admin:registry_server_changelist"),
            servers.exclude(approved_at=None).exists(),
        ),
        Step(
            "key",
            "Make a key",
            "An agent signs in with an API key. It is shown once.",
            "Make a key",
            reverse("admin:accounts_apikey_add"),
            keys.exists(),
        ),
        Step(
            "cable",
            "Connect a client",
            "Give your agent's program the address and the key.",
            "How to connect",
            reverse("admin:connect"),
            keys.exclude(last_used_at=None).exists(),
        ),
        Step(
            "smart_toy",
            "Call a tool",
            "Ask your agent for something that needs a tool. Its calls appear under Usage.",
            "Calls so far",
            reverse("admin:usage_usageevent_changelist"),
            is_done=False,
        ),
    ]


def ways_to_connect() -> dict[str, Any]:
    """What each program wants to be told, with a placeholder for the key."""
    # As from another machine: who reads this page may not know where Gatehouse is installed.
    programs = [gateway.connection_to(settings.MCP_AUDIENCE, client=client) for client in gateway.CLIENTS]
    return {"url": settings.MCP_AUDIENCE, "programs": programs, "placeholder": gateway.PLACEHOLDER}
