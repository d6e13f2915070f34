"""Tasks that clients listen to: we look at each as often as its server suggests, and tell when it has changed.

Few servers tell of tasks by themselves, and none says so before it is asked; a client that was promised notices need
not ask any more. So the promise is kept here, for every server alike.
"""

import asyncio
import contextvars
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
from django.db import DatabaseError, InterfaceError

from apps.core import budget
from apps.core.actor import Actor
from apps.core.errors import NotFound, NotPermitted, ServiceError
from apps.gateway.services.asking import Ask
from apps.gateway.services.errands import caller_of
from apps.gateway.services.parking import parking_lot
from apps.gateway.services.upstream_tasks import (
    ENDED,
    LONGEST_PAUSE_SECONDS,
    SHORTEST_PAUSE_SECONDS,
    USUAL_PAUSE_SECONDS,
    look,
    pause_of,
    process_of_task,
)
from apps.registry import services as registry

logger = logging.getLogger(__name__)
MOST_TASKS = 32
"""How many tasks one caller may listen to, on all streams together."""
FIRST_LOOK_SECONDS = 10.0
"""How long the acknowledgement waits for servers to say how their tasks stand."""
LOOK_WHETHER_READ_SECONDS = 0.5
_INVALID_PARAMS = -32602
_followed: Counter[str] = Counter()


class Following:
    """The tasks that one stream is about.

    `tell` is given a task's state, and says whether it could take it; `is_read` says whether the client has read all.
    """

    def __init__(
        self, actor: Actor, ask: Ask, tell: Callable[[dict[str, Any]], bool], is_read: Callable[[], bool]
    ) -> None:
        self.actor = actor
        """Who listens, with the rights that they have now."""
        self._ask = ask
        self._tell = tell
        self._is_read = is_read
        self._owner = caller_of(actor, ask.client).key
        self._seen: dict[str, dict[str, Any] | None] = {}
        self._works: list[asyncio.Task[None]] = []

    async def add(self, task_ids: Sequence[str]) -> list[str]:
        """Which tasks will be followed: the caller's own that this process can reach, as far as there is room.

        Each is looked at first, all at once, for some seconds: nothing is promised of one whose server is slow or down.
        """
        chosen = list(dict.fromkeys(task_ids))[:MOST_TASKS]
        found = await asyncio.gather(*map(self._add, chosen), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return [task_id for task_id in chosen if task_id in self._seen]

    async def _add(self, task_id: str) -> None:
        if _followed[self._owner] >= MOST_TASKS or process_of_task(task_id) not in ("", parking_lot().process):
            return
        _followed[self._owner] += 1
        try:
            with budget.share_for(self.actor.organization_id) as share, suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(FIRST_LOOK_SECONDS):
                    state = await self._look(task_id, share)
                self._seen[task_id] = state if not share.counted else None
        finally:
            if task_id not in self._seen:
                self._leave()

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

    async def _follow(self, task_id: str, state: dict[str, Any] | None) -> None:
        """Tell how a task stands until it has ended, or is the actor's no more; between two looks nothing is kept."""
        told, interval, pause = b"", SHORTEST_PAUSE_SECONDS, 0.0
        with budget.share_for(self.actor.organization_id) as share:
            while True:
                if state is not None:
                    interval, mark = pause_of(state), _digest(state)
                    is_over, is_news = state["status"] in ENDED, mark != told
                    if is_news and self._tell(state):
                        told = mark
                    state = None
                    await self._until_read(share)
                    if is_over and told == mark:
                        return
                    await asyncio.sleep(interval)
                try:
                    state, pause = await self._look(task_id, share), 0.0
                except (NotFound, NotPermitted):
                    return
                except (ServiceError, DatabaseError, InterfaceError) as error:
                    if isinstance(error, registry.UpstreamError) and error.rpc_code == _INVALID_PARAMS:
                        return  # the server has forgotten it
                    share.back_to(0)
                    pause = min(max(2 * pause, USUAL_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                    await asyncio.sleep(max(pause, interval))

    async def _until_read(self, share: budget.Share) -> None:
        """Hold a long state until the client has read it, as a long answer is."""
        while share.counted and not self._is_read():  # noqa: ASYNC110 - an outlet tells nobody when it has been read
            await asyncio.sleep(LOOK_WHETHER_READ_SECONDS)
        share.back_to(0)

    async def _look(self, task_id: str, share: budget.Share) -> dict[str, Any]:
        return await look(self.actor, task_id, replace(self._ask, share=share))


def _digest(state: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(orjson.dumps(state, option=orjson.OPT_SORT_KEYS)).digest()
