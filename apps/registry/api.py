"""REST: servers, what they offer, and how they fare."""

from typing import Any
from uuid import UUID

from ninja import Query, Router, Status

from apps.core.doors import ActorRequest
from apps.core.schemas import PageOut, PageQuery
from apps.registry import services
from apps.registry.schemas import (
    ApproveIn,
    CapabilityFilters,
    CapabilityOut,
    CapabilityPatch,
    CheckOut,
    ConnectionOut,
    CredentialIn,
    CredentialOut,
    DiscoveryJobOut,
    DiscoveryOut,
    HealthOut,
    HealthQuery,
    RegisteredOut,
    ServerFilters,
    ServerIn,
    ServerOut,
    ServerPatch,
)

router = Router(tags=["Servers"])


@router.post("/servers", response={201: RegisteredOut}, operation_id="register_server")
def register_server(request: ActorRequest, server: ServerIn) -> Any:
    """Make a server known. A job that discovers what it offers starts by itself; staff approve it before it is used."""
    return Status(201, services.register_and_discover(request.actor, server=server))


@router.get("/servers", response=PageOut[ServerOut], operation_id="list_servers")
def list_servers(request: ActorRequest, filters: Query[ServerFilters], page: Query[PageQuery]) -> Any:
    """The servers of the organisation."""
    return services.list_servers(request.actor, filters=filters, page=page)


@router.get("/servers/{server_id}", response=ServerOut, operation_id="get_server")
def get_server(request: ActorRequest, server_id: UUID) -> Any:
    """One server."""
    return services.get_server(request.actor, server_id=server_id)


@router.patch("/servers/{server_id}", response=ServerOut, operation_id="update_server")
def update_server(request: ActorRequest, server_id: UUID, changes: ServerPatch) -> Any:
    """Change a server. Another URL, command or variable withdraws its approval; another host its credentials too."""
    return services.update_server(request.actor, server_id=server_id, **changes.model_dump(exclude_unset=True))


@router.delete("/servers/{server_id}", response={204: None}, operation_id="delete_server")
def delete_server(request: ActorRequest, server_id: UUID) -> Any:
    """Take a server away from agents at once; it can be restored."""
    services.delete_server(request.actor, server_id=server_id)
    return Status(204, None)


@router.post("/servers/{server_id}/restore", response=ServerOut, operation_id="restore_server")
def restore_server(request: ActorRequest, server_id: UUID) -> Any:
    """Bring a deleted server back; it waits for approval again."""
    return services.restore_server(request.actor, server_id=server_id)


@router.post("/servers/{server_id}/discover", response={202: DiscoveryJobOut}, operation_id="discover_server")
def discover_server(request: ActorRequest, server_id: UUID) -> Any:
    """Read everything the server offers, in the background; the job that is under way, if there is one."""
    return Status(202, services.start_discovery(request.actor, server_id=server_id))


@router.post("/servers/{server_id}/approve", response=ServerOut, operation_id="approve_server")
def approve_server(request: ActorRequest, server_id: UUID, seen: ApproveIn | None = None) -> Any:
    """Let agents use the server and the capabilities it has now; what it adds later waits."""
    digest = seen.digest if seen else ""
    return services.approve_server(request.actor, server_id=server_id, digest=digest)


@router.post("/servers/{server_id}/revoke-approval", response=ServerOut, operation_id="revoke_approval")
def revoke_approval(request: ActorRequest, server_id: UUID) -> Any:
    """Take the server away from agents until it is approved again."""
    return services.revoke_approval(request.actor, server_id=server_id)


@router.post("/servers/{server_id}/enable", response=ServerOut, operation_id="enable_server")
def enable_server(request: ActorRequest, server_id: UUID) -> Any:
    """Let agents use the server again."""
    return services.enable_server(request.actor, server_id=server_id)


@router.post("/servers/{server_id}/disable", response=ServerOut, operation_id="disable_server")
def disable_server(request: ActorRequest, server_id: UUID) -> Any:
    """Keep agents from using the server, at once."""
    return services.disable_server(request.actor, server_id=server_id)


@router.post("/servers/{server_id}/check", response=CheckOut, operation_id="check_server")
def check_server(request: ActorRequest, server_id: UUID) -> Any:
    """Look at the server's health now."""
    return services.check_server(request.actor, server_id=server_id)


@router.post("/servers/{server_id}/test-connection", response=ConnectionOut, operation_id="test_connection")
def test_connection(request: ActorRequest, server_id: UUID) -> Any:
    """Reach the server step by step, and say where it fails and what to do."""
    return services.describe_connection(request.actor, server_id=server_id)


@router.get("/servers/{server_id}/health", response=HealthOut, operation_id="get_server_health")
def get_health(request: ActorRequest, server_id: UUID, shown: Query[HealthQuery]) -> Any:
    """How the server fares, with its uptime over a day, a week and a month, its breaker here and what checks took."""
    return services.get_health(request.actor, server_id=server_id, period=shown.period)


@router.get("/servers/{server_id}/checks", response=PageOut[CheckOut], operation_id="list_server_checks")
def list_checks(request: ActorRequest, server_id: UUID, page: Query[PageQuery]) -> Any:
    """The health checks of the server, the newest first."""
    return services.list_checks(request.actor, server_id=server_id, page=page)


@router.get("/servers/{server_id}/discoveries", response=PageOut[DiscoveryOut], operation_id="list_discoveries")
def list_discoveries(request: ActorRequest, server_id: UUID, page: Query[PageQuery]) -> Any:
    """The readings of what the server offers, the newest first."""
    return services.list_discoveries(request.actor, server_id=server_id, page=page)


@router.get("/servers/{server_id}/capabilities", response=PageOut[CapabilityOut], operation_id="list_capabilities")
def list_capabilities(
    request: ActorRequest, server_id: UUID, filters: Query[CapabilityFilters], page: Query[PageQuery]
) -> Any:
    """The tools, resources, resource templates and prompts of the server."""
    return services.list_capabilities(request.actor, server_id=server_id, filters=filters, page=page)


@router.get("/capabilities/{capability_id}", response=CapabilityOut, operation_id="get_capability")
def get_capability(request: ActorRequest, capability_id: UUID) -> Any:
    """One capability, with what changed since it was approved."""
    return services.get_capability(request.actor, capability_id=capability_id)


@router.patch("/capabilities/{capability_id}", response=CapabilityOut, operation_id="update_capability")
def update_capability(request: ActorRequest, capability_id: UUID, changes: CapabilityPatch) -> Any:
    """Decide how agents see and may use a capability."""
    given = changes.model_dump(exclude_unset=True)
    return services.update_capability(request.actor, capability_id=capability_id, **given)


@router.post("/capabilities/{capability_id}/approve", response=CapabilityOut, operation_id="approve_capability")
def approve_capability(request: ActorRequest, capability_id: UUID, seen: ApproveIn | None = None) -> Any:
    """Let agents use the capability as it is defined now."""
    digest = seen.digest if seen else ""
    return services.approve_capability(request.actor, capability_id=capability_id, digest=digest)


@router.post("/servers/{server_id}/credentials", response={201: CredentialOut}, operation_id="add_credential")
def add_credential(request: ActorRequest, server_id: UUID, credential: CredentialIn) -> Any:
    """Seal a secret and present it to the server from now on; it is never shown again."""
    return Status(201, services.add_credential(request.actor, server_id=server_id, **credential.model_dump()))


@router.get("/servers/{server_id}/credentials", response=list[CredentialOut], operation_id="list_credentials")
def list_credentials(request: ActorRequest, server_id: UUID) -> Any:
    """The credentials of the server, without their secrets."""
    return services.list_credentials(request.actor, server_id=server_id)


@router.delete(
    "/servers/{server_id}/credentials/{credential_id}", response={204: None}, operation_id="remove_credential"
)
def remove_credential(request: ActorRequest, server_id: UUID, credential_id: UUID) -> Any:
    """Destroy a credential and its secret."""
    services.remove_credential(request.actor, credential_id=credential_id, server_id=server_id)
    return Status(204, None)
