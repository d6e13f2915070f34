"""The sessions of the 2025 revisions: who opened one, what its client can, what runs in it, and when it is over.

A session lives in the process that opened it (see mcp_relay.py for several). Many clients never end theirs. So a key,
and an organisation, has a share of its own: one more ends the one that was left alone for longest.
"""

import asyncio
import contextvars
import itertools
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from apps.core.actor import Actor
from apps.gateway import services as gateway
from config.mcp_messages import Message, call_message
from config.mcp_streams import RESUME_SECONDS, Stream

RELAYED = "gatehouse.relayed"
"""Marks in a scope a request that another web process has passed on, and that answers whoever asks."""
MOST_OF_ONE_CALLER = 500
MOST_OF_ONE_ORGANIZATION = 1000
IDLE_SECONDS = 1800.0
SWEEP_SECONDS = 30.0
MOST_STREAMS = 32
"""How many ended streams a session keeps for clients whose connection broke."""
MOST_KEPT_BYTES = 67_108_864
"""How many bytes of ended streams all sessions together keep; the oldest of the organisation that has most go first."""
PRIMED_SINCE = "2025-11-25"
ROOTS_CHANGED = "notifications/roots/list_changed"
UPDATED = "notifications/resources/updated"


Owner = tuple[Any, ...]


class Notices(Protocol):
    """Where what belongs to no request is written."""

    readers: int

    def put(self, message: bytes, *, may_be_dropped: bool = False) -> bool:
        """Whether it will be sent."""

    def end(self) -> None:
        """Nothing follows."""


class Hearing(Protocol):
    """Takes the messages of a session whose answers all go one way."""

    def hear(self, message: Message, size: int, admit: Callable[[], Awaitable[Actor]]) -> None:
        """Take a message of so many bytes."""


class Kept:
    """The ended streams of all sessions in which clients may read on: for a while, and up to a bound."""

    def __init__(self) -> None:
        self._streams: dict[Stream, tuple[Session, int, asyncio.TimerHandle]] = {}
        self._by_organization: dict[UUID | None, dict[Stream, None]] = {}  # each in the order in which they ended
        self._sizes: Counter[UUID | None] = Counter()

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._sizes.total()

    def keep(self, session: "Session", stream: Stream) -> None:
        """Keep a stream that ends now."""
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(RESUME_SECONDS, self.drop, stream, context=contextvars.Context())
        self._streams[stream] = session, stream.size, expiry
        self._by_organization.setdefault(session.organization_id, {})[stream] = None
        self._sizes[session.organization_id] += stream.size
        while self.size > MOST_KEPT_BYTES:
            [(greediest, _)] = self._sizes.most_common(1)
            self.drop(next(iter(self._by_organization[greediest])))

    def drop(self, stream: Stream) -> None:
        """Keep it no more; whoever reads it just now reads it to its end."""
        found = self._streams.pop(stream, None)
        if found is not None:
            session, size, expiry = found
            owner = session.organization_id
            self._sizes[owner] -= size
            del self._by_organization[owner][stream]
            if not self._by_organization[owner]:
                del self._by_organization[owner], self._sizes[owner]
            expiry.cancel()
            session.streams.pop(stream.name, None)


@dataclass(slots=True, eq=False)
class Session:
    """One session. What it opened upstream is closed with it."""

    id: str
    owner: Owner
    organization_id: UUID | None
    bundle: str
    version: str
    capabilities: Mapping[str, Any]
    client_info: Mapping[str, Any]
    log_level: str = ""
    used_at: float = 0.0
    is_over: bool = False
    running: dict[str | int, Callable[[], None]] = field(default_factory=dict)
    questions: "dict[str, asyncio.Future[Mapping[str, Any]]]" = field(default_factory=dict)
    streams: "OrderedDict[str, Stream]" = field(default_factory=OrderedDict)
    notices: Notices | None = None
    conversation: Hearing | None = None
    """Who takes its messages; None where each of them has an answer of its own."""
    seen_lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What its client's lists looked like when it was last told of them."""
    subscriptions: gateway.Subscriptions = field(init=False)
    kept: Kept = field(default_factory=Kept)
    _numbers: Any = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.subscriptions = gateway.Subscriptions(self._tell_updated)

    def new_stream(self) -> Stream:
        """A stream whose events can be read again."""
        name = f"{next(self._numbers):x}"
        opening = f"id: {name}-0\ndata: \n\n".encode() if self.version >= PRIMED_SINCE else b""
        stream = Stream(name, opening=opening, ended=self._keep)
        self.streams[name] = stream
        for old in [each for each in self.streams.values() if each.is_ended][:-MOST_STREAMS]:
            self.kept.drop(old)
        return stream

    def _keep(self, stream: Stream) -> None:
        if not self.is_over:
            self.kept.keep(self, stream)

    def open_notices(self) -> Stream:
        """The stream for what belongs to no request; a newer one takes the place of the older."""
        if self.notices is not None:
            self.notices.end()
        stream = self.notices = self.new_stream()
        return stream

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> bool:
        """Say something that belongs to no request; False where nobody listens."""
        if self.notices is None or self.is_over:
            return False
        return self.notices.put(call_message(method, params), may_be_dropped=True)

    def tell(self, method: str) -> None:
        """Say that something has changed, to whoever listens."""
        self.notify(method)

    def _tell_updated(self, uri: str) -> None:
        self.notify(UPDATED, {"uri": uri})

    def ask(
        self, put: Callable[[bytes], bool], method: str, params: Mapping[str, Any]
    ) -> "tuple[str, asyncio.Future[Mapping[str, Any]]] | None":
        """Ask the client by way of `put`; the future gets its answer, as it came. None where it cannot be asked."""
        number = f"gatehouse-{next(self._numbers)}"
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        if self.is_over or not put(call_message(method, params, number)):
            return None
        self.questions[number] = answer
        answer.add_done_callback(lambda _: self.questions.pop(number, None))
        return number, answer

    def answered(self, number: Any, answer: Mapping[str, Any]) -> None:
        """The client has answered; what nobody waits for any more is dropped."""
        question = self.questions.get(number) if isinstance(number, str) else None
        if question is not None and not question.done():
            question.set_result(answer)

    def heard(self, method: str, params: Mapping[str, Any]) -> None:
        """The client says something: what concerns servers is passed on."""
        if method == ROOTS_CHANGED:
            gateway.upstreams().notify_servers(self.id, method, params)

    @property
    def user(self) -> Any:
        """Whose it is, whichever of their keys opened it."""
        _, opener, user_id, _ = self.owner
        return user_id or opener

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nobody listens."""
        return not self.running and not any(stream.readers for stream in self.streams.values())

    def end(self) -> None:
        """Stop everything in it."""
        if self.is_over:
            return
        self.is_over = True
        for stop in list(self.running.values()):
            stop()
        for stream in list(self.streams.values()):
            stream.end()
            self.kept.drop(stream)
        for question in list(self.questions.values()):
            question.cancel()
        self.subscriptions.close()
        gateway.upstreams().close_session(self.id)


def owner_of(actor: Actor) -> Owner:
    """To whom a session is bound: the key, or the user, in this organisation."""
    return actor.kind, actor.key_id or actor.id, actor.user_id, actor.organization_id


@dataclass(slots=True)
class Sessions:
    """The open sessions of an event loop, the one that was used last at the end."""

    _open: "OrderedDict[str, Session]" = field(default_factory=OrderedDict)
    _by_organization: "dict[UUID | None, OrderedDict[str, Session]]" = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)

    def open(
        self,
        actor: Actor,
        *,
        bundle: str,
        version: str,
        capabilities: Mapping[str, Any],
        client_info: Mapping[str, Any],
    ) -> Session:
        """Begin a session; where this is one too many, the oldest of its owner is ended, or of who has most of all."""
        session = Session(
            secrets.token_hex(16), owner_of(actor), actor.organization_id, bundle, version, capabilities, client_info,
            kept=self.kept,
        )  # fmt: skip
        mine = self._by_organization.setdefault(actor.organization_id, OrderedDict())
        self._open[session.id] = mine[session.id] = session
        self._use(session)
        self._make_room(list(mine.values()), session.owner)
        return session

    def _make_room(self, oldest_first: list[Session], owner: Owner) -> None:
        of_caller = [each for each in oldest_first if each.owner == owner]
        if len(of_caller) > MOST_OF_ONE_CALLER:
            self.end(of_caller[0])
        elif len(oldest_first) > MOST_OF_ONE_ORGANIZATION:
            # Whoever has many keys makes room for others, and others do not make room for them.
            [(busiest, _)] = Counter(each.user for each in oldest_first).most_common(1)
            self.end(next(each for each in oldest_first if each.user == busiest))

    def find(self, actor: Actor, session_id: str, *, bundle: str, is_piped: bool = False) -> Session | None:
        """The caller's own session by this id at this endpoint; nobody else is told the truth about it."""
        session = self._open.get(session_id)
        if session is None or session.owner != owner_of(actor) or session.bundle != bundle:
            return None
        if (session.conversation is not None) != is_piped:
            return None
        self._use(session)
        return session

    def end(self, session: Session) -> None:
        """End a session, as its client would."""
        self._open.pop(session.id, None)
        mine = self._by_organization.get(session.organization_id)
        if mine is not None:
            mine.pop(session.id, None)
            if not mine:
                del self._by_organization[session.organization_id]
        session.end()

    def end_all(self) -> None:
        """The end of the server."""
        for session in list(self._open.values()):
            self.end(session)

    def end_idle(self, now: float) -> None:
        """End what was left alone for long."""
        for session in list(self._open.values()):
            if not session.is_idle:
                session.used_at = now
            elif now - session.used_at > IDLE_SECONDS:
                self.end(session)

    def listening(self) -> list[Session]:
        """The sessions whose client hears notices."""
        return [each for each in list(self._open.values()) if each.notices is not None and each.notices.readers]

    def count(self, organization_id: UUID | None) -> int:
        """How many are open in an organisation, or in all of them; any thread may ask."""
        if organization_id is not None:
            return len(self._by_organization.get(organization_id, ()))
        return len(self._open)

    def _use(self, session: Session) -> None:
        session.used_at = asyncio.get_running_loop().time()
        self._by_organization[session.organization_id].move_to_end(session.id)
