"""Every verb of servers, of what they offer and of how they are reached."""

from apps.registry.backends.base import (
    Hello,
    HttpRefusal,
    Listener,
    Refused,
    ServerRoute,
    Unanswered,
    Upstream,
    UpstreamError,
)
from apps.registry.backends.masking import secrets_of, without_secrets
from apps.registry.backends.wire import MODERN, RELATED_TASK, TASKS, declares_tasks
from apps.registry.models import CapabilityKind
from apps.registry.schemas import BreakerOut
from apps.registry.services.capabilities import (
    approve_capability,
    describe_changes,
    get_capability,
    list_capabilities,
    read_capabilities,
    update_capability,
)
from apps.registry.services.checks import (
    check_due_servers,
    check_server,
    count_failing_critical_servers,
    list_checks,
)
from apps.registry.services.connection import Step, describe_connection, test_connection
from apps.registry.services.credentials import add_credential, list_credentials, remove_credential
from apps.registry.services.definitions import OPTIONAL as TASK_OPTIONAL
from apps.registry.services.discovery import (
    discover_server,
    list_discoveries,
    register_and_discover,
    start_discovery,
)
from apps.registry.services.history import get_health, uptime_of
from apps.registry.services.operators import ServerState, list_server_states, unused_allowances
from apps.registry.services.routes import (
    Catalogue,
    CatalogueItem,
    Unavailable,
    catalogue,
    connect,
    server_route,
)
from apps.registry.services.servers import (
    approve_server,
    delete_server,
    disable_server,
    enable_server,
    get_server,
    hold_servers,
    list_servers,
    register_server,
    restore_server,
    revoke_approval,
    update_server,
)

__all__ = [
    "MODERN",
    "RELATED_TASK",
    "TASKS",
    "TASK_OPTIONAL",
    "BreakerOut",
    "CapabilityKind",
    "Catalogue",
    "CatalogueItem",
    "Hello",
    "HttpRefusal",
    "Listener",
    "Refused",
    "ServerRoute",
    "ServerState",
    "Step",
    "Unanswered",
    "Unavailable",
    "Upstream",
    "UpstreamError",
    "add_credential",
    "approve_capability",
    "approve_server",
    "catalogue",
    "check_due_servers",
    "check_server",
    "connect",
    "count_failing_critical_servers",
    "declares_tasks",
    "delete_server",
    "describe_changes",
    "describe_connection",
    "disable_server",
    "discover_server",
    "enable_server",
    "get_capability",
    "get_health",
    "get_server",
    "hold_servers",
    "list_capabilities",
    "list_checks",
    "list_credentials",
    "list_discoveries",
    "list_server_states",
    "list_servers",
    "read_capabilities",
    "register_and_discover",
    "register_server",
    "remove_credential",
    "restore_server",
    "revoke_approval",
    "secrets_of",
    "server_route",
    "start_discovery",
    "test_connection",
    "unused_allowances",
    "update_capability",
    "update_server",
    "uptime_of",
    "without_secrets",
]
