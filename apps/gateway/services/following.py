"""Tasks that clients listen to: we look at each as often as its server suggests, and tell when it has changed.

Few servers tell of tasks by themselves, and none says so before it is asked; a client that was promised notices need
not ask any more. So the promise is kept here, for every server alike.
"""

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.db import DatabaseError

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import NotFound, NotPermitted, ServiceError
from apps.gateway.services.asking import Ask
from apps.gateway.services.rounds import parking_lot
from apps.gateway.services.upstream_tasks import (
    ENDED,
    LONGEST_PAUSE_SECONDS,
    USUAL_PAUSE_SECONDS,
    look,
    pause_of,
    process_of_task,
)
from apps.registry import services as registry

logger = logging.getLogger(__name__)
MOST_TASKS = 32
"""How many tasks one caller may listen to, on all streams together."""
_INVALID_PARAMS = -32602
_followed: Counter[str] = Counter()


class Following:
    """The tasks that one stream is about; `tell` is given a task's state, and says whether it could take it."""

    def __init__(self, actor: Actor, ask: Ask, tell: Callable[[dict[str, Any]], bool]) -> None:
        self.actor = actor
        """Who listens, with the rights that they have now."""
        self._ask = ask
        self._tell = tell
        self._owner = f"{actor.key_id or actor.id or actor.label}"
        self._seen: dict[str, dict[str, Any]] = {}
        self._asked = 0
        self._works: list[asyncio.Task[None]] = []

    async def add(self, task_id: str) -> bool:
        """Whether a task will be followed: it is the caller's, there is room for it, and this process can reach it."""
        if task_id in self._seen or self._asked >= MOST_TASKS:
            return False
        self._asked += 1
        if _followed[self._owner] >= MOST_TASKS or process_of_task(task_id) not in ("", parking_lot().process):
            return False
        _followed[self._owner] += 1
        try:
            self._seen[task_id] = await self._look(task_id)
        except ServiceError:
            return False
        finally:
            if task_id not in self._seen:
                self._leave()
        return True

    def begin(self) -> None:
        """Tell how all that were added stand, and what becomes of them."""
        for task_id, state in self._seen.items():
            work = asyncio.get_running_loop().create_task(self._follow(task_id, state), context=contextvars.Context())
            work.add_done_callback(self._has_ended)
            self._works.append(work)
        self._seen.clear()

    def close(self) -> None:
        """Follow nothing any more."""
        for _ in self._seen:
            self._leave()
        self._seen.clear()
        for work in self._works:
            work.cancel()

    def _leave(self) -> None:
        _followed[self._owner] -= 1
        if not _followed[self._owner]:
            del _followed[self._owner]

    def _has_ended(self, work: "asyncio.Task[None]") -> None:
        self._leave()
        if not work.cancelled() and (error := work.exception()):
            logger.error("A task could not be followed.", exc_info=error)

    async def _follow(self, task_id: str, state: dict[str, Any]) -> None:
        told: dict[str, Any] | None = None
        pause = 0.0
        while True:
            if state != told and self._tell(state):
                told = state
                if state["status"] in ENDED:
                    return
            pause = max(pause, pause_of(state))
            await asyncio.sleep(pause)
            try:
                state, pause = await self._look(task_id), 0.0
            except (NotFound, NotPermitted):
                return
            except (ServiceError, DatabaseError) as error:
                if isinstance(error, registry.UpstreamError) and error.rpc_code == _INVALID_PARAMS:
                    return  # the server has forgotten it
                pause = min(max(2 * pause, USUAL_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)

    async def _look(self, task_id: str) -> dict[str, Any]:
        with budget.share_for(self.actor.organization_id) as share:
            return await look(self.actor, task_id, replace(self._ask, share=share))
