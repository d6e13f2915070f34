"""Carries one request from an agent to a native tool or a server: found, decided, limited, sent, checked, counted."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import InvalidInput
from apps.core.threads import in_thread
from apps.core.toolbox import MAX_RESULT_BYTES, NativeTool
from apps.gateway.services.asking import Ask
from apps.gateway.services.catalogue import EVERYTHING, called_at, snapshot_for
from apps.gateway.services.checking import Checks, checks_of
from apps.gateway.services.driving import drive, wants_task
from apps.gateway.services.early_driving import drive_early, refuses_without_task
from apps.gateway.services.early_tasks import begin_task, check_task
from apps.gateway.services.errands import Errand, ask_server, check_decision, take_turn
from apps.gateway.services.metering import Meter
from apps.gateway.services.offers import Offer, Tool, UnknownResource, UnknownTool
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import (
    ResultCache,
    canonical,
    passed_on,
    passed_whole,
    size_of,
    under_listed_uris,
)
from apps.gateway.services.upstream_tasks import TASK, task_made
from apps.gateway.services.views import View
from apps.registry import services as registry

_kept_results = ResultCache()
NOBODY = Ask()
_UNKNOWN_METHOD, _INVALID_PARAMS, _RESOURCE_NOT_FOUND = -32601, -32602, -32002
_DECLARES_COMPLETIONS = "2025-03-26"
_NO_COMPLETION = {"completion": {"values": [], "total": 0, "hasMore": False}}
_NEEDED = {"prompts/get": "messages", "resources/read": "contents", "completion/complete": "completion"}


async def call_tool(
    actor: Actor, *, name: str, arguments: Mapping[str, Any] | None = None, ask: Ask = NOBODY
) -> dict[str, Any]:
    """Call a tool for the actor and give its result as MCP has it: content, structuredContent, isError, _meta.

    `ask` says by which client and in which round; with a client of 2026-07-28 the result may ask for input. Every call
    leaves one usage event. Raises UnknownTool, NotPermitted, RateLimited, BackendError and what a native tool raises.
    """
    meter = Meter(actor, ask.endpoint, "tools/call", name, bytes_in=size_of(arguments or {}))
    with meter:
        view = await _view(actor, ask)
        tool = view.tools.get(name) or await _denied_tool(actor, name, ask)
        meter.server = tool.server
        check_decision(actor, tool)
        check_task(tool, ask)
        with budget.counting(ask.share, actor.organization_id):
            result, meter.bytes_out = await _carry_tool(actor, tool, view, dict(arguments or {}), ask)
        meter.ended(result)
        return _as_listed(result, view, tool)


async def check_may_call(actor: Actor, *, name: str, bundle: str = EVERYTHING) -> None:
    """Raise UnknownTool or NotPermitted where a call of this tool would be refused now; NotFound without the bundle."""
    ask = Ask(bundle=bundle)
    view = await _view(actor, ask)
    check_decision(actor, view.tools.get(name) or await _denied_tool(actor, name, ask))


async def get_prompt(
    actor: Actor, *, name: str, arguments: Mapping[str, Any] | None = None, ask: Ask = NOBODY
) -> dict[str, Any]:
    """A prompt of a server, filled in; raises UnknownPrompt, NotPermitted, BackendError."""
    meter = Meter(actor, ask.endpoint, "prompts/get", name, bytes_in=size_of(arguments or {}))
    with meter:
        view = await _view(actor, ask)
        prompt = view.find_prompt(name)
        params = {"name": prompt.upstream.name, **({"arguments": dict(arguments)} if arguments is not None else {})}
        return _as_listed(await _carry(actor, Errand.to(prompt, view, "prompts/get", params), ask, meter), view, prompt)


async def read_resource(actor: Actor, *, uri: str, ask: Ask = NOBODY) -> dict[str, Any]:
    """What a server's resource holds; raises UnknownResource, NotPermitted, BackendError."""
    meter = Meter(actor, ask.endpoint, "resources/read", uri, bytes_in=len(uri))
    with meter:
        view = await _view(actor, ask)
        found = view.find_resource(uri)
        errand = Errand.to(found.offer, view, "resources/read", {"uri": found.uri})
        try:
            result = await _carry(actor, errand, ask, meter)
        except registry.UpstreamError as error:
            if not _says_it_is_not_there(error, found.uri):
                raise
            raise UnknownResource.at(uri) from error
        return _under_its_uri(result, found.uri, uri) if uri != found.uri else result


async def complete(
    actor: Actor,
    *,
    reference: Mapping[str, Any],
    argument: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
    ask: Ask = NOBODY,
) -> dict[str, Any]:
    """What an argument of a prompt or of a template may be; nothing where its server does not complete.

    A server of 2024-11-05 had no way to declare that it completes: it is asked, and may not know the method.
    """
    kind, named = reference.get("type"), reference.get("name" if reference.get("type") == "ref/prompt" else "uri")
    meter = Meter(actor, ask.endpoint, "completion/complete", str(named), bytes_in=size_of(argument))
    with meter:
        view = await _view(actor, ask)
        offer = view.find_prompt(str(named)) if kind == "ref/prompt" else _addressed(view, str(named))
        own = {"type": kind, ("name" if kind == "ref/prompt" else "uri"): offer.upstream.name}
        route = await upstreams().route(offer.upstream.server_id, view.revision)
        is_declared = "completions" in route.capabilities
        if route.capabilities and not is_declared and route.protocol_version >= _DECLARES_COMPLETIONS:
            return dict(_NO_COMPLETION)
        params = {"ref": own, "argument": dict(argument), **({"context": dict(context)} if context else {})}
        try:
            return await _carry(actor, Errand.to(offer, view, "completion/complete", params), ask, meter)
        except registry.UpstreamError as error:
            if is_declared or error.rpc_code != _UNKNOWN_METHOD:
                raise
            return dict(_NO_COMPLETION)


def _addressed(view: View, uri: str) -> Offer:
    listed = view.resources.get(uri)
    return listed if listed is not None else view.find_template(uri)


async def _view(actor: Actor, ask: Ask) -> View:
    return (await snapshot_for(actor)).for_actor(actor, bundle=ask.bundle)


async def _denied_tool(actor: Actor, name: str, ask: Ask) -> Tool:
    """A tool that is there and not in the caller's list: the decision tells them why. Raises UnknownTool."""
    tool = (await snapshot_for(actor)).tools.get(name) if ask.bundle == EVERYTHING else None
    if tool is None:
        raise UnknownTool.named(name)
    return tool


async def _carry_tool(
    actor: Actor, tool: Tool, view: View, arguments: dict[str, Any], ask: Ask
) -> tuple[dict[str, Any], int]:
    if tool.native is not None:
        with called_at(ask.bundle):
            return await in_thread(_run_native, tool.native, actor, arguments)
    item = tool.upstream
    if item is None:
        raise UnknownTool
    checks = await checks_of(item)
    await checks.check_arguments(tool.name, arguments)
    errand = Errand.to(tool, view, "tools/call", {"name": item.name, "arguments": arguments})
    await take_turn(actor, errand)
    if ask.task is not None:
        return await begin_task(actor, errand, ask)
    if not (item.cache_seconds and item.reads_only):
        return await _ask_tool(actor, errand, ask, checks)
    # The credentials belong to the server and the revision changes with them: nobody sees what another one's opened.
    key = (actor.organization_id, item.server_id, view.revision, item.name, canonical(arguments))
    errand.was_asked = ask.request_state is not None or ask.input_responses is not None
    kept = None if errand.was_asked else _kept_results.get(key)
    if kept is None:
        kept = await _ask_tool(actor, errand, ask, checks)
        if "resultType" not in kept[0] and not errand.was_asked:
            _kept_results.keep(key, *kept, seconds=item.cache_seconds)
    return kept


async def _ask_tool(actor: Actor, errand: Errand, ask: Ask, checks: Checks) -> tuple[dict[str, Any], int]:
    result, route = await _in_the_way_of_its_server(actor, errand, ask)
    if result.get("resultType") == TASK:
        return task_made(actor, errand.item, result, route)
    await checks.check_result(result, route)
    return passed_on(result, route)


async def _in_the_way_of_its_server(
    actor: Actor, errand: Errand, ask: Ask
) -> tuple[dict[str, Any], registry.ServerRoute]:
    """What a server says to a call; where it carries out such a call as a task alone, what comes of that."""
    if errand.item.needs_task:
        return await drive_early(actor, errand, ask)
    try:
        return await ask_server(actor, errand, ask)
    except registry.UpstreamError as error:
        if wants_task(error, ask):
            return await drive(actor, errand, ask)
        if await refuses_without_task(error, errand):
            return await drive_early(actor, errand, ask)
        raise


async def _carry(actor: Actor, errand: Errand, ask: Ask, meter: Meter) -> dict[str, Any]:
    """Carry what is no tool's call."""
    meter.server = errand.item.server_slug
    check_decision(actor, errand.thing)
    with budget.counting(ask.share, actor.organization_id):
        await take_turn(actor, errand)
        result, route = await ask_server(actor, errand, ask)
        passed, meter.bytes_out = passed_whole(result, route, needs=_NEEDED[errand.method])
    return passed


def _says_it_is_not_there(error: registry.UpstreamError, uri: str) -> bool:
    """Whether a server says that it has no such resource: until 2025-11-25 by a code, then by naming the URI."""
    named = error.data.get("uri") if isinstance(error.data, Mapping) else None
    return error.rpc_code == _RESOURCE_NOT_FOUND or (error.rpc_code == _INVALID_PARAMS and named == uri)


def _as_listed(result: dict[str, Any], view: View, thing: Tool | Offer) -> dict[str, Any]:
    """The result, in which what leads to a resource leads to that of the same server, and not to another's."""
    if thing.upstream is None or not view.shares_uris(thing.upstream.server_id):
        return result
    return under_listed_uris(result, partial(view.listed_uri, thing.upstream.server_id))


def _under_its_uri(result: dict[str, Any], own: str, listed: str) -> dict[str, Any]:
    """The contents under the URI that the caller knows."""
    contents = result.get("contents")
    if not isinstance(contents, list):
        return result
    renamed = [
        {**each, "uri": listed} if isinstance(each, dict) and each.get("uri") == own else each for each in contents
    ]
    return {**result, "contents": renamed}


def _run_native(tool: NativeTool, actor: Actor, arguments: dict[str, Any]) -> tuple[dict[str, Any], int]:
    answer = tool.run(actor, arguments)
    text = orjson.dumps(answer)
    if len(text) > MAX_RESULT_BYTES:
        raise InvalidInput(
            f"The answer of {tool.name} has {len(text)} bytes, more than the {MAX_RESULT_BYTES} that may pass."
            " Ask for less: a smaller page, or a narrower search."
        )
    return {"content": [{"type": "text", "text": text.decode()}], "structuredContent": answer}, len(text)
