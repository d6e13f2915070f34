"""The list of tools that is put as bytes into the SDK's answer."""

import asyncio
from typing import Any

import pytest

from config.mcp_lists import filled

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99"), (b"x-a", b"b")]}
TOOLS = b'[{"name":"echo"}]'


def sent_through(left: list[bytes], body: bytes) -> list[dict[str, Any]]:
    """What a client gets of an answer with this body."""
    got: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        got.append(dict(message))

    async def answer() -> None:
        send_filled = filled(left, send)
        await send_filled(dict(START))
        await send_filled({"type": "http.response.body", "body": body})

    asyncio.run(answer())
    return got


def test_the_list_takes_the_empty_ones_place_and_the_length_is_right() -> None:
    start, body = sent_through([TOOLS], b'{"id":1,"result":{"tools":[],"ttlMs":5}}')

    assert body["body"] == b'{"id":1,"result":{"tools":[{"name":"echo"}],"ttlMs":5}}'
    assert dict(start["headers"]) == {b"x-a": b"b", b"content-length": str(len(body["body"])).encode()}


def test_an_answer_without_a_list_passes_as_it_is() -> None:
    assert sent_through([], b'{"tools":[]}') == [START, {"type": "http.response.body", "body": b'{"tools":[]}'}]


def test_a_list_without_a_place_is_an_error_and_no_empty_list() -> None:
    with pytest.raises(RuntimeError, match="no empty list"):
        sent_through([TOOLS], b'{"result":{"tools": []}}')
