"""Sessions of the 2025 era among several web processes: each lives in the process that opened it, the others relay.

A session's id names its process. A request that reaches another one goes to it through Redis, whole, and is served
there by the same door with every check made again; the answer comes back part by part, streams too. So a session has
one state, one set of upstream sessions and one order, and no proxy in front needs to know of sessions. When its process
is gone a session is unknown, and its client opens another one, as the protocol wants it. How an answer is kept whole
and bounded on its way is said in mcp_parts.py.

Messages are sealed with a key made from GATEHOUSE_SECRET_KEY: Redis carries credentials that it cannot read, and nobody
who can write to it can ask in somebody's name.
"""

import asyncio
import base64
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from apps.core.budget import Share
from apps.core.errors import BackendDown
from config.mcp_held import CUT, Paced
from config.mcp_parts import GONE, Incoming, Lost, Message, Outgoing, Told
from config.mcp_sessions import RELAYED
from config.mcp_stopping import stopping

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 16
PATIENCE_SECONDS = 2.0
ASK_SECONDS = 5.0
LET_GO_SECONDS = 1.0
"""How long a request hears nothing before it asks whether anybody still works on it."""
MOST_ASKED = 2
"""How often it asks in vain. One message may be lost with a connection to Redis; an answer is given up for two."""
LONGEST_WAY_SECONDS = 60
"""How old a message may be, the difference between two machines' clocks included."""
RETRY_SECONDS = 2
DEAF_SECONDS = 0.1
"""How long to wait before listening again to a Redis that has cut us off; for one that is away, ten times that."""
_ID = re.compile(r"([0-9a-f]{12})-([0-9a-f]{32})")
_SCOPE = ("type", "http_version", "method", "scheme", "path", "query_string", "server", "client")


class Relay:
    """The way from this process's event loop to the others, and back."""

    def __init__(self, application: Application) -> None:
        self.name = secrets.token_hex(6)
        self._application = application
        self._redis: Redis = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                str(settings.ENV.redis_url), max_connections=MOST_CONNECTIONS, timeout=PATIENCE_SECONDS,
                socket_connect_timeout=PATIENCE_SECONDS,
            )
        )  # fmt: skip
        key = hashlib.sha256(b"gatehouse mcp relay\x00" + settings.SECRET_KEY.encode()).digest()
        self._seal = Fernet(base64.urlsafe_b64encode(key))
        self._waiting: dict[str, Incoming] = {}
        self._working: dict[str, Outgoing] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._saying: set[asyncio.Task[None]] = set()
        self._begun: dict[str, float] = {}

    # Ids

    def owner_of(self, session_id: str) -> tuple[str, str]:
        """The process that a session's id names, and the id as that process knows it; "" for none of our ids."""
        found = _ID.fullmatch(session_id)
        return (found[1], found[2]) if found else ("", session_id)

    def public_id(self, session_id: str) -> str:
        """The id of a session of this process, as its client knows it."""
        return f"{self.name}-{session_id}"

    # The asking side

    async def forward(
        self, owner: str, scope: Message, body: bytes, receive: Receive, send: Paced, *, share: Share
    ) -> bool:
        """Let the session's process answer; False where there is no such process. Raises BackendDown."""
        number = secrets.token_hex(8)
        incoming = self._waiting[number] = Incoming(share)
        leaving = asyncio.ensure_future(_left(receive, only_listens=_only_listens(scope)))
        is_there = True
        try:
            is_there = await self._tell(owner, {"kind": "request", "id": number, "scope": _plain(scope)}, body)
            if is_there:
                await self._pass_on(owner, number, incoming, leaving, send)
        except Lost as lost:
            await _break_off(lost, incoming, send)
        finally:
            leaving.cancel()
            del self._waiting[number]
            if is_there and not incoming.is_complete:
                self._say(owner, {"kind": "leave", "id": number})
        return is_there

    async def _pass_on(
        self, owner: str, number: str, incoming: Incoming, leaving: "asyncio.Future[None]", send: Paced
    ) -> None:
        """Send the answer on, until its end or until the caller leaves or is left; raises Lost."""
        asked = 0
        while not incoming.is_complete:
            heard = await incoming.next(leaving, ASK_SECONDS)
            if leaving.done():
                await send.end()
                return
            if heard is None:
                if asked == MOST_ASKED:
                    raise Lost(GONE)
                asked += 1
                self._say(owner, {"kind": "ask", "id": number, "sent_on": incoming.sent_on})
                continue
            asked = 0
            part = incoming.part(*heard)
            if part is None:
                continue
            await send(part)
            if send.is_left:
                return
            if incoming.passed_on(part):
                self._say(owner, {"kind": "acknowledge", "id": number, "sent_on": incoming.sent_on})

    # The answering side

    async def _serve(self, asker: str, number: str, scope: Told, outgoing: Outgoing) -> None:
        """Let the application answer, as a server does: it is not stopped when its caller leaves, but told."""
        try:
            inner = {**_scope(scope), RELAYED: True, CUT: outgoing.cut}
            await self._application(inner, outgoing.receive, outgoing.send)
        except Exception:
            logger.exception("A relayed request failed.")
        finally:
            del self._working[number]
            if not outgoing.is_complete:
                self._say(asker, {"kind": "cut", "id": number})

    def _begin(self, asker: str, number: str, scope: Told, body: bytes) -> None:
        async def tell(told: Told, part: bytes) -> bool:
            try:
                return await self._tell(asker, {**told, "id": number}, part)
            except BackendDown:
                logger.warning("The answer to a relayed request found no way back.")
                return False

        outgoing = self._working[number] = Outgoing(tell, body)
        _keep(self._serving, self._serve(asker, number, scope, outgoing))

    # Both

    def _hear(self, raw: bytes) -> None:
        """Take a message. This never waits: whoever listens would lose what comes meanwhile."""
        try:
            told, _, body = self._seal.decrypt(raw, ttl=LONGEST_WAY_SECONDS).partition(b"\n")
            heard = orjson.loads(told)
        except (InvalidToken, ValueError):
            logger.warning("A message that is not from one of our processes was dropped.")
            return
        kind, number, process = heard["kind"], heard["id"], heard["from"]
        if kind == "request":
            if self._is_first(number):
                self._begin(process, number, heard["scope"], body)
        elif kind in ("ask", "acknowledge", "leave"):
            self._hear_asker(process, number, heard)
        elif number in self._waiting:
            self._waiting[number].hear(heard, body)
        elif kind == "part":
            self._say(process, {"kind": "leave", "id": number})  # the first time that was said, it was lost

    def _hear_asker(self, asker: str, number: str, heard: Told) -> None:
        outgoing = self._working.get(number)
        if outgoing is not None and heard["kind"] == "leave":
            outgoing.leave()
        elif outgoing is not None:
            outgoing.acknowledge(heard["sent_on"])
        if heard["kind"] == "ask":
            is_alive = outgoing is not None and not outgoing.is_left
            state = {"kind": "alive", "parts": outgoing.parts} if outgoing and is_alive else {"kind": "gone"}
            self._say(asker, {**state, "id": number})

    def _is_first(self, number: str) -> bool:
        """Whether a request has not come before: who copies a message must not have it carried out again."""
        now = asyncio.get_running_loop().time()
        while self._begun and now - next(iter(self._begun.values())) > 2 * LONGEST_WAY_SECONDS:
            del self._begun[next(iter(self._begun))]
        if number in self._begun:
            return False
        self._begun[number] = now
        return True

    # Redis

    def _say(self, process: str, told: Told) -> None:
        """Send a message that may be lost, and wait for nothing."""

        async def say() -> None:
            with suppress(BackendDown):
                await self._tell(process, told)

        _keep(self._saying, say())

    async def _tell(self, process: str, told: Told, body: bytes = b"") -> bool:
        """Send a message; whether anybody hears it. Raises BackendDown."""
        sealed = self._seal.encrypt(orjson.dumps({**told, "from": self.name}) + b"\n" + body)
        try:
            return bool(await self._redis.publish(_channel(process), sealed))
        except (RedisError, OSError) as error:
            raise BackendDown(
                "This session lives in another process, and Redis, which leads there, cannot be reached."
                " Try again in a moment.",
                details={"retry_after": RETRY_SECONDS},
            ) from error

    async def listen(self) -> None:
        """Hear the others until cancelled; a Redis that is away is looked for again and again."""
        while True:
            pause = 10 * DEAF_SECONDS
            try:
                async with self._redis.pubsub() as heard:
                    await heard.subscribe(_channel(self.name))
                    async for message in heard.listen():
                        pause = DEAF_SECONDS
                        if message["type"] == "message":
                            self._take(message["data"])
            except (RedisError, OSError) as error:
                logger.warning("Sessions of other processes cannot be reached: %s", error)
            await asyncio.sleep(pause)

    def _take(self, raw: bytes) -> None:
        try:
            self._hear(raw)
        except Exception:
            logger.exception("A message of another process could not be heard.")

    async def drain(self) -> None:
        """Let what works for others come to its end, as the server does with what works for its own callers."""
        if self._serving and stopping.seconds_left:
            await asyncio.wait(list(self._serving), timeout=stopping.seconds_left)

    async def aclose(self) -> None:
        """End what still works for others, and let them know."""
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.gather(*self._saying)
        await self._redis.aclose()


@asynccontextmanager
async def relaying(application: Application) -> AsyncIterator[Relay | None]:
    """The relay of the running event loop; none without Redis, where there is one web process."""
    if not settings.ENV.redis_url:
        yield None
        return
    relay = Relay(application)
    listening = asyncio.get_running_loop().create_task(relay.listen())
    try:
        yield relay
    finally:
        await relay.drain()
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await relay.aclose()


async def _break_off(lost: Lost, incoming: Incoming, send: Paced) -> None:
    """Say that there is no whole answer; where it has begun, the only way to say so is to cut the connection."""
    if not incoming.has_started:
        raise BackendDown(str(lost), details={"retry_after": RETRY_SECONDS}) from lost
    logger.warning("an answer that came through another process broke off, and its caller was cut: %s", lost)
    await send.cut()


def _keep(tasks: "set[asyncio.Task[None]]", work: Coroutine[Any, Any, None]) -> None:
    """Let something run beside everything else; a task that nobody holds may be collected."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _channel(process: str) -> str:
    return f"gatehouse:mcp:{process}"


async def _left(receive: Receive, *, only_listens: bool) -> None:
    """Until the caller leaves; or, where it only listens, is let go because this process is told to stop."""
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        while not (leaving.done() or (only_listens and stopping.is_told)):
            await asyncio.wait({leaving}, timeout=LET_GO_SECONDS if only_listens else None)
    finally:
        leaving.cancel()


def _only_listens(scope: Message) -> bool:
    """Whether a request asks for what belongs to no other; what was said before may be the rest of an answer."""
    return scope["method"] == "GET" and not any(name == b"last-event-id" for name, _ in scope["headers"])


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _plain(scope: Message) -> Told:
    """A request as JSON, under the id that it has here."""
    kept = {name: scope.get(name) for name in _SCOPE}
    kept["query_string"] = scope.get("query_string", b"").decode("latin-1")
    headers = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
    headers.append((b"x-request-id", scope["gatehouse.request_id"].encode()))
    return {**kept, "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]}


def _scope(plain: Told) -> dict[str, Any]:
    """The request again."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plain["headers"]]
    return {
        **plain,
        "query_string": plain["query_string"].encode("latin-1"),
        "headers": headers,
        "asgi": {"version": "3.0"},
    }
