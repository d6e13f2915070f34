"""Tools that answer with tasks alone, for agents of the revisions before there were any.

Such a tool refuses a client that takes no tasks. Where that client could not have said that it does, the gateway takes
the task itself and asks for it until it has ended: the agent waits for its result, as it does for any other.
"""

import asyncio
import contextvars
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import BackendDown, BackendError, BackendTimeout, ServiceError
from apps.gateway.services.asking import Ask, TakesTasks
from apps.gateway.services.catalogue import view_for
from apps.gateway.services.errands import Errand, ask_server, caller_of
from apps.gateway.services.offers import UnknownTool
from apps.gateway.services.outages import unanswered
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import wrong
from apps.gateway.services.rounds import Misbehaved, ask_all
from apps.gateway.services.upstream_tasks import ENDED, TASK, Handle, detailed, own_id_of, pause_of
from apps.registry import services as registry

LONGEST_SECONDS = 600.0
"""How long a task is asked for; who waits hears a sign of life every ten seconds."""
PAUSES_SECONDS = (1.0, 3.0, 10.0)
"""Between the attempts to reach a server that is away, whose task may go on all the same."""
_MISSING_CAPABILITY = -32021
_farewells: "set[asyncio.Task[None]]" = set()


def wants_task(error: registry.UpstreamError, ask: Ask) -> bool:
    """Whether a server refuses a call because its client takes no tasks, which this one cannot."""
    needed = error.data.get("requiredCapabilities") if isinstance(error.data, Mapping) else None
    is_refused = error.rpc_code == _MISSING_CAPABILITY and registry.declares_tasks(needed)
    return is_refused and not ask.client.is_modern


async def drive(actor: Actor, errand: Errand, ask: Ask) -> tuple[dict[str, Any], registry.ServerRoute]:
    """Make the call as a client that takes tasks would, and give the result as it is in the end, with the route.

    Raises BackendTimeout after ten minutes, and what the server says of a task that has failed or was cancelled.
    """
    taking = replace(ask, client=TakesTasks(ask.client))
    result, route = await ask_server(actor, errand, taking)
    if result.get("resultType") != TASK:
        return result, route
    task = _Driven(actor, errand, taking, own_id_of(result, route), route)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await task.result(), route
    except TimeoutError as error:
        if task.is_asking:
            raise unanswered(route) from error
        raise BackendTimeout(
            f"The server {route.slug} did not end the task of this call within {LONGEST_SECONDS:g} seconds."
            " It was told to stop.", details={"server": route.slug},
        ) from error  # fmt: skip
    finally:
        if not task.has_ended:
            farewell = asyncio.get_running_loop().create_task(task.cancel(), context=contextvars.Context())
            _farewells.add(farewell)
            farewell.add_done_callback(_farewells.discard)


@dataclass(slots=True)
class _Driven:
    """One task while it is asked for."""

    actor: Actor
    errand: Errand
    ask: Ask
    own_id: str
    route: registry.ServerRoute
    answered: set[str] = field(default_factory=set)
    has_ended: bool = False
    is_asking: bool = False

    async def result(self) -> dict[str, Any]:
        """The result of the call, as soon as there is one."""
        handle, share = Handle("", self.errand.item.id, self.own_id, ""), budget.current()
        before = share.size if share else 0
        while True:
            said = await self._look()
            self.has_ended = said.get("status") in tuple(ENDED)
            state = await detailed(said, handle, self.errand, self.ask, self.route)
            if state["status"] == "completed":
                result: dict[str, Any] = state["result"]
                return result
            if state["status"] == "failed":
                error = state["error"]
                raise registry.UpstreamError(error["code"], error["message"], error.get("data"))
            if state["status"] == "cancelled":
                raise BackendError(
                    f"The server {self.route.slug} has cancelled the task of this call.",
                    details={"server": self.route.slug},
                )
            if state["status"] == "input_required":
                await self._answer(state["inputRequests"])
            pause = pause_of(state)
            del said, state
            if share is not None:
                share.back_to(before)  # what was said meanwhile is not kept, and may have been long
            await asyncio.sleep(pause)

    async def cancel(self) -> None:
        """Tell the server that nobody waits any more."""
        with suppress(ServiceError):
            await self._send("tasks/cancel", {})

    async def _look(self) -> dict[str, Any]:
        """What the server says of the task, whose tool must still be offered; one that is away is asked again."""
        pauses = iter(PAUSES_SECONDS)
        while True:
            view = await view_for(self.actor, bundle=self.ask.bundle)
            if view.find_tool_of(self.errand.item.id) is None:
                raise UnknownTool.named(self.errand.thing.name)
            try:
                return await self._send("tasks/get", {})
            except (BackendDown, BackendTimeout):
                pause = next(pauses, None)
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _answer(self, questions: Mapping[str, Mapping[str, Any]]) -> None:
        """Put to the client what it was not asked before, and hand its answers on."""
        new = {name: question for name, question in questions.items() if name not in self.answered}
        if not new:
            return
        self.errand.was_asked = self.is_asking = True
        try:
            answers = await ask_all(self.ask.client, new)
        except registry.Unanswered as error:
            raise unanswered(self.route) from error
        except Misbehaved as error:
            raise wrong(self.route, str(error)) from error
        self.answered.update(new)
        self.is_asking = False
        await self._send("tasks/update", {"inputResponses": answers})

    async def _send(self, method: str, more: Mapping[str, Any]) -> dict[str, Any]:
        params = {"taskId": self.own_id, **more}
        caller = caller_of(self.actor, self.ask.client)
        item, revision = self.errand.item, self.errand.revision
        result, _ = await upstreams().request(item.server_id, revision, caller, method, params)
        return result
