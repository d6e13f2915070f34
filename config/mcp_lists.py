"""Puts a list of tools that is kept as bytes into the SDK's answer.

For every list the SDK copies and encodes each definition, thirty milliseconds for a thousand. So the middleware answers
with an empty list and leaves the bytes with the request; on its way out the answer gets them in the empty list's place.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LEFT = "gatehouse.tools"
_EMPTY = b'"tools":[]'


def leave(request: Any, tools: bytes) -> bool:
    """Leave the encoded list with an HTTP request; False where there is none to leave it with (stdio)."""
    left: list[bytes] | None = request.scope.get(LEFT) if request is not None else None
    if left is None:
        return False
    left.append(tools)
    return True


def filled(left: list[bytes], send: Send) -> Send:
    """A `send` that fills the list in, if one was left; raises RuntimeError for an answer that has no place for it."""
    held: list[MutableMapping[str, Any]] = []

    async def fill(message: MutableMapping[str, Any]) -> None:
        if left and message["type"] == "http.response.start":
            held.append(message)
            return
        if held:
            message = {**message, "body": _with_list(message.get("body", b""), left[0])}
            await send(_of_length(held.pop(), len(message["body"])))
        await send(message)

    return fill


def _with_list(body: bytes, tools: bytes) -> bytes:
    before, empty, after = body.partition(_EMPTY)
    if not empty:
        raise RuntimeError("The answer to tools/list has no empty list to be filled.")
    return b"".join((before, b'"tools":', tools, after))


def _of_length(start: MutableMapping[str, Any], length: int) -> MutableMapping[str, Any]:
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    return {**start, "headers": [*headers, (b"content-length", str(length).encode())]}
