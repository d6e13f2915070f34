"""Tools that are called as tasks of 2025-11-25 alone, for agents that ask for none.

The gateway asks for the task, looks how it stands until it has ended or asks something, and gives its result as that
of the call: the agent waits for it, as it does for any other.
"""

import asyncio
import contextvars
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import BackendDown, BackendError, BackendTimeout, ServiceError
from apps.gateway.services.asking import Ask
from apps.gateway.services.catalogue import view_for
from apps.gateway.services.driving import PAUSES_SECONDS
from apps.gateway.services.early_tasks import PATIENCE_SECONDS, PAUSE, TTL, TaskListener, early_state
from apps.gateway.services.errands import Errand, caller_of, hold
from apps.gateway.services.offers import UnknownTool
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import wrong
from apps.gateway.services.upstream_tasks import ENDED, own_id_of, pause_of
from apps.gateway.services.ways import Caller
from apps.registry import services as registry

LONGEST_SECONDS = 600.0
"""How long a task is waited for; who waits hears a sign of life every ten seconds."""
KEPT_MILLISECONDS = 1_200_000
"""How long the server is asked to keep the task: longer than anybody waits for it."""
_METHOD_NOT_FOUND = -32601
_farewells: "set[asyncio.Task[None]]" = set()


async def refuses_without_task(error: registry.UpstreamError, errand: Errand) -> bool:
    """Whether a server refuses a call for not being a task, which its tool has not said when it was approved."""
    route = await upstreams().route(errand.item.server_id, errand.revision)
    return error.rpc_code == _METHOD_NOT_FOUND and route.runs_tasks


async def drive_early(actor: Actor, errand: Errand, ask: Ask) -> tuple[dict[str, Any], registry.ServerRoute]:
    """Make the call as a client of 2025-11-25 that asks for a task, and give the result in the end, with the route.

    Raises BackendTimeout after ten minutes, and what the server says of a task that has failed or was cancelled.
    """
    route = await upstreams().route(errand.item.server_id, errand.revision)
    listener = TaskListener(ask.client, route)
    driven = _Driven(actor, errand, ask, route, listener, caller_of(actor, ask.client))
    result = await hold(actor, errand, ask, listener, driven.work)
    return result, route


@dataclass(slots=True)
class _Driven:
    """One task while its result is waited for. It is of one session with the server, which stays open until its end."""

    actor: Actor
    errand: Errand
    ask: Ask
    route: registry.ServerRoute
    listener: TaskListener
    caller: Caller
    has_ended: bool = False
    share: "budget.Share | None" = field(init=False, default=None)

    async def work(self) -> dict[str, Any]:
        """The result of the call."""
        item = self.errand.item
        self.share = budget.current()
        self.caller = await upstreams().keep(item.server_id, self.errand.revision, self.caller, self.listener)
        try:
            made = await self._send("tools/call", {**self.errand.params, "task": {TTL: KEPT_MILLISECONDS}})
            task = made.get("task")
            if not isinstance(task, Mapping):
                return made
            self.listener.own_id = own_id_of(task, self.route)
            async with asyncio.timeout(LONGEST_SECONDS):
                return await self._result(early_state(task, "", self.route))
        except TimeoutError as error:
            raise BackendTimeout(
                f"The server {self.route.slug} did not end the task of this call within {LONGEST_SECONDS:g} seconds."
                " It was told to stop.", details={"server": self.route.slug},
            ) from error  # fmt: skip
        finally:
            self.errand.was_asked = self.errand.was_asked or self.listener.has_asked
            if self.listener.own_id and not self.has_ended:
                farewell = asyncio.get_running_loop().create_task(self._cancel(), context=contextvars.Context())
                _farewells.add(farewell)
                farewell.add_done_callback(_farewells.discard)
            else:
                upstreams().release(self.caller, self.listener)

    async def _result(self, state: dict[str, Any]) -> dict[str, Any]:
        """Look how the task stands, as often as the server suggests, until its result can be waited for."""
        before = self.share.size if self.share else 0
        while state["status"] == "working":
            await asyncio.sleep(pause_of(state, PAUSE))
            said = await self._ask("tasks/get")
            if said.get("taskId") != self.listener.own_id:
                raise wrong(self.route, "it tells of another task than it was asked for")
            state = early_state(said, "", self.route)
            if self.share is not None:
                self.share.back_to(before)  # what was said meanwhile is not kept
        self.has_ended = state["status"] in ENDED
        if state["status"] == "cancelled":
            raise BackendError(
                f"The server {self.route.slug} has cancelled the task of this call.",
                details={"server": self.route.slug},
            )
        try:
            result = await self._ask("tasks/result")
        except registry.UpstreamError:
            self.has_ended = True  # it is the answer to the call
            raise
        self.has_ended = True
        return result

    async def _ask(self, method: str) -> dict[str, Any]:
        """What the server says of the task, whose tool must still be offered; one that is away is asked again."""
        pauses = iter(PAUSES_SECONDS)
        while True:
            view = await view_for(self.actor, bundle=self.ask.bundle)
            if view.find_tool_of(self.errand.item.id) is None:
                raise UnknownTool.named(self.errand.thing.name)
            try:
                return await self._send(method, {"taskId": self.listener.own_id})
            except (BackendDown, BackendTimeout):
                pause = next(pauses, None)
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _cancel(self) -> None:
        """Tell the server that nobody waits any more, and let go of the session with it."""
        try:
            with suppress(ServiceError):
                await self._send("tasks/cancel", {"taskId": self.listener.own_id})
        finally:
            upstreams().release(self.caller, self.listener)

    async def _send(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Make a request; that for the result of a task that goes on only waits, and has the time for it."""
        listens = method in ("tools/call", "tasks/result")
        meta = {"_meta": dict(self.ask.meta)} if listens and self.ask.meta else {}
        waits = method == "tasks/result" and not self.has_ended
        item = self.errand.item
        result, _ = await upstreams().request(
            item.server_id, self.errand.revision, self.caller, method, {**params, **meta},
            listener=self.listener if listens else None, patience_seconds=PATIENCE_SECONDS if waits else 0.0,
        )  # fmt: skip
        return result
