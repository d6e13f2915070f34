"""Carries one call from an agent to a native tool or a server: found, decided, limited, sent, checked, counted."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from apps.core import budget, limits
from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotPermitted, ServiceError
from apps.core.threads import in_thread
from apps.core.toolbox import MAX_RESULT_BYTES, NativeTool
from apps.gateway.services.catalogue import Snapshot, snapshot_for
from apps.gateway.services.offers import Tool, UnknownTool
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import ResultCache, canonical, passed_on, size_of
from apps.gateway.services.ways import Caller
from apps.policies.services import decide
from apps.registry import services as registry
from apps.usage import services as usage

_LONGEST_NAME = 200
_kept_results = ResultCache()


async def call_tool(
    actor: Actor,
    *,
    name: str,
    arguments: Mapping[str, Any] | None = None,
    session_id: str | None = None,
    endpoint: str = "/mcp",
    share: budget.Share | None = None,
) -> dict[str, Any]:
    """Call a tool for the actor and give its result as MCP has it: content, structuredContent, isError, _meta.

    `session_id` is the caller's own session, which decides about the session with the server. `share` counts the bytes
    of the result for as long as the door holds them; without one they count until this returns. Every call leaves one
    usage event. Raises UnknownTool, NotPermitted, RateLimited, BackendError and what a native tool raises.
    """
    meter = _Meter(actor, endpoint, name, bytes_in=size_of(arguments or {}))
    try:
        snapshot = await snapshot_for(actor)
        tool = _find(snapshot, name)
        meter.server = tool.server
        _check_decision(actor, tool)
        with budget.counting(share, actor.organization_id):
            result, meter.bytes_out = await _carry_out(actor, tool, snapshot, dict(arguments or {}), session_id)
        meter.ended(result)
        return result
    except BaseException as error:
        meter.failed(error)
        raise
    finally:
        meter.record()


def _find(snapshot: Snapshot, name: str) -> Tool:
    tool = snapshot.tools.get(name)
    if tool is None:
        raise UnknownTool(
            f"Unknown tool: {name[:_LONGEST_NAME]}. List the tools again: it may have been renamed or withdrawn."
        )
    return tool


def _check_decision(actor: Actor, tool: Tool) -> None:
    decision = decide(actor, "tool.call", tool.resource)
    if not decision.allowed:
        raise NotPermitted(
            f"{tool.name} was not called: {decision.reason} Ask an admin of the organisation for it.",
            details={"tool": tool.name, "rule": decision.rule},
        )


async def _carry_out(
    actor: Actor, tool: Tool, snapshot: Snapshot, arguments: dict[str, Any], session_id: str | None
) -> tuple[dict[str, Any], int]:
    if tool.native is not None:
        return await in_thread(_run_native, tool.native, actor, arguments)
    offered = tool.upstream
    if offered is None:
        raise UnknownTool
    if offered.rate_limit_per_minute is not None:
        await in_thread(
            limits.take,
            f"tool:{actor.organization_id}:{tool.name}",
            limit=offered.rate_limit_per_minute,
            what=tool.name,
        )
    caller = Caller(session_id, str(actor.key_id or actor.id or actor.label))
    if not (offered.cache_seconds and offered.reads_only):
        return await _ask_server(offered, snapshot.revision, caller, arguments)
    # The credentials belong to the server and the revision changes with them: nobody sees what another one's opened.
    key = (actor.organization_id, offered.server_id, snapshot.revision, offered.name, canonical(arguments))
    kept = _kept_results.get(key)
    if kept is None:
        kept = await _ask_server(offered, snapshot.revision, caller, arguments)
        _kept_results.keep(key, *kept, seconds=offered.cache_seconds)
    return kept


async def _ask_server(
    offered: registry.CatalogueTool, revision: int, caller: Caller, arguments: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    params = {"name": offered.name, "arguments": arguments}
    result, route = await upstreams().request(offered.server_id, revision, caller, "tools/call", params)
    return passed_on(result, route)


def _run_native(tool: NativeTool, actor: Actor, arguments: dict[str, Any]) -> tuple[dict[str, Any], int]:
    answer = tool.run(actor, arguments)
    text = orjson.dumps(answer)
    if len(text) > MAX_RESULT_BYTES:
        raise InvalidInput(
            f"The answer of {tool.name} has {len(text)} bytes, more than the {MAX_RESULT_BYTES} that may pass."
            " Ask for less: a smaller page, or a narrower search."
        )
    return {"content": [{"type": "text", "text": text.decode()}], "structuredContent": answer}, len(text)


@dataclass(slots=True)
class _Meter:
    """One call's usage event while it grows."""

    actor: Actor
    endpoint: str
    name: str
    bytes_in: int
    bytes_out: int = 0
    server: str = ""
    status: str = "ok"
    error_code: str = ""
    started: float = field(default_factory=time.perf_counter)

    def ended(self, result: Mapping[str, Any]) -> None:
        """The tool answered, perhaps with an error of its own."""
        if result.get("isError"):
            self.status, self.error_code = "error", "TOOL_ERROR"

    def failed(self, error: BaseException) -> None:
        """The call was refused, failed or given up."""
        self.status = "denied" if isinstance(error, NotPermitted) else "error"
        if isinstance(error, ServiceError):
            self.error_code = error.code
        else:
            self.error_code = "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL"

    def record(self) -> None:
        """Leave the event; the writer stores it off this path."""
        usage.record_call(
            self.actor,
            endpoint=self.endpoint,
            method="tools/call",
            name=self.name[:_LONGEST_NAME],
            server=self.server,
            status=self.status,
            error_code=self.error_code,
            latency_ms=(time.perf_counter() - self.started) * 1000,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )
