"""Tasks as revision 2025-11-25 has them: its clients ask for one with a call, and wait for its result with another.

They belong to the session in which the call was made, here as between any two. What the client knows of a task is a
sealed id, as for those of 2026-07-28 (`upstream_tasks`), and nothing is kept here of these either.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import BackendTimeout, InvalidInput
from apps.gateway.services.asking import Ask, Client
from apps.gateway.services.checking import checks_of
from apps.gateway.services.errands import Errand, ask_server, caller_of
from apps.gateway.services.hearing import CallListener
from apps.gateway.services.metering import Meter
from apps.gateway.services.offers import Tool
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import masked, passed_meta, passed_on, wrong
from apps.gateway.services.upstream_tasks import ENDED, Handle, own_id_of, reach, seal_task, state_of
from apps.registry import services as registry

LONGEST_SECONDS = 600.0
"""How long a result is waited for at a time."""
PATIENCE_SECONDS = LONGEST_SECONDS + 60
"""How long a server has for it, which is never up first."""
LONGEST_TOKEN = 64
PAUSE, TTL = "pollInterval", "ttl"
MEANWHILE = "io.modelcontextprotocol/model-immediate-response"
"""What a model may be told while the task goes on; it comes in the `_meta` of the task."""


class TaskForbidden(InvalidInput):
    """A call that is asked for as a task is of a tool that carries out none."""

    @classmethod
    def of(cls, tool: Tool) -> "TaskForbidden":
        """The error for this tool."""
        return cls(f"{tool.name} cannot be called as a task. Call it without.")


class TaskListener(CallListener):
    """The listener of a call that is a task: what is said about the task names it as its client knows it, or not."""

    def __init__(self, client: Client, route: registry.ServerRoute, own_id: str = "", shown_id: str = "") -> None:
        super().__init__(client, route)
        self.own_id = own_id
        self._shown_id = shown_id

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Hear of it."""
        super().notified(method, self._renamed(params))

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question; where it is about the task, so is the answer."""
        answer = await super().asked(method, self._renamed(params))
        meta = answer.get("_meta")
        others = {name: about for name, about in meta.items() if name != registry.RELATED_TASK} if meta else {}
        if self.own_id and _task_named_by(params) == self.own_id:
            others[registry.RELATED_TASK] = {"taskId": self.own_id}
        return {**answer, "_meta": others} if meta or others else answer

    def _renamed(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        meta = params.get("_meta")
        if not isinstance(meta, Mapping) or registry.RELATED_TASK not in meta:
            return params
        renamed = {name: about for name, about in meta.items() if name != registry.RELATED_TASK}
        if self._shown_id and _task_named_by(params) == self.own_id:
            renamed[registry.RELATED_TASK] = {"taskId": self._shown_id}
        others = {name: value for name, value in params.items() if name != "_meta"}
        return {**others, "_meta": renamed} if renamed else others


def _task_named_by(params: Mapping[str, Any]) -> Any:
    meta = params.get("_meta")
    related = meta.get(registry.RELATED_TASK) if isinstance(meta, Mapping) else None
    return related.get("taskId") if isinstance(related, Mapping) else None


def check_task(tool: Tool, ask: Ask) -> None:
    """Raise TaskForbidden for a call that is asked for as a task and cannot be one."""
    if ask.task is not None and not (tool.upstream is not None and tool.upstream.task_support):
        raise TaskForbidden.of(tool)


def early_state(told: Mapping[str, Any], task_id: str, route: registry.ServerRoute) -> dict[str, Any]:
    """What a server says of a task, under this id; raises BackendError naming the server."""
    return state_of(told, task_id, route, ttl=TTL, pause=PAUSE)


# What clients ask ----------------------------------------------------------------------------------------------------


async def begin_task(actor: Actor, errand: Errand, ask: Ask) -> tuple[dict[str, Any], int]:
    """The task that a call begins, under the id that its client will know, and its size; else the call's result.

    A server may refuse the call by a result.
    """
    assert ask.task is not None  # noqa: S101 - whoever calls this has looked
    errand.params["task"] = dict(ask.task)
    route = await upstreams().route(errand.item.server_id, errand.revision)
    result, route = await ask_server(actor, errand, ask, TaskListener(ask.client, route))
    task = result.get("task")
    if not isinstance(task, Mapping):
        await (await checks_of(errand.item)).check_result(result, route)
        return passed_on(result, route)
    task_id = seal_task(actor, errand.item, own_id_of(task, route), route, **_progress_of(ask))
    made: dict[str, Any] = {"task": early_state(task, task_id, route)}
    meta = result.get("_meta")
    meanwhile = meta.get(MEANWHILE) if isinstance(meta, Mapping) else None
    shown = {**passed_meta(meta), **({MEANWHILE: meanwhile} if isinstance(meanwhile, str) else {})}
    return masked({**made, "_meta": shown} if shown else made, route)


def _progress_of(ask: Ask) -> dict[str, str | int]:
    """The token of the call, which is good until its task has ended."""
    token = ask.meta.get("progressToken")
    if type(token) is int or (isinstance(token, str) and len(token) <= LONGEST_TOKEN):
        return {"progress": token}
    return {}


async def get_early_task(actor: Actor, *, task_id: str, ask: Ask) -> dict[str, Any]:
    """How a task of the actor's stands. Raises UnknownTask, NotPermitted, BackendError and what the server says."""
    return await _tell(actor, task_id, ask, "tasks/get")


async def cancel_early_task(actor: Actor, *, task_id: str, ask: Ask) -> dict[str, Any]:
    """End a task of the actor's, and say how it stands then; raises as `get_early_task` does."""
    return await _tell(actor, task_id, ask, "tasks/cancel")


async def get_early_result(actor: Actor, *, task_id: str, ask: Ask) -> dict[str, Any]:
    """The result of the call that began a task, as soon as there is one; what it asks meanwhile reaches the client.

    Raises BackendTimeout after ten minutes, when the task goes on, and else as `get_early_task` does.
    """
    meter = Meter(actor, ask.endpoint, "tasks/result", "", bytes_in=len(task_id))
    with meter:
        handle, errand = await reach(actor, task_id, ask, "tasks/result", meter)
        with budget.counting(ask.share, actor.organization_id):
            state, route = await _state(actor, handle, errand, ask)
            result = await _wait(actor, handle, errand, ask, route, has_ended=state["status"] in ENDED)
            await (await checks_of(errand.item)).check_result(result, route)
            passed, meter.bytes_out = passed_on(result, route)
        meter.ended(passed)
        return {**passed, "_meta": {**passed.get("_meta", {}), registry.RELATED_TASK: {"taskId": handle.id}}}


async def _tell(actor: Actor, task_id: str, ask: Ask, method: str) -> dict[str, Any]:
    meter = Meter(actor, ask.endpoint, method, "", bytes_in=len(task_id))
    with meter:
        handle, errand = await reach(actor, task_id, ask, method, meter)
        with budget.counting(ask.share, actor.organization_id):
            state, route = await _state(actor, handle, errand, ask, method)
            told, meter.bytes_out = masked(state, route)
        return told


async def _state(
    actor: Actor, handle: Handle, errand: Errand, ask: Ask, method: str = "tasks/get"
) -> tuple[dict[str, Any], registry.ServerRoute]:
    said, route = await _send(actor, handle, errand, ask, method)
    if said.get("taskId") != handle.own_id:
        raise wrong(route, "it tells of another task than it was asked for")
    return early_state(said, handle.id, route), route


async def _wait(
    actor: Actor, handle: Handle, errand: Errand, ask: Ask, route: registry.ServerRoute, *, has_ended: bool
) -> dict[str, Any]:
    """What the server says to `tasks/result`, which it answers when the task has ended."""
    listener = TaskListener(ask.client, route, handle.own_id, handle.id)
    patience = 0.0 if has_ended else PATIENCE_SECONDS
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            result, _ = await _send(
                actor, handle, errand, ask, "tasks/result", listener=listener, patience_seconds=patience
            )
            return result
    except TimeoutError as error:
        raise BackendTimeout(
            f"The task has not ended within {LONGEST_SECONDS:g} seconds, and goes on. Ask for its result again.",
            details={"server": route.slug},
        ) from error


async def _send(
    actor: Actor, handle: Handle, errand: Errand, ask: Ask, method: str, *,
    listener: TaskListener | None = None, patience_seconds: float = 0.0,
) -> tuple[dict[str, Any], registry.ServerRoute]:  # fmt: skip
    """Ask the server about a task; its own id is in no refusal either."""
    meta = {**ask.meta, **({"progressToken": handle.progress} if handle.progress is not None else {})}
    params = {**errand.params, "_meta": meta} if meta else errand.params
    caller = caller_of(actor, ask.client)
    try:
        return await upstreams().request(
            errand.item.server_id, errand.revision, caller, method, params,
            listener=listener, patience_seconds=patience_seconds,
        )  # fmt: skip
    except registry.UpstreamError as error:
        own, shown = (orjson.dumps(each)[1:-1] for each in (handle.own_id, handle.id))
        said = orjson.dumps([getattr(error, "said", error.message), error.data]).replace(own, shown)
        raise registry.UpstreamError(error.rpc_code, *orjson.loads(said)) from error
