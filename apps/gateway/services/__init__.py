"""What the road does: show each caller their tools, and carry their calls."""

from apps.gateway.services.asking import Ask, Client, Silent, takes_tasks
from apps.gateway.services.bundles import (
    add_item,
    add_items,
    connect_bundle,
    count_shown,
    create_bundle,
    delete_bundle,
    get_bundle,
    hold_bundles,
    list_bundles,
    remove_item,
    set_items,
    update_bundle,
    update_item,
)
from apps.gateway.services.calls import call_tool, check_may_call, complete, get_prompt, read_resource
from apps.gateway.services.catalogue import (
    INSTRUCTIONS,
    forget_snapshots,
    input_schema,
    known_view,
    native_tools,
    read_view,
    view_for,
)
from apps.gateway.services.clients import CLIENTS, PLACEHOLDER, Connection, Endpoint, connection_to
from apps.gateway.services.early_tasks import TaskForbidden, cancel_early_task, get_early_result, get_early_task
from apps.gateway.services.following import Following
from apps.gateway.services.offers import Offer, Tool, UnknownPrompt, UnknownResource, UnknownTool
from apps.gateway.services.parking import parking_lot
from apps.gateway.services.pool import breaker_state, close_upstreams, count_open, upstreams
from apps.gateway.services.rounds import owner_of_state
from apps.gateway.services.search import fetch_offer, search_offers
from apps.gateway.services.subscriptions import MOST_RESOURCES, Subscriptions
from apps.gateway.services.upstream_tasks import UnknownTask, cancel_task, get_task, process_of_task, update_task
from apps.gateway.services.views import Found, View
from apps.gateway.services.ways import OpenLinks

__all__ = [
    "CLIENTS",
    "INSTRUCTIONS",
    "MOST_RESOURCES",
    "PLACEHOLDER",
    "Ask",
    "Client",
    "Connection",
    "Endpoint",
    "Following",
    "Found",
    "Offer",
    "OpenLinks",
    "Silent",
    "Subscriptions",
    "TaskForbidden",
    "Tool",
    "UnknownPrompt",
    "UnknownResource",
    "UnknownTask",
    "UnknownTool",
    "View",
    "add_item",
    "add_items",
    "breaker_state",
    "call_tool",
    "cancel_early_task",
    "cancel_task",
    "check_may_call",
    "close_upstreams",
    "complete",
    "connect_bundle",
    "connection_to",
    "count_open",
    "count_shown",
    "create_bundle",
    "delete_bundle",
    "fetch_offer",
    "forget_snapshots",
    "get_bundle",
    "get_early_result",
    "get_early_task",
    "get_prompt",
    "get_task",
    "hold_bundles",
    "input_schema",
    "known_view",
    "list_bundles",
    "native_tools",
    "owner_of_state",
    "parking_lot",
    "process_of_task",
    "read_resource",
    "read_view",
    "remove_item",
    "search_offers",
    "set_items",
    "takes_tasks",
    "update_bundle",
    "update_item",
    "update_task",
    "upstreams",
    "view_for",
]
