"""The front: gives every request its id, refuses what must not come in, and sends it to its door."""

import logging
import os
import random
import re
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import orjson
from django.conf import settings
from django.db import InterfaceError, OperationalError

from apps.core import logs
from apps.core.doors import read_json
from apps.core.errors import (
    Malformed,
    MethodNotAllowed,
    NotAuthenticated,
    ServiceError,
    TooLarge,
    UnsupportedMediaType,
    render,
)
from config import wsgi  # sets Django up before anything of ours is imported
from config.bodies import read_body
from config.headers import secured
from config.health import ALIVE
from config.lanes import in_lane
from config.lifespan import owner, serve_lifespan
from config.mcp import mcp_door
from config.mcp_held import CUT
from config.mcp_sessions import RELAYED
from config.outages import as_outage

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")
_JSON_TYPES = ("", "application/json")
LIVE_PATH = "/live"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        await serve_lifespan(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4404})
    else:
        await _serve_http(scope, receive, send)


async def _serve_http(scope: Scope, receive: Receive, send: Send) -> None:
    request_id = scope["gatehouse.request_id"] = _request_id(scope)
    scope["gatehouse.address"] = caller_address(scope)
    if RELAYED not in scope:
        scope[CUT] = partial(_cut, receive, send)
    has_started = False
    marks = (logs.request_id.set(request_id), logs.current_actor.set(None))

    async def send_with_id(message: MutableMapping[str, Any]) -> None:
        nonlocal has_started
        has_started = True
        if message["type"] == "http.response.start" and RELAYED not in scope:
            message["headers"] = [*secured(scope, message.get("headers", [])), (b"x-request-id", request_id.encode())]
        await send(message)

    try:
        if _is_mcp(scope["path"]):
            await owner().ensure_started()
            await mcp_door(scope, receive, send_with_id)
        elif scope["path"] == LIVE_PATH and scope["method"] == "GET":
            await _say_alive(send_with_id)
        else:
            body = await _read_checked(scope, receive)
            async with in_lane(scope, body):
                await wsgi.answer(scope, body, send_with_id)
    except (ServiceError, OperationalError, InterfaceError) as error:
        refusal = error if isinstance(error, ServiceError) else _outage(error)
        if has_started:
            logger.warning("an answer broke off, and its caller was cut: %s", refusal)
            await scope[CUT]()
        else:
            await _refuse(refusal, request_id, send_with_id)
    finally:
        scope.pop(CUT, None)  # a scope that leads to the server's own request keeps both until the collector comes
        logs.request_id.reset(marks[0])
        logs.current_actor.reset(marks[1])


async def _cut(receive: Receive, send: Send) -> None:
    """Cut a request's connection; returns when the server knows that it is cut.

    ASGI has no message for that. Uvicorn would close the connection of an answer that has no end, but only once its
    caller has read what it holds, and report an error of ours. Its `send` belongs to what has the transport; a server
    of another make closes the connection as it likes.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        return
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def _outage(error: Exception) -> ServiceError:
    logger.warning("the database failed: %s", error)
    return as_outage(error) or ServiceError()


def _is_mcp(path: str) -> bool:
    return path == settings.MCP_PATH or path.startswith(settings.MCP_PATH + "/")


async def _read_checked(scope: Scope, receive: Receive) -> bytes:
    query = scope.get("query_string", b"")
    if "\x00" in scope["path"] or b"%00" in query:
        raise Malformed("An address must not contain NUL.")
    try:
        query.decode("ascii")
        unquote_to_bytes(query).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("The query is not percent-encoded UTF-8.") from error
    headers = dict(scope["headers"])
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Malformed("Compressed bodies are not read. Send the body as it is.")
    body = await read_body(headers, receive)
    if body and scope["path"].startswith("/api/"):
        # Routers read JSON whatever its type says: a type that is let through unread would let everything through.
        for kind in _media_types(scope):
            if kind not in _JSON_TYPES:
                raise UnsupportedMediaType(f"{kind[:100]} is not read here. Send application/json.")
        read_json(body)
    return body


def _media_types(scope: Scope) -> list[str]:
    """What the body is said to be; a caller may say so twice, and whoever reads it may heed either."""
    return [
        value.decode("latin-1").partition(";")[0].strip().lower()
        for name, value in scope["headers"]
        if name == b"content-type"
    ]


async def _say_alive(send: Send) -> None:
    """Answer without a thread: a process whose threads all wait for a lock is not to be restarted for that."""
    body = orjson.dumps(ALIVE)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(error: ServiceError, request_id: str, send: Send) -> None:
    body = orjson.dumps(render(error, request_id))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, NotAuthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="gatehouse"'))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.details["allowed"]).encode()))
    if isinstance(error, TooLarge):
        headers.append((b"connection", b"close"))
    if "retry_after" in error.details:
        headers.append((b"retry-after", str(error.details["retry_after"]).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    # No secret, so it need not cost a system call.
    return given if _REQUEST_ID.match(given) else f"req_{random.getrandbits(128):032x}"


def caller_address(scope: Scope) -> str:
    """The caller's address: that of the connection, or the one that the last trusted proxy saw."""
    peer: str = (scope.get("client") or ("", 0))[0]
    if not settings.TRUSTED_PROXIES:
        return peer
    forwarded = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for")
    chain = [*(part.strip() for part in forwarded.split(",") if part.strip()), peer]
    return chain[-min(len(chain), settings.TRUSTED_PROXIES + 1)][:45]
