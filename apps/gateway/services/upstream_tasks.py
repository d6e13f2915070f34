"""Tasks: calls that a server answers later, by the extension `io.modelcontextprotocol/tasks` of 2026-07-28.

The server gives a task instead of a result; the client asks for it until it has ended, answers what it asks meanwhile,
or cancels it. A task stays where it is, at its server: nothing is kept here. What the client knows of it is a sealed
id, which holds for one user and one tool, for as long as that user may call the tool.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import NotFound
from apps.gateway.services.asking import Ask
from apps.gateway.services.catalogue import view_for
from apps.gateway.services.checking import checks_of
from apps.gateway.services.errands import Errand, caller_of, check_decision
from apps.gateway.services.hearing import note_refusal
from apps.gateway.services.metering import Meter
from apps.gateway.services.parking import parking_lot
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import masked, passed_meta, passed_on, size_of, wrong
from apps.gateway.services.rounds import Misbehaved, questions_of
from apps.gateway.services.sealing import seal, unseal
from apps.registry import services as registry

TASK = "task"
ENDED = frozenset({"completed", "failed", "cancelled"})
LONGEST_OWN_ID = 1024
"""In bytes, as JSON has it: what is longer would make an id that is longer than what is opened again."""
LONGEST_ID = 4096
SHORTEST_PAUSE_SECONDS, USUAL_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 2.0, 60.0
"""How long we wait before we ask for a task again, where we do so by ourselves."""
_STATUSES = ENDED | {"working", "input_required"}
_PURPOSE = "task"


class UnknownTask(NotFound):
    """There is no task of this id for this caller; one of somebody else looks the same."""

    default = "There is no such task, or it is not yours. Call the tool again."


@dataclass(frozen=True, slots=True)
class Handle:
    """What the id that a client knows stands for."""

    id: str
    item_id: UUID
    own_id: str
    process: str
    progress: str | int | None = None
    """The token under which whoever made the call hears of progress until the task has ended: 2025-11-25."""


# Ids -----------------------------------------------------------------------------------------------------------------


def process_of_task(task_id: str) -> str:
    """The process whose child works on a task; "" where any process can reach it."""
    told = _told_by(task_id)
    return str(told["at"]) if told else ""


def seal_task(
    actor: Actor, item: registry.CatalogueItem, own_id: str, route: registry.ServerRoute, **more: str | int
) -> str:
    """The id under which a client knows a task: it names the process where a child or a session belongs to one."""
    process = parking_lot().process if route.transport == "stdio" or not route.is_modern else ""
    return seal(_PURPOSE, {"of": _owner(actor), "item": item.id.hex, "task": own_id, "at": process, **more})


def _told_by(task_id: str) -> dict[str, Any] | None:
    return unseal(_PURPOSE, task_id) if len(task_id) <= LONGEST_ID else None


def _open(actor: Actor, task_id: str) -> Handle:
    told = _told_by(task_id)
    if told is None or told["of"] != _owner(actor):
        raise UnknownTask
    return Handle(task_id, UUID(told["item"]), told["task"], told["at"], told.get("progress"))


def _owner(actor: Actor) -> str:
    """Whose a task is: the user's in this organisation, so that a key's successor finds what the key began."""
    whose = f"{actor.user_id or actor.key_id or actor.label}@{actor.organization_id}"
    return hashlib.sha256(whose.encode()).hexdigest()[:32]


# What servers say ----------------------------------------------------------------------------------------------------


def task_made(
    actor: Actor, item: registry.CatalogueItem, result: Mapping[str, Any], route: registry.ServerRoute
) -> tuple[dict[str, Any], int]:
    """The task that a server gives for a call, under the id that its client will know, and its size in bytes.

    Raises BackendError naming the server when it is no task.
    """
    task_id = seal_task(actor, item, own_id_of(result, route), route)
    return masked({"resultType": TASK, **state_of(result, task_id, route)}, route)


def own_id_of(result: Mapping[str, Any], route: registry.ServerRoute) -> str:
    """The id that a server has given to its new task; raises BackendError naming the server."""
    own_id = result.get("taskId")
    if not isinstance(own_id, str) or not own_id or size_of(own_id) - len('""') > LONGEST_OWN_ID:
        raise wrong(route, "its task has no id, or one that is too long")
    return own_id


def state_of(
    result: Mapping[str, Any], task_id: str, route: registry.ServerRoute, *, ttl: str = "ttlMs",
    pause: str = "pollIntervalMs",
) -> dict[str, Any]:  # fmt: skip
    """What every answer about a task says of it; the revisions have different names for its durations."""
    status = result.get("status")
    if not isinstance(status, str) or status not in _STATUSES:
        raise wrong(route, f"its task is in no state that is known: {str(status)[:40]!r}")
    state: dict[str, Any] = {"taskId": task_id, "status": status}
    for name in ("createdAt", "lastUpdatedAt"):
        if not isinstance(result.get(name), str):
            raise wrong(route, f"its task does not say {name}")
        state[name] = result[name]
    state[ttl] = result.get(ttl)
    if not (state[ttl] is None or _is_duration(state[ttl])):
        raise wrong(route, f"the {ttl} of its task is no number of milliseconds")
    if pause in result:
        if not _is_duration(result[pause]):
            raise wrong(route, f"the {pause} of its task is no number of milliseconds")
        state[pause] = result[pause]
    if isinstance(result.get("statusMessage"), str):
        state["statusMessage"] = result["statusMessage"]
    meta = passed_meta(result.get("_meta"))
    return {**state, "_meta": meta} if meta else state


def _is_duration(value: Any) -> bool:
    return type(value) is int and value >= 0


async def detailed(
    result: Mapping[str, Any], handle: Handle, errand: Errand, ask: Ask, route: registry.ServerRoute
) -> dict[str, Any]:
    """A task with what belongs to its status: the tool's result, the error, or what the client is asked."""
    if result.get("taskId") != handle.own_id:
        raise wrong(route, "it tells of another task than it was asked for")
    told = state_of(result, handle.id, route)
    if told["status"] == "completed":
        told["result"] = await _result_of(result.get("result"), errand, route)
    elif told["status"] == "failed":
        told["error"] = _error_of(result.get("error"), route)
    elif told["status"] == "input_required":
        try:
            told["inputRequests"] = questions_of(result, ask.client)
        except Misbehaved as error:
            if error.refused and isinstance(error.__cause__, registry.Refused):
                await note_refusal(route, error.refused, error.__cause__)
            raise wrong(route, str(error)) from error
    return told


async def _result_of(result: Any, errand: Errand, route: registry.ServerRoute) -> dict[str, Any]:
    """The result of the call, held to everything that one without a task is held to."""
    if not isinstance(result, dict) or result.get("resultType", "complete") != "complete":
        raise wrong(route, "its task has ended without a result")
    await (await checks_of(errand.item)).check_result(result, route)
    passed, _ = passed_on(result, route)
    return passed


def _error_of(error: Any, route: registry.ServerRoute) -> dict[str, Any]:
    if not isinstance(error, dict) or type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise wrong(route, "its task has failed without an error")
    return {name: error[name] for name in ("code", "message", "data") if name in error}


def pause_of(state: Mapping[str, Any], name: str = "pollIntervalMs") -> float:
    """For how many seconds a server wants to be left in peace, within reason."""
    milliseconds = state.get(name)
    seconds = milliseconds / 1000 if milliseconds else USUAL_PAUSE_SECONDS
    return min(max(seconds, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


# What clients ask ----------------------------------------------------------------------------------------------------


async def get_task(actor: Actor, *, task_id: str, ask: Ask) -> dict[str, Any]:
    """How a task of the actor's stands, with the result of its call when it has completed.

    Raises UnknownTask, NotPermitted, BackendError and what the server says, which may have forgotten the task.
    """
    meter = Meter(actor, ask.endpoint, "tasks/get", "", bytes_in=len(task_id))
    with meter:
        return await look(actor, task_id, ask, meter)


async def look(actor: Actor, task_id: str, ask: Ask, meter: Meter | None = None) -> dict[str, Any]:
    """The same for ourselves, who leave no usage event."""
    handle, errand = await reach(actor, task_id, ask, "tasks/get", meter)
    with budget.counting(ask.share, actor.organization_id):
        result, route = await _send(actor, errand, ask)
        told, size = masked(await detailed(result, handle, errand, ask, route), route)
    if meter is not None:
        meter.bytes_out = size
        meter.ended(told.get("result", {}))
    return told


async def update_task(actor: Actor, *, task_id: str, answers: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """Answer what a task of the actor's asks; raises as `get_task` does."""
    return await _tell(actor, task_id, ask, "tasks/update", {"inputResponses": dict(answers)})


async def cancel_task(actor: Actor, *, task_id: str, ask: Ask) -> dict[str, Any]:
    """Tell the server that nobody waits for a task any more; whether it stops is its own affair."""
    return await _tell(actor, task_id, ask, "tasks/cancel", {})


async def _tell(actor: Actor, task_id: str, ask: Ask, method: str, more: Mapping[str, Any]) -> dict[str, Any]:
    meter = Meter(actor, ask.endpoint, method, "", bytes_in=len(task_id) + size_of(more))
    with meter:
        _, errand = await reach(actor, task_id, ask, method, meter)
        errand.params.update(more)
        with budget.counting(ask.share, actor.organization_id):
            result, route = await _send(actor, errand, ask)
            meta = passed_meta(result.get("_meta"))
            told, meter.bytes_out = masked({"_meta": meta} if meta else {}, route)
        return told


async def reach(actor: Actor, task_id: str, ask: Ask, method: str, meter: Meter | None = None) -> tuple[Handle, Errand]:
    """What an id stands for, and the request about it; the tool must still be one that the actor may call.

    Raises UnknownTask, also for a task that is of the other of the two protocols of tasks than the client speaks.
    """
    handle = _open(actor, task_id)
    view = await view_for(actor, bundle=ask.bundle)
    tool = view.find_tool_of(handle.item_id)
    if tool is None:
        raise UnknownTask
    if meter is not None:
        meter.name, meter.server = tool.name, tool.server
    check_decision(actor, tool)
    errand = Errand.to(tool, view, method, {"taskId": handle.own_id})
    if (await upstreams().route(errand.item.server_id, errand.revision)).is_modern is not ask.client.is_modern:
        raise UnknownTask
    return handle, errand


async def _send(actor: Actor, errand: Errand, ask: Ask) -> tuple[dict[str, Any], registry.ServerRoute]:
    params = {**errand.params, "_meta": dict(ask.meta)} if ask.meta else errand.params
    caller = caller_of(actor, ask.client)
    return await upstreams().request(errand.item.server_id, errand.revision, caller, errand.method, params)
