"""What a server says beside its answers: notices that are handed on, and questions that are put and answered once.

One `Hearing` belongs to one session with a server, and knows the requests that are in flight there. Whoever made a
request with a listener hears what belongs to it; the rest goes to the listener of the connection. What nobody listens
to is dropped, and a question is then refused, as a client without that capability does.
"""

import asyncio
import contextvars
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from apps.core import budget
from apps.core.errors import BackendError
from apps.registry.backends import masking, wire
from apps.registry.backends.base import Listener, Refused, Unanswered

logger = logging.getLogger(__name__)

LONGEST_QUESTIONS_SECONDS = 600.0
"""How long, in all, the time limit of a request stands still because somebody is asked something."""
MOST_QUESTIONS = 16
MOST_REMEMBERED = 1000
LONGEST_ID = 256
NOTICES_AT_ONCE = 1000
NOTICES_PER_SECOND = 100
BYTES_PER_NOTICE = 4096
"""A longer notice counts as several."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0

QUESTIONS = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})
CHANGES = frozenset({
    "notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed",
    "notifications/resources/updated",
})  # fmt: skip
"""What concerns whoever listens, also where it is said while a request of somebody else is carried out."""
PROGRESS = "notifications/progress"
CANCELLED = "notifications/cancelled"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION = wire.META + "subscriptionId"


class Allowance:
    """How many notices may come now: many at once, and then so many a second."""

    __slots__ = ("_room", "_since")

    def __init__(self) -> None:
        self._room = float(NOTICES_AT_ONCE)
        self._since = 0.0

    def take(self, size: int) -> bool:
        """Whether a notice of so many bytes may be handed on; it is counted."""
        now = asyncio.get_running_loop().time()
        self._room = min(float(NOTICES_AT_ONCE), self._room + (now - self._since) * NOTICES_PER_SECOND)
        self._since = now
        cost = 1 + size // BYTES_PER_NOTICE
        if cost > self._room:
            return False
        self._room -= cost
        return True


@dataclass(slots=True, eq=False)
class Exchange:
    """A request in flight that somebody listens to. Its time limit can stand still."""

    number: int
    listener: Listener
    token: str | int | None
    limit: asyncio.Timeout
    deadline: float
    paused_at: float = 0.0
    pauses: int = 0
    patience: float = LONGEST_QUESTIONS_SECONDS
    allowance: Allowance = field(default_factory=Allowance)
    task_id: str = ""
    """The task of 2025-11-25 whose result it waits for; what is said about that task belongs to it."""

    def pause(self) -> None:
        """Somebody is asked: the limit stands still, as long as there is patience left."""
        self.pauses += 1
        if self.pauses == 1:
            self.paused_at = asyncio.get_running_loop().time()
            self._move(self.deadline + self.patience)

    def resume(self) -> None:
        """There is an answer: the limit runs on, if nobody else is being asked."""
        if self.limit.expired():
            return  # it comes too late
        self.pauses -= 1
        if not self.pauses:
            waited = min(asyncio.get_running_loop().time() - self.paused_at, self.patience)
            self.patience -= waited
            self.deadline += waited
            self._move(self.deadline)

    def check_answered(self) -> None:
        """Raise Unanswered where the time was up while somebody was asked: the server waited, as we did."""
        if self.pauses and self.limit.expired():
            raise Unanswered

    def _move(self, when: float) -> None:
        with suppress(RuntimeError):  # it has ended, or the time was up, just now
            self.limit.reschedule(when)


@dataclass(slots=True, eq=False)
class _Question:
    """Something that the server asks, from when it is put until it is answered."""

    id: str | int
    exchanges: Sequence[Exchange]
    belongs_to: Exchange | None
    task: "asyncio.Task[None] | None" = None
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Hearing:
    """The ears of one session with a server.

    `reply` sends what we say ourselves, at once or never; `answer` sends what a listener says, and ends when that is
    sent.
    """

    slug: str
    organization_id: UUID
    secrets: Callable[[], Sequence[str]]
    reply: Callable[[bytes], None]
    answer: Callable[[bytes], Awaitable[None]]
    listener: Listener | None = None
    may_ask: bool = True
    """A server of 2026-07-28 asks by its results, never by requests of its own."""
    is_shared: bool = True
    """All requests have one stream together, so that a notice on it may belong to any of them."""
    exchanges: dict[int, Exchange] = field(default_factory=dict)
    subscriptions: dict[int, Listener] = field(default_factory=dict)
    standing: list[Listener] = field(default_factory=list)
    """Who listens to the connection, for now."""
    _questions: dict[str | int, _Question] = field(default_factory=dict)
    _answered: "OrderedDict[str | int, None]" = field(default_factory=OrderedDict)
    _allowance: Allowance = field(default_factory=Allowance)

    # Requests in flight ----------------------------------------------------------------------------------------------

    def begin(
        self, number: int, listener: Listener, params: Mapping[str, Any] | None, limit: asyncio.Timeout, deadline: float
    ) -> Exchange:
        """A request is about to be made, and somebody listens to it."""
        task_id = str((params or {}).get("taskId", ""))
        exchange = Exchange(number, listener, wire.progress_token(params), limit, deadline, task_id=task_id)
        self.exchanges[number] = exchange
        return exchange

    def answered(self, number: int) -> None:
        """The answer has been read, on a connection that requests share: what else it may say comes too late."""
        self.exchanges.pop(number, None)

    def end(self, exchange: Exchange) -> None:
        """The request has ended: who was asked on its behalf need not answer any more."""
        self.exchanges.pop(exchange.number, None)
        if not self._questions:
            return
        for question in list(self._questions.values()):
            if question.belongs_to is exchange and not question.is_over:
                self._take_back(question)
                self.reply(_failed(question.id, wire.REQUEST_CANCELLED, "What this was asked for has ended."))

    def close(self) -> None:
        """The session has ended: nobody waits for answers any more."""
        for question in list(self._questions.values()):
            self._take_back(question)

    # What is heard ---------------------------------------------------------------------------------------------------

    def hear(
        self, message: dict[str, Any], size: int, *, exchange: Exchange | None = None, listener: Listener | None = None
    ) -> bool:
        """Hand on a notification or a question. False for what was dropped: nobody listens, or too many come.

        `exchange` is the request on whose own stream it came, `listener` who alone listens to the stream it came on.
        """
        if wire.is_request(message):
            return self._asked(message, size, exchange, listener)
        method, params = message.get("method"), message.get("params", {})
        if not isinstance(method, str) or not isinstance(params, dict) or method == ACKNOWLEDGED:
            return False
        if method == CANCELLED:
            return self._withdrawn(params)
        if method == PROGRESS:
            return self._progressed(params, size)
        return self._noticed(method, params, size, exchange=exchange, listener=listener)

    def _noticed(
        self, method: str, params: dict[str, Any], size: int, *, exchange: Exchange | None, listener: Listener | None
    ) -> bool:
        subscription = _taken_out(params)
        if listener is None and subscription is not None:
            listener = self.subscriptions.get(subscription)
            if listener is None:
                return False
        belongs_to = exchange or self._about_its_task(params) or self._only_one()
        if listener is None and belongs_to is not None and not (method in CHANGES and self._of_the_connection()):
            return self._tell([belongs_to.listener], method, params, belongs_to.allowance, size)
        return self._tell([listener] if listener else self._of_the_connection(), method, params, self._allowance, size)

    def _only_one(self) -> Exchange | None:
        """Whom a notice belongs to that says nothing of it."""
        return next(iter(self.exchanges.values())) if self.is_shared and len(self.exchanges) == 1 else None

    def _about_its_task(self, params: Any) -> Exchange | None:
        """Who waits for the task of 2025-11-25 that this is said to be about."""
        meta = params.get("_meta") if isinstance(params, dict) else None
        related = meta.get(wire.RELATED_TASK) if isinstance(meta, dict) else None
        task_id = related.get("taskId") if isinstance(related, dict) else None
        if not task_id:
            return None
        return next((each for each in self.exchanges.values() if each.task_id == task_id), None)

    def _of_the_connection(self) -> Sequence[Listener]:
        if self.listener is None:
            return self.standing
        return [self.listener, *(each for each in self.standing if each is not self.listener)]

    def _progressed(self, params: dict[str, Any], size: int) -> bool:
        """Progress belongs to the request that we gave its token to, or to who waits for its task, wherever it is told.

        The token of a call that was answered with a task is good until the task has ended.
        """
        token = params.get(wire.PROGRESS_TOKEN)
        exchange = (self.exchanges.get(token) if type(token) is int else None) or self._about_its_task(params)
        if exchange is None or exchange.token is None:
            return False
        given = {**params, wire.PROGRESS_TOKEN: exchange.token}
        return self._tell([exchange.listener], PROGRESS, given, exchange.allowance, size)

    def _tell(
        self, listeners: Sequence[Listener], method: str, params: dict[str, Any], allowance: Allowance, size: int
    ) -> bool:
        if not listeners or not allowance.take(size):
            return False
        shown = masking.without_secrets(params, self.secrets())
        for listener in list(listeners):
            try:
                listener.notified(method, shown)
            except Exception:
                logger.exception("A notice of %s could not be handed on.", self.slug)
        return True

    # Questions -------------------------------------------------------------------------------------------------------

    def _asked(self, message: dict[str, Any], size: int, exchange: Exchange | None, listener: Listener | None) -> bool:
        number, method = message["id"], message["method"]
        if type(number) not in (int, str) or len(str(number)) > LONGEST_ID:
            return False
        belongs_to = exchange
        if exchange is None and listener is None:
            belongs_to = self._about_its_task(message.get("params")) or self._only_one()
        asked = listener or (belongs_to.listener if belongs_to else next(iter(self._of_the_connection()), None))
        if asked is None or not self.may_ask or not isinstance(method, str) or method not in QUESTIONS:
            self.reply(wire.encode_reply(message))
            return False
        if number in self._questions or number in self._answered:
            return False  # a stream that was resumed tells again what was heard already
        if len(self._questions) >= MOST_QUESTIONS:
            self.reply(_failed(number, wire.INTERNAL_ERROR, f"There are {MOST_QUESTIONS} open questions already."))
            return False
        # What belongs to no request may be what any of them waits for.
        exchanges = [belongs_to] if belongs_to else list(self.exchanges.values())
        question = self._questions[number] = _Question(number, exchanges, belongs_to)
        for each in exchanges:
            each.pause()
        params = message.get("params")
        params = masking.without_secrets(params, self.secrets()) if isinstance(params, dict) else {}
        question.task = asyncio.get_running_loop().create_task(self._put(question, asked, method, params, size))
        question.task.add_done_callback(lambda _: self._questions.pop(number, None))
        return True

    async def _put(
        self, question: _Question, listener: Listener, method: str, params: dict[str, Any], size: int
    ) -> None:
        """Put a question to the listener, and send what it says."""
        with budget.share_for(self.organization_id) as share:
            share.take(size)
            body = await self._said(question.id, listener, method, params)
        if not question.is_over:
            self._settle(question)
            await self.answer(body)

    async def _said(self, number: str | int, listener: Listener, method: str, params: dict[str, Any]) -> bytes:
        try:
            result = await listener.asked(method, params)
            if not isinstance(result, Mapping):
                raise TypeError(f"The answer to {method} is a {type(result).__name__}.")
            return wire.encode({"jsonrpc": "2.0", "id": number, "result": result})
        except Refused as refused:
            return _failed(number, refused.code, refused.message, refused.data)
        except Exception:
            logger.exception("A question of %s could not be answered.", self.slug)
            return _failed(number, wire.INTERNAL_ERROR, "Gatehouse could not pass this question on.")

    def _withdrawn(self, params: Mapping[str, Any]) -> bool:
        number = params.get("requestId")
        question = self._questions.get(number) if isinstance(number, int | str) else None
        if question is None or question.is_over:
            return False
        self._take_back(question)
        return True

    def _take_back(self, question: _Question) -> None:
        self._settle(question)
        if question.task is not None:
            question.task.cancel()

    def _settle(self, question: _Question) -> None:
        """From here on the question has its one answer, or needs none."""
        if question.is_over:
            return
        question.is_over = True
        self._answered[question.id] = None
        if len(self._answered) > MOST_REMEMBERED:
            self._answered.popitem(last=False)
        for exchange in question.exchanges:
            exchange.resume()


def _taken_out(params: dict[str, Any]) -> int | None:
    """The number of our request that a notice of 2026-07-28 comes under, which is nobody else's business."""
    meta = params.get("_meta")
    if not isinstance(meta, dict) or SUBSCRIPTION not in meta:
        return None
    number = meta.pop(SUBSCRIPTION)
    if not meta:
        del params["_meta"]
    return number if type(number) is int else -1


class Pauses:
    """How long to wait before a stream is opened again: longer each time, unless the last one held."""

    def __init__(self) -> None:
        self.shortest = FIRST_PAUSE_SECONDS
        self._next = 0.0

    def reset(self) -> None:
        """It held: something was heard."""
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until the next attempt."""
        seconds = max(self._next, self.shortest)
        self._next = min(seconds * 2, LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(seconds)


async def while_open(ended: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until it is done, or cancelled, or everything has ended; it is nobody's request."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(ended.wait()), loop.create_task(work, context=contextvars.Context())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not tasks[1].cancelled() and (error := tasks[1].exception()):
        raise error


def _failed(number: str | int, code: int, message: str, data: Any = None) -> bytes:
    error = {"code": code, "message": message}
    failed = {"jsonrpc": "2.0", "id": number, "error": error if data is None else {**error, "data": data}}
    try:
        return wire.encode(failed)
    except BackendError:
        return wire.encode(
            {"jsonrpc": "2.0", "id": number, "error": {"code": wire.INTERNAL_ERROR, "message": "Refused."}}
        )
