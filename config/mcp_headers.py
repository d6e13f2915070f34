"""Headers of 2026-07-28: they repeat what proxies route by, and must say what the body says."""

from collections.abc import Sequence
from typing import Any

from mcp.shared.inbound import (
    InboundLadderRejection,
    classify_inbound_request,
    decode_header_value,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
)

from apps.core.actor import Actor
from apps.core.errors import ServiceError
from apps.gateway import services as gateway
from config.mcp_messages import HEADER_MISMATCH, INVALID_PARAMS, Message, RpcError

Headers = Sequence[tuple[bytes, bytes]]

_NAMED_BY_TASK = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
"""Methods whose header the SDK does not check, for it knows no extensions; FastMCP's client leaves it out."""


def check_headers(message: Message, headers: Headers) -> None:
    """Raise RpcError for what is wrong with a request by itself, or with what its headers say of it."""
    pairs = _texts(headers)
    twice = find_duplicated_routing_header(pairs)
    if twice is not None:
        raise RpcError(HEADER_MISMATCH, f"{twice} header appears more than once")
    named = dict(pairs)
    verdict = classify_inbound_request(message.body, headers=named)
    _raise(verdict)
    if not isinstance(getattr(verdict, "client_capabilities", None), dict):
        raise RpcError(INVALID_PARAMS, "The client's capabilities are an object.")
    name = named.get("mcp-name") if message.method in _NAMED_BY_TASK else None
    if name is not None and decode_header_value(name) != message.params.get("taskId"):
        raise RpcError(HEADER_MISMATCH, "The Mcp-Name header is not the taskId of the request.")


async def check_param_headers(actor: Actor, message: Message, bundle: str, headers: Headers) -> None:
    """Raise RpcError for what is wrong with the headers that repeat a call's arguments."""
    name, arguments = message.params.get("name"), message.params.get("arguments") or {}
    if message.method != "tools/call" or not isinstance(name, str) or not isinstance(arguments, dict):
        return
    try:
        tool = (await gateway.view_for(actor, bundle=bundle)).tools.get(name)
    except ServiceError:
        return
    if tool is not None and b"x-mcp-header" in tool.encoded:
        names = [name for name, _ in headers if name.startswith(b"mcp-param-")]
        if len(names) != len(set(names)):
            raise RpcError(HEADER_MISMATCH, "An Mcp-Param header appears more than once")
        schema = tool.definition.get("inputSchema")
        _raise(validate_mcp_param_headers(schema, arguments, dict(_texts(headers))))


def _texts(headers: Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _raise(verdict: Any) -> None:
    if isinstance(verdict, InboundLadderRejection):
        raise RpcError(verdict.code, verdict.message, verdict.data)
