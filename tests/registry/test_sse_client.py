"""The client of servers over HTTP+SSE against servers that misbehave, byte for byte."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from apps.core import egress, logs
from apps.core.errors import BackendDown, BackendError, BackendTimeout, ServiceError
from apps.registry.backends.base import HttpRefusal
from apps.registry.backends.sse import Sse
from tests.registry.conftest import Evil, make_route, run
from tests.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
ENDPOINT = b"event: endpoint\ndata: /messages?session=1\n\n"
HELLO = {"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}


def event(message: Any) -> bytes:
    """One message on the stream."""
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


class Server:
    """A server in this loop: it sends these bytes on its stream, then answers each message as it is told to."""

    def __init__(self, *stream: bytes, answer: Callable[[dict[str, Any]], bytes] | None = None, ends: bool = False):
        self.stream = stream
        self.answer = answer or (lambda message: b"")
        self.ends = ends
        self.posted: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.status = b"202 Accepted"
        self.streams: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def running(self, settings: Any) -> AsyncIterator[str]:
        """Serve, and let the platform call it; gives the stream's address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
        try:
            yield f"http://127.0.0.1:{port}/sse"
        finally:
            server.close()
            for writer in self.streams:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if head.startswith(b"GET"):
            await self._send_stream(writer)
            return
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        message = json.loads(await reader.readexactly(length))
        self.posted.append(message)
        writer.write(b"HTTP/1.1 " + self.status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            self.streams[-1].write(self._answer_to(message))

    async def _send_stream(self, writer: asyncio.StreamWriter) -> None:
        self.streams.append(writer)
        with contextlib.suppress(ConnectionError):
            for piece in self.stream:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if self.ends:
                writer.close()

    def _answer_to(self, message: dict[str, Any]) -> bytes:
        if message.get("method") == "initialize":
            return event({"jsonrpc": "2.0", "id": message["id"], "result": HELLO})
        return self.answer(message)


def outcome(settings: Any, server: Server, *, seconds: float = 30.0, then: Callable[[Sse], Any] | None = None) -> Any:
    """What opening, and what comes after it, gives, or its error."""

    async def whole() -> Any:
        async with server.running(settings) as url:
            upstream = Sse(
                make_route(transport="sse", url=url, timeout_seconds=seconds, headers={"X-Key": "secret-key"})
            )
            try:
                hello = await upstream.open()
                return await then(upstream) if then else hello
            except ServiceError as error:
                return error
            finally:
                await upstream.aclose()
                assert [task for task in asyncio.all_tasks() if "Sse." in repr(task)] == []

    return run(whole)


async def echo(upstream: Sse, seconds: float = 30) -> Any:
    """One call."""
    return await upstream.request("tools/call", {"name": "echo", "arguments": {}}, timeout_seconds=seconds)


def test_the_stream_names_where_messages_go_and_brings_the_answers(settings: Any) -> None:
    server = Server(
        HEAD, b": hello\r\n\r\nevent: end", b"point\r\ndata: messages?session=1\r\n\r\n",
        answer=lambda message: event({"jsonrpc": "2.0", "id": message.get("id"), "result": {"content": []}}),
    )  # fmt: skip

    async def then(upstream: Sse) -> Any:
        mark = logs.request_id.set("req-1")
        try:
            return await echo(upstream)
        finally:
            logs.request_id.reset(mark)

    assert outcome(settings, server, then=then) == {"content": []}
    assert [message["method"] for message in server.posted] == [
        "initialize",
        "notifications/initialized",
        "tools/call",
    ]
    assert server.heads[0].startswith(b"GET /sse ")
    assert all(head.startswith(b"POST /messages?session=1 ") for head in server.heads[1:])
    assert all(b"x-key: secret-key" in head.lower() for head in server.heads)
    assert b"x-request-id: req-1" in server.heads[-1].lower()
    assert b"x-request-id" not in server.heads[0].lower()


@pytest.mark.parametrize(
    "address",
    [
        "http://evil.example/messages", "https://127.0.0.1/messages", "//evil.example/messages", "http://127.0.0.1:1/x",
        "http://169.254.169.254/latest/meta-data/", "http://localhost:6379/", "http://127.0.0.1@evil.example/",
        "http://2130706433/", "file:///etc/passwd", "gopher://127.0.0.1/",
        "/\\evil.example/x", "http://[::1/", "/a\x00b",
        "HTTP://127.0.0.1.evil.example/", "http://[::ffff:127.0.0.1]/", "/" + "a" * 3000,
    ],
)  # fmt: skip
def test_an_address_for_messages_elsewhere_or_unclear_gets_nothing(settings: Any, address: str) -> None:
    server = Server(HEAD, b"event: endpoint\ndata: " + address.encode() + b"\n\n")

    error = outcome(settings, server)

    assert isinstance(error, BackendError)
    assert "another origin" in error.message or "is none" in error.message
    assert server.posted == []


def test_a_second_address_for_messages_changes_nothing(settings: Any) -> None:
    again = b"event: endpoint\ndata: http://evil.example/messages\n\n"
    server = Server(HEAD, ENDPOINT + again + b"event: endpoint\ndata: /other\n\n")

    assert outcome(settings, server).protocol_version == "2024-11-05"
    assert {head.split()[1] for head in server.heads} == {b"/sse", b"/messages?session=1"}


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([HEAD], "did not name the address"),
        ([HEAD, *[bytes([byte]) for byte in ENDPOINT[:-1]]], "did not name the address"),
        ([HEAD, *[b": still there\n\n"] * 100], "did not name the address"),
    ],
)
def test_a_stream_without_an_address_for_messages_is_given_up_in_time(
    settings: Any, stream: list[bytes], message: str
) -> None:
    error = outcome(settings, Server(*stream), seconds=0.5)

    assert isinstance(error, BackendTimeout)
    assert message in error.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "no MCP endpoint"),
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "refuses our credentials"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n", "instead of an event stream"),
        (HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"), "compresses its answer"),
        (HEAD + b"data: not json\n\n", "not valid JSON"),
        (HEAD + b"data: " + b"x" * 70_000, "more than 50000 bytes"),
        (HEAD + b"event: endpoint\nid: 1\nretry: 1\n", "has closed its event stream"),
        (HEAD + ENDPOINT[:20], "has closed its event stream"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 900\r\n\r\n: x\n", "broke off"),
        (b"nonsense\r\n\r\n", "broke off"),
    ],
)
def test_each_wrong_beginning_has_an_error_that_says_what_is_wrong(settings: Any, answer: bytes, message: str) -> None:
    settings.UPSTREAM_MAX_RESULT_BYTES = 50_000

    error = outcome(settings, Server(answer, ends=True))

    assert isinstance(error, BackendError)
    assert message in error.message


def test_an_endless_stream_that_answers_nothing_is_disconnected(settings: Any) -> None:
    settings.UPSTREAM_MAX_RESULT_BYTES = 50_000
    note = event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "y" * 5000}})
    for flood in (note, b": " + b"y" * 5000 + b"\n\n", b"data:\n\n" * 1000):
        server = Server(HEAD, ENDPOINT, *[flood] * 100)

        error = outcome(settings, server, then=lambda upstream: echo(upstream, 5))

        assert isinstance(error, BackendError)
        assert "nobody asked for" in error.message


def test_answers_that_nobody_asked_for_are_dropped_and_questions_of_the_server_answered(settings: Any) -> None:
    server = Server(
        HEAD, ENDPOINT + event({"jsonrpc": "2.0", "id": 99, "result": {}}),
        event({"jsonrpc": "2.0", "id": "s1", "method": "sampling/createMessage", "params": {}}),
        answer=lambda message: (
            event({"jsonrpc": "2.0", "id": True, "result": {"content": ["wrong"]}})
            + event({"jsonrpc": "2.0", "id": str(message.get("id")), "result": {"content": ["wrong"]}})
            + event({"jsonrpc": "2.0", "id": message.get("id"), "result": {"content": []}})
            if message.get("method") == "tools/call"
            else b""
        ),
    )  # fmt: skip

    async def then(upstream: Sse) -> Any:
        await asyncio.sleep(0.1)
        return await echo(upstream)

    assert outcome(settings, server, then=then) == {"content": []}
    assert [message["error"]["code"] for message in server.posted if message.get("id") == "s1"] == [-32601]


def test_a_stream_that_breaks_fails_all_who_wait_and_nobody_is_answered_twice(settings: Any) -> None:
    server = Server(HEAD, ENDPOINT)

    async def then(upstream: Sse) -> Any:
        calls = [asyncio.create_task(echo(upstream, 10)) for _ in range(5)]
        await until(lambda: sum(message.get("method") == "tools/call" for message in server.posted) == 5)
        server.streams[0].transport.abort()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert not upstream.is_open
        return errors

    errors = outcome(settings, server, then=then)

    assert all(isinstance(error, BackendError) and not isinstance(error, BackendTimeout) for error in errors)
    assert sum(message.get("method") == "tools/call" for message in server.posted) == 5  # none was sent again


def test_a_session_that_the_server_has_forgotten_ends_the_link(settings: Any) -> None:
    server = Server(HEAD, ENDPOINT)

    async def then(upstream: Sse) -> Any:
        server.status = b"404 Not Found"
        with pytest.raises(HttpRefusal):
            await echo(upstream)
        return upstream.is_open

    assert outcome(settings, server, then=then) is False


def test_an_answer_that_drips_ends_with_the_deadline_and_the_server_is_told(settings: Any) -> None:
    server = Server(HEAD, ENDPOINT, answer=lambda message: b"data: {" if message.get("method") == "tools/call" else b"")

    async def then(upstream: Sse) -> Any:
        with pytest.raises(BackendTimeout, match=r"within 0\.3 seconds"):
            await echo(upstream, 0.3)
        await until(lambda: server.posted[-1]["method"] == "notifications/cancelled")
        return server.posted[-1]["params"]["requestId"]

    assert outcome(settings, server, then=then) == 2


def test_a_credential_that_the_server_repeats_in_an_error_is_masked(settings: Any) -> None:
    error = {"code": -32000, "message": "bad key secret-key"}
    server = Server(
        HEAD, ENDPOINT, answer=lambda message: event({"jsonrpc": "2.0", "id": message.get("id"), "error": error})
    )

    said = outcome(settings, server, then=echo)

    assert "secret-key" not in said.message
    assert "bad key" in said.message


@pytest.mark.slow_process
def test_streams_take_no_connection_from_other_calls(evil: Evil, monkeypatch: Any) -> None:
    monkeypatch.setattr(egress, "POOL_SIZE", 2)

    async def work() -> list[Any]:
        opened = [Sse(make_route(transport="sse", url=evil.sse_url)) for _ in range(4)]
        for upstream in opened:
            await upstream.open()
        try:
            return [await echo(upstream) for upstream in opened]
        finally:
            for upstream in opened:
                await upstream.aclose()

    assert len(run(work)) == 4
    while evil.control("streams"):
        time.sleep(0.01)


def test_an_operators_list_that_names_the_server_no_more_ends_its_calls(settings: Any) -> None:
    async def then(upstream: Sse) -> Any:
        settings.EGRESS_ALLOW = frozenset()
        return await echo(upstream)

    error = outcome(settings, Server(HEAD, ENDPOINT), then=then)

    assert isinstance(error, BackendDown)
