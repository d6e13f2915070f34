"""Sessions of the 2025 era among several web processes: each lives in the process that opened it, the others relay.

A session's id names its process. A request that reaches another one goes to it through Redis, whole, and is served
there by the same door with every check made again; the answer comes back part by part, streams too. So a session has
one state, one set of upstream sessions and one order, and no proxy in front needs to know of sessions. When its process
is gone a session is unknown, and its client opens another one, as the protocol wants it.

Messages are sealed with a key made from GATEHOUSE_SECRET_KEY: Redis carries credentials that it cannot read, and nobody
who can write to it can ask in somebody's name.
"""

import asyncio
import base64
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from apps.core.errors import BackendDown
from config.mcp_sessions import RELAYED

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 16
PATIENCE_SECONDS = 2.0
ASK_SECONDS = 5.0
"""How long a request hears nothing before it asks whether anybody still works on it."""
LONGEST_WAY_SECONDS = 60
"""How old a message may be, the difference between two machines' clocks included."""
RETRY_SECONDS = 2
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
        self._waiting: dict[str, asyncio.Queue[tuple[dict[str, Any], bytes]]] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
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

    async def forward(self, owner: str, scope: Message, body: bytes, receive: Receive, send: Send) -> bool:
        """Let the session's process answer; False where there is no such process. Raises BackendDown without Redis."""
        number = secrets.token_hex(8)
        parts = self._waiting[number] = asyncio.Queue()
        leaving = asyncio.ensure_future(_disconnect(receive))
        try:
            if not await self._tell(owner, {"kind": "request", "id": number, "scope": _plain(scope)}, body):
                return False
            await self._pass_on(owner, number, parts, leaving, send)
            return True
        finally:
            leaving.cancel()
            del self._waiting[number]

    async def _pass_on(
        self, owner: str, number: str, parts: "asyncio.Queue[tuple[dict[str, Any], bytes]]",
        leaving: "asyncio.Future[None]", send: Send,
    ) -> None:  # fmt: skip
        has_started = False
        while True:
            part = asyncio.ensure_future(parts.get())
            either: set[asyncio.Future[Any]] = {part, leaving}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=ASK_SECONDS)
            if leaving.done() and not part.done():
                part.cancel()
                await self._tell(owner, {"kind": "leave", "id": number})
                return
            if not part.done():
                await self._tell(owner, {"kind": "ask", "id": number})
                await asyncio.wait({part}, timeout=ASK_SECONDS)
            if not part.done():
                part.cancel()
                _lost(has_started)
                return
            told, body = part.result()
            if told["kind"] == "gone":
                _lost(has_started)
                return
            if told["kind"] == "part":
                has_started = True
                await send(_message(told["message"], body))
                if told["message"]["type"] == "http.response.body" and not told["message"].get("more_body"):
                    return

    # The answering side

    async def _serve(self, asker: str, number: str, scope: dict[str, Any], body: bytes) -> None:
        pending = [body]
        left = asyncio.Event()

        async def receive() -> Message:
            if pending:
                return {"type": "http.request", "body": pending.pop(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            plain = {name: value for name, value in message.items() if name != "body"}
            if "headers" in plain:
                plain["headers"] = [
                    [name.decode("latin-1"), value.decode("latin-1")] for name, value in plain["headers"]
                ]
            await self._tell(asker, {"kind": "part", "id": number, "message": plain}, message.get("body", b""))

        try:
            await self._application({**_scope(scope), RELAYED: True}, receive, send)
        except BackendDown:
            logger.warning("The answer to a relayed request found no way back.")
        finally:
            left.set()
            self._working.pop(number, None)

    async def _hear(self, raw: bytes) -> None:
        try:
            told, _, body = self._seal.decrypt(raw, ttl=LONGEST_WAY_SECONDS).partition(b"\n")
            heard = orjson.loads(told)
        except (InvalidToken, ValueError):
            logger.warning("A message that is not from one of our processes was dropped.")
            return
        kind, number = heard["kind"], heard["id"]
        if kind == "request" and self._is_first(number):
            work = self._serve(heard["from"], number, heard["scope"], body)
            self._working[number] = asyncio.get_running_loop().create_task(work)
        elif kind == "ask":
            await self._tell(heard["from"], {"kind": "alive" if number in self._working else "gone", "id": number})
        elif kind == "leave" and number in self._working:
            self._working[number].cancel()
        elif number in self._waiting:
            self._waiting[number].put_nowait((heard, body))

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

    async def _tell(self, process: str, told: dict[str, Any], body: bytes = b"") -> bool:
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
            try:
                async with self._redis.pubsub() as heard:
                    await heard.subscribe(_channel(self.name))
                    async for message in heard.listen():
                        if message["type"] == "message":
                            await self._hear(message["data"])
            except (RedisError, OSError, BackendDown) as error:
                logger.warning("Sessions of other processes cannot be reached: %s", error)
            except Exception:
                logger.exception("A message of another process could not be heard.")
            await asyncio.sleep(1)

    async def aclose(self) -> None:
        """End what still works for others."""
        for task in list(self._working.values()):
            task.cancel()
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
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await relay.aclose()


def _lost(has_started: bool) -> None:
    """Nobody works on the request any more: say so where that is still possible."""
    if not has_started:
        raise BackendDown(
            "The process that this session lived in is gone. Open another session.",
            details={"retry_after": RETRY_SECONDS},
        )


def _channel(process: str) -> str:
    return f"gatehouse:mcp:{process}"


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _plain(scope: Message) -> dict[str, Any]:
    """A request as JSON, under the id that it has here."""
    kept = {name: scope.get(name) for name in _SCOPE}
    kept["query_string"] = scope.get("query_string", b"").decode("latin-1")
    headers = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
    headers.append((b"x-request-id", scope["gatehouse.request_id"].encode()))
    return {**kept, "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]}


def _scope(plain: dict[str, Any]) -> dict[str, Any]:
    """The request again."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plain["headers"]]
    return {
        **plain,
        "query_string": plain["query_string"].encode("latin-1"),
        "headers": headers,
        "asgi": {"version": "3.0"},
    }


def _message(plain: dict[str, Any], body: bytes) -> dict[str, Any]:
    """A part of the answer again, without the id that every answer gets here."""
    if plain["type"] != "http.response.start":
        return {**plain, "body": body}
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plain["headers"]]
    return {**plain, "headers": [(name, value) for name, value in headers if name != b"x-request-id"]}
