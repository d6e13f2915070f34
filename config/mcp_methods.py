"""The methods of the protocol, for every revision: what an agent asks, and the service that answers.

Each takes an exchange and gives the answer as bytes. What a revision does not know is refused there as unknown.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from django.conf import settings
from django.db import InterfaceError, OperationalError

from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotFound, ServiceError
from apps.gateway import services as gateway
from apps.gateway.services.asking import LOG_LEVELS
from apps.gateway.services.results import size_of
from apps.registry import services as registry
from config.mcp_exchange import Exchange
from config.mcp_messages import (
    HAS_TASKS,
    INVALID_PARAMS,
    LEGACY,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    MODERN,
    RESOURCE_NOT_FOUND,
    SERVER_INFO,
    UNAVAILABLE,
    RpcError,
    as_rpc_error,
    error_result,
    malformed,
    result_message,
    result_with_list,
)
from config.outages import as_outage

logger = logging.getLogger(__name__)

LIST_SECONDS = 5
LARGEST_HELLO = 262_144
"""How long a client's capabilities and its name, with its icons, may be: a session keeps them."""
URL_ELICITATION_REQUIRED = -32042
_VERBATIM = frozenset({MISSING_CAPABILITY, URL_ELICITATION_REQUIRED})
"""Errors of a server about a tool's call that programs understand; a model reads the others as a result."""
_ONLY_MODERN = ("resultType", "ttlMs", "cacheScope")


Method = Callable[[Exchange], Awaitable[bytes]]


async def answer(exchange: Exchange) -> bytes:
    """The answer to a request; raises RpcError, and nothing else that has a name."""
    method = exchange.message.method
    found = _methods_of(exchange).get(method)
    if found is None:
        raise RpcError(METHOD_NOT_FOUND, f"There is no method {method[:100]} here.", {"method": method[:100]})
    try:
        return await found(exchange)
    except registry.UpstreamError as error:
        raise RpcError(error.rpc_code, getattr(error, "said", error.message), error.data) from error
    except gateway.UnknownResource as error:
        raise _no_resource(exchange, error) from error
    except gateway.TaskForbidden as error:
        raise RpcError(METHOD_NOT_FOUND, error.message, as_rpc_error(error).data) from error
    except ServiceError as error:
        raise as_rpc_error(error) from error
    except (OperationalError, InterfaceError) as error:
        raise as_rpc_error(as_outage(error) or ServiceError()) from error
    except RpcError:
        raise
    except Exception as error:
        logger.exception("A request failed.")
        raise as_rpc_error(ServiceError()) from error


def _methods_of(exchange: Exchange) -> Mapping[str, Method]:
    if exchange.is_modern:
        return MODERN_METHODS
    return EARLY_TASK_METHODS if exchange.has_early_tasks else LEGACY_METHODS


def _no_resource(exchange: Exchange, error: NotFound) -> RpcError:
    told = as_rpc_error(error)
    code = INVALID_PARAMS if exchange.is_modern else RESOURCE_NOT_FOUND
    return RpcError(code, told.message, {**told.data, "uri": exchange.message.params.get("uri")})


def _result(exchange: Exchange, result: Mapping[str, Any]) -> bytes:
    """A result in the words of the caller's revision."""
    number = exchange.message.id
    assert number is not None  # noqa: S101 - a request has one
    if exchange.is_modern:
        stamped = {**result, "_meta": {**result.get("_meta", {}), **_stamp()}}
        stamped.setdefault("resultType", "complete")
        return result_message(number, stamped)
    if any(name in result for name in _ONLY_MODERN):
        result = {name: value for name, value in result.items() if name not in _ONLY_MODERN}
    return result_message(number, result)


def _stamp() -> dict[str, Any]:
    return {SERVER_INFO: server_info()}


def server_info() -> dict[str, str]:
    """Who we are."""
    return {"name": "gatehouse", "title": "Gatehouse", "version": settings.VERSION}


def _capabilities() -> dict[str, Any]:
    return {
        "tools": {"listChanged": True}, "prompts": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True}, "completions": {}, "logging": {},
    }  # fmt: skip


_EARLY_TASKS: Mapping[str, Any] = {"tasks": {"cancel": {}, "requests": {"tools": {"call": {}}}}}
"""There is no list of tasks: nothing is kept of them by which they could be listed."""


def needs_tasks() -> RpcError:
    """The refusal of a client that has not declared the extension of tasks."""
    said = f"This needs a client that declares the extension {registry.TASKS}."
    return RpcError(MISSING_CAPABILITY, said, {"requiredCapabilities": {"extensions": {registry.TASKS: {}}}})


# Beginning ---------------------------------------------------------------------------------------------------------


async def hello(actor: Actor, params: Mapping[str, Any], bundle: str) -> tuple[str, dict[str, Any]]:
    """The revision that a session will speak, and the result of `initialize`."""
    asked = params.get("protocolVersion")
    if not isinstance(asked, str) or not isinstance(params.get("capabilities", {}), dict):
        raise malformed("initialize takes protocolVersion, a text, and capabilities, an object.")
    if size_of([params.get("capabilities"), params.get("clientInfo")]) > LARGEST_HELLO:
        raise malformed(f"What a client says of itself may have at most {LARGEST_HELLO} bytes.")
    version = asked if asked in LEGACY else LEGACY[-1]
    view = await gateway.view_for(actor, bundle=bundle)
    capabilities = {**_capabilities(), **(_EARLY_TASKS if version == HAS_TASKS and view.takes_tasks else {})}
    said: dict[str, Any] = {
        "protocolVersion": version, "capabilities": capabilities, "serverInfo": _info_of(view),
    }  # fmt: skip
    if view.instructions:
        said["instructions"] = view.instructions
    return version, said


def _info_of(view: gateway.View) -> dict[str, str]:
    return {**server_info(), **({"title": view.title} if view.title else {})}


async def _discover(exchange: Exchange) -> bytes:
    view = await gateway.view_for(exchange.actor, bundle=exchange.bundle)
    capabilities = {**_capabilities(), "extensions": {registry.TASKS: {}}}
    said: dict[str, Any] = {
        "supportedVersions": [MODERN], "capabilities": capabilities, **_fresh_for(LIST_SECONDS),
        **({"instructions": view.instructions} if view.instructions else {}),
    }  # fmt: skip
    return _result(exchange, said)


async def _ping(exchange: Exchange) -> bytes:
    return _result(exchange, {})


# Lists -------------------------------------------------------------------------------------------------------------

_KINDS: Mapping[str, tuple[str, Any]] = {
    "tools/list": ("tools", "tools"), "prompts/list": ("prompts", "prompts"),
    "resources/list": ("resources", "resources"), "resources/templates/list": ("resourceTemplates", "templates"),
}  # fmt: skip


async def _list(exchange: Exchange) -> bytes:
    """A list has one page, which is there as bytes: nothing is encoded again."""
    if exchange.message.params.get("cursor") is not None:
        raise malformed("This cursor is not one of ours: the list has one page.")
    view = await gateway.view_for(exchange.actor, bundle=exchange.bundle)
    name, kind = _KINDS[exchange.message.method]
    listed = view.encoded(kind, is_modern=exchange.is_modern)
    meta: dict[str, Any] = {UNAVAILABLE: view.unavailable} if view.unavailable else {}
    number = exchange.message.id
    assert number is not None  # noqa: S101
    if not exchange.is_modern:
        return result_with_list(number, name, listed, {"_meta": meta} if meta else {})
    rest = {"resultType": "complete", **_fresh_for(LIST_SECONDS), "_meta": {**meta, **_stamp()}}
    return result_with_list(number, name, listed, rest)


def _fresh_for(seconds: float) -> dict[str, Any]:
    """How long a client may keep a result: for itself alone, since no two callers need see the same."""
    return {"ttlMs": int(seconds * 1000), "cacheScope": "private"}


# Uses --------------------------------------------------------------------------------------------------------------


async def _call(exchange: Exchange) -> bytes:
    params = exchange.message.params
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str) or not name or not (arguments is None or isinstance(arguments, dict)):
        raise malformed("tools/call takes a name and an object of arguments.")
    ask = exchange.as_ask()
    try:
        result = await gateway.call_tool(exchange.actor, name=name, arguments=arguments, ask=ask)
    except RpcError:
        raise
    except ServiceError as error:
        if _is_for_programs(error, ask):
            raise
        result = error_result(error)
    except (OperationalError, InterfaceError) as error:
        result = error_result(as_outage(error) or ServiceError())
    except Exception:
        logger.exception("A tool call failed.")
        result = error_result(ServiceError())
    return _result(exchange, result if exchange.is_modern else _in_older_words(result))


def _is_for_programs(error: ServiceError, ask: gateway.Ask) -> bool:
    """Whether a failed call is answered with an error: a model reads the others as a result, if a result is awaited."""
    if isinstance(error, gateway.UnknownTool) or ask.task is not None:
        return True
    if isinstance(error, registry.UpstreamError):
        return error.rpc_code in _VERBATIM
    return isinstance(error, InvalidInput) and "requestState" in error.details.get("fields", {})


def _in_older_words(result: dict[str, Any]) -> dict[str, Any]:
    """A tool's result for the revisions in which structured content is an object: any other value is told as text."""
    if isinstance(result.get("structuredContent", {}), dict):
        return result
    told = {name: value for name, value in result.items() if name != "structuredContent"}  # the result may be kept
    if not told.get("content"):
        told["content"] = [{"type": "text", "text": orjson.dumps(result["structuredContent"]).decode()}]
    return told


async def _get_prompt(exchange: Exchange) -> bytes:
    name, arguments = exchange.text("name"), exchange.mapping("arguments")
    result = await gateway.get_prompt(exchange.actor, name=name, arguments=arguments, ask=exchange.as_ask())
    return _result(exchange, result)


async def _read(exchange: Exchange) -> bytes:
    result = await gateway.read_resource(exchange.actor, uri=exchange.text("uri"), ask=exchange.as_ask())
    if exchange.is_modern and result.get("resultType", "complete") == "complete":
        milliseconds = result.get("ttlMs")
        is_time = type(milliseconds) is int and milliseconds >= 0
        result = {**result, "ttlMs": milliseconds if is_time else 0, "cacheScope": "private"}
    return _result(exchange, result)


async def _complete(exchange: Exchange) -> bytes:
    reference, argument = exchange.mapping("ref", is_needed=True), exchange.mapping("argument", is_needed=True)
    assert reference is not None and argument is not None  # noqa: S101 - `mapping` has refused that
    named_by = {"ref/prompt": "name", "ref/resource": "uri"}.get(str(reference.get("type")), "")
    if not all(
        isinstance(each, str) for each in (reference.get(named_by), argument.get("name"), argument.get("value"))
    ):
        raise malformed("completion/complete takes ref, to a prompt or a resource, and argument, with name and value.")
    result = await gateway.complete(
        exchange.actor, reference=reference, argument=argument, context=exchange.mapping("context"),
        ask=exchange.as_ask(),
    )  # fmt: skip
    return _result(exchange, result)


# Tasks -------------------------------------------------------------------------------------------------------------


def _task_id(exchange: Exchange) -> str:
    if not gateway.takes_tasks(exchange):
        raise needs_tasks()
    return exchange.text("taskId")


async def _get_task(exchange: Exchange) -> bytes:
    return _result(exchange, await gateway.get_task(exchange.actor, task_id=_task_id(exchange), ask=exchange.as_ask()))


async def _update_task(exchange: Exchange) -> bytes:
    task_id, answers = _task_id(exchange), exchange.mapping("inputResponses", is_needed=True)
    assert answers is not None  # noqa: S101 - `mapping` has refused that
    return _result(
        exchange, await gateway.update_task(exchange.actor, task_id=task_id, answers=answers, ask=exchange.as_ask())
    )


async def _cancel_task(exchange: Exchange) -> bytes:
    return _result(
        exchange, await gateway.cancel_task(exchange.actor, task_id=_task_id(exchange), ask=exchange.as_ask())
    )


async def _early_task_id(exchange: Exchange) -> str:
    """The task of 2025-11-25 that a request is about; raises RpcError where no tool here is called as a task."""
    view = await gateway.view_for(exchange.actor, bundle=exchange.bundle)
    if not view.takes_tasks:
        raise RpcError(METHOD_NOT_FOUND, "No tool here is called as a task.", {"method": exchange.message.method})
    return exchange.text("taskId")


async def _get_early_task(exchange: Exchange) -> bytes:
    task_id = await _early_task_id(exchange)
    return _result(exchange, await gateway.get_early_task(exchange.actor, task_id=task_id, ask=exchange.as_ask()))


async def _get_early_result(exchange: Exchange) -> bytes:
    task_id = await _early_task_id(exchange)
    result = await gateway.get_early_result(exchange.actor, task_id=task_id, ask=exchange.as_ask())
    return _result(exchange, result)


async def _cancel_early_task(exchange: Exchange) -> bytes:
    task_id = await _early_task_id(exchange)
    return _result(exchange, await gateway.cancel_early_task(exchange.actor, task_id=task_id, ask=exchange.as_ask()))


# What sessions keep ------------------------------------------------------------------------------------------------


async def _set_level(exchange: Exchange) -> bytes:
    level = exchange.text("level")
    if level not in LOG_LEVELS or exchange.session is None:
        raise malformed(f"The level is one of {', '.join(LOG_LEVELS)}.")
    exchange.session.log_level = level
    return _result(exchange, {})


async def _subscribe(exchange: Exchange) -> bytes:
    assert exchange.session is not None  # noqa: S101 - a method of sessions
    await exchange.session.subscriptions.add(exchange.actor, exchange.text("uri"), exchange.as_ask())
    return _result(exchange, {})


async def _unsubscribe(exchange: Exchange) -> bytes:
    assert exchange.session is not None  # noqa: S101
    await exchange.session.subscriptions.remove(exchange.actor, exchange.text("uri"), exchange.as_ask())
    return _result(exchange, {})


_BOTH: Mapping[str, Method] = {
    **dict.fromkeys(_KINDS, _list),
    "tools/call": _call, "prompts/get": _get_prompt, "resources/read": _read, "completion/complete": _complete,
}  # fmt: skip
LEGACY_METHODS: Mapping[str, Method] = {
    **_BOTH, "ping": _ping, "logging/setLevel": _set_level, "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}  # fmt: skip
EARLY_TASK_METHODS: Mapping[str, Method] = {
    **LEGACY_METHODS, "tasks/get": _get_early_task, "tasks/result": _get_early_result,
    "tasks/cancel": _cancel_early_task,
}  # fmt: skip
MODERN_METHODS: Mapping[str, Method] = {
    **_BOTH, "server/discover": _discover,
    "tasks/get": _get_task, "tasks/update": _update_task, "tasks/cancel": _cancel_task,
}  # fmt: skip
