"""What the road does: show each caller their tools, and carry their calls."""

from apps.gateway.services.calls import call_tool, complete, get_prompt, read_resource
from apps.gateway.services.catalogue import (
    INSTRUCTIONS,
    ToolList,
    forget_snapshots,
    input_schema,
    known_view,
    list_tools,
    read_view,
    tools_for,
    view_for,
)
from apps.gateway.services.clients import Ask, Client, Silent
from apps.gateway.services.offers import Offer, Tool, UnknownPrompt, UnknownResource, UnknownTool
from apps.gateway.services.pool import OpenLinks, breaker_state, close_upstreams, count_open, upstreams
from apps.gateway.services.rounds import owner_of_state, parking_lot
from apps.gateway.services.search import fetch_tool, search_tools
from apps.gateway.services.subscriptions import Subscriptions
from apps.gateway.services.views import Found, View

__all__ = [
    "INSTRUCTIONS",
    "Ask",
    "Client",
    "Found",
    "Offer",
    "OpenLinks",
    "Silent",
    "Subscriptions",
    "Tool",
    "ToolList",
    "UnknownPrompt",
    "UnknownResource",
    "UnknownTool",
    "View",
    "breaker_state",
    "call_tool",
    "close_upstreams",
    "complete",
    "count_open",
    "fetch_tool",
    "forget_snapshots",
    "get_prompt",
    "input_schema",
    "known_view",
    "list_tools",
    "owner_of_state",
    "parking_lot",
    "read_resource",
    "read_view",
    "search_tools",
    "tools_for",
    "upstreams",
    "view_for",
]
