"""One HTTP request at an MCP endpoint, once it was let in: who asks, what it says of itself, and how it is answered."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings

from apps.core import budget
from apps.core.actor import Actor
from config.mcp_held import Paced
from config.mcp_messages import INVALID_REQUEST, RpcError, error_message
from config.mcp_sessions import Session
from config.mcp_streams import JSON_HEADERS, Receive


@dataclass(slots=True)
class Request:
    """One HTTP request that was let in."""

    here: Any
    scope: MutableMapping[str, Any]
    headers: dict[bytes, bytes]
    actor: Actor
    bundle: str
    receive: Receive
    send: Paced
    share: budget.Share
    body: bytes = b""

    def header(self, name: bytes) -> str | None:
        """A header's value."""
        found = self.headers.get(name)
        return found.decode("latin-1") if found is not None else None

    def accepts(self, kind: str) -> bool:
        """Whether the caller takes answers of this type."""
        said = self.headers.get(b"accept")
        return said is None or _accepts(said, kind)

    async def give(self, status: int, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Answer at once."""
        length = (b"content-length", str(len(body)).encode())
        sent = [*(JSON_HEADERS if body else []), length, *(headers or [])]
        await self.send({"type": "http.response.start", "status": status, "headers": sent})
        await self.send({"type": "http.response.body", "body": body})

    async def hand_over(self) -> None:
        """Let FastMCP answer: it knows the extensions of the protocol, and refuses what nobody knows."""
        pending = [self.body]

        async def receive() -> MutableMapping[str, Any]:
            if pending:
                return {"type": "http.request", "body": pending.pop(), "more_body": False}
            return await self.receive()

        path: str = settings.MCP_PATH
        inner = {**self.scope, "path": path, "raw_path": path.encode(), "root_path": "", "actor": self.actor}
        await self.here.rest(inner, receive, self.send)

    async def give_error(self, status: int, error: RpcError, number: str | int | None = None) -> None:
        """Answer with a JSON-RPC error."""
        await self.give(status, error_message(number, error))


@lru_cache(maxsize=256)
def _accepts(said: bytes, kind: str) -> bool:
    ranges = {part.partition(";")[0].strip().lower() for part in said.decode("latin-1").split(",")}
    return bool(ranges & {kind, f"{kind.partition('/')[0]}/*", "*/*"})


async def session_of(request: Request, number: str | int | None = None, *, is_piped: bool = False) -> Session | None:
    """The session that a request names; where there is none, that is answered."""
    session_id = request.header(b"mcp-session-id")
    if session_id is None:
        error = RpcError(INVALID_REQUEST, "There is no session yet: begin with initialize.")
        await request.give_error(400, error, number)
        return None
    session: Session | None = request.here.sessions.find(
        request.actor, session_id, bundle=request.bundle, is_piped=is_piped
    )
    if session is None:
        await request.give_error(404, RpcError(INVALID_REQUEST, "Session not found. Open another one."), number)
    return session
