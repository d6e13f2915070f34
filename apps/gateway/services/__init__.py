"""What the road does: show each caller their tools, and carry their calls."""

from apps.gateway.services.calls import call_tool
from apps.gateway.services.catalogue import (
    ToolList,
    UnknownTool,
    forget_snapshots,
    input_schema,
    list_tools,
    tools_for,
)
from apps.gateway.services.pool import OpenLinks, breaker_state, close_upstreams, count_open, upstreams
from apps.gateway.services.search import fetch_tool, search_tools

__all__ = [
    "OpenLinks",
    "ToolList",
    "UnknownTool",
    "breaker_state",
    "call_tool",
    "close_upstreams",
    "count_open",
    "fetch_tool",
    "forget_snapshots",
    "input_schema",
    "list_tools",
    "search_tools",
    "tools_for",
    "upstreams",
]
