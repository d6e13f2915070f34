"""The client of streamable HTTP servers against one that misbehaves."""

import asyncio
import json
import signal
import time
from typing import Any

import psutil
import pytest

from apps.core import logs
from apps.core.errors import BackendDown, BackendError, BackendTimeout
from apps.registry.backends.base import HttpRefusal, ServerRoute, UpstreamError
from apps.registry.backends.http import StreamableHttp
from apps.registry.backends.web import events
from tests.registry.conftest import Evil, make_route, run

pytestmark = pytest.mark.slow_process
ERAS = ("2025-11-25", "2026-07-28")
ANSWERS = ("json", "sse")


async def call(upstream: StreamableHttp, name: str, seconds: float = 30, **arguments: Any) -> dict[str, Any]:
    """One tool call."""
    return await upstream.request("tools/call", {"name": name, "arguments": arguments}, timeout_seconds=seconds)


def called(route: ServerRoute, name: str, seconds: float = 30, **arguments: Any) -> dict[str, Any]:
    """Open, call once, close."""

    async def work() -> dict[str, Any]:
        upstream = StreamableHttp(route)
        await upstream.open()
        try:
            return await call(upstream, name, seconds, **arguments)
        finally:
            await upstream.aclose()

    return run(work)


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("era", ["", *ERAS])
def test_both_eras_are_spoken_and_both_kinds_of_answer_understood(evil: Evil, era: str, answers: str) -> None:
    evil.control("answers", "PUT", answers)

    result = called(make_route(url=evil.url, protocol_version=era), "echo", text="grüße")

    assert result["content"] == [{"type": "text", "text": "grüße"}]
    if era == "2025-11-25":
        assert evil.control("sessions") == []  # ended with DELETE


def test_a_known_server_of_the_newest_revision_costs_no_request_to_open(evil: Evil) -> None:
    async def work() -> str:
        upstream = StreamableHttp(make_route(url=evil.url, protocol_version="2026-07-28"))
        return (await upstream.open()).protocol_version

    assert run(work) == "2026-07-28"
    assert evil.control("headers") == []


def test_nothing_but_known_headers_and_the_credential_reaches_the_server(evil: Evil) -> None:
    token = logs.request_id.set("req-1")
    try:
        result = called(make_route(url=evil.url, headers={"Authorization": "Bearer upstream"}), "leak")
    finally:
        logs.request_id.reset(token)

    seen = json.loads(result["content"][0]["text"])
    assert seen["authorization"] == "Bearer upstream"
    assert seen["x-request-id"] == "req-1"
    assert set(seen) == {
        "host", "content-length", "content-type", "accept", "authorization", "x-request-id", "mcp-protocol-version",
        "mcp-method", "mcp-name",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("plain", "plain"),
        ("a\r\nX-Evil: 1", "=?base64?YQ0KWC1FdmlsOiAx?="),
        (True, "true"),
        (7, "7"),
        (" x", "=?base64?IHg=?="),
    ],
)
def test_arguments_that_a_tool_wants_in_headers_are_repeated_there_unharmed(
    evil: Evil, value: Any, header: str
) -> None:
    declared = {"echo": ((("text",), "Region"),)}

    called(make_route(url=evil.url, protocol_version="2026-07-28", param_headers=declared), "echo", text=value)

    seen = evil.control("headers")[-1]
    assert seen["mcp-param-region"] == header
    assert "x-evil" not in seen


def test_a_name_that_no_header_can_carry_is_sent_encoded(evil: Evil) -> None:
    evil.offer({"name": "größe", "inputSchema": {"type": "object"}})

    called(make_route(url=evil.url, protocol_version="2026-07-28"), "größe")

    assert evil.control("headers")[-1]["mcp-name"].startswith("=?base64?")


@pytest.mark.measured
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("tool", ["huge", "many_blocks"])
def test_an_answer_beyond_the_limit_is_cut_and_memory_stays_flat(
    evil: Evil, settings: Any, era: str, answers: str, tool: str
) -> None:
    settings.UPSTREAM_MAX_RESULT_BYTES = 2_000_000
    evil.control("answers", "PUT", answers)
    before = psutil.Process().memory_info().rss
    started = time.monotonic()

    with pytest.raises(BackendError, match="more than 2000000 bytes") as failure:
        called(make_route(url=evil.url, protocol_version=era), tool, 20)

    assert not isinstance(failure.value, BackendTimeout | UpstreamError)
    assert time.monotonic() - started < 5
    assert psutil.Process().memory_info().rss - before < 40_000_000


@pytest.mark.measured
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", ["hang", "drip", "endless_sse"])
def test_the_deadline_holds_whatever_the_server_does(evil: Evil, era: str, tool: str) -> None:
    started = time.monotonic()

    with pytest.raises(BackendTimeout):
        called(make_route(url=evil.url, protocol_version=era), tool, 1.0)

    assert 0.9 <= time.monotonic() - started <= 1.1 + 0.2  # the farewell to the session comes on top
    time.sleep(0.2)
    assert evil.control("cancelled") == {tool: 1}


@pytest.mark.measured
def test_a_server_that_is_stopped_fails_at_the_deadline(own_evil: Evil) -> None:
    own_evil.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()

    with pytest.raises(BackendTimeout):
        called(make_route(url=own_evil.url, protocol_version="2026-07-28"), "echo", 1.0, text="x")

    assert 0.9 <= time.monotonic() - started <= 1.1


@pytest.mark.parametrize("answers", ANSWERS)
def test_a_server_that_dies_in_the_middle_of_its_answer_gives_a_clean_error(own_evil: Evil, answers: str) -> None:
    own_evil.control("answers", "PUT", answers)

    with pytest.raises(BackendError, match=r"broke off|ended its answer"):
        called(make_route(url=own_evil.url, protocol_version="2026-07-28"), "crash")
    assert own_evil.process.popen is not None
    own_evil.process.popen.wait(30)
    with pytest.raises(BackendDown, match="cannot be reached"):
        called(make_route(url=own_evil.url, protocol_version="2026-07-28"), "echo", text="x")


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize(
    ("tool", "message"),
    [("wrong_id", "not asked"), ("not_json", "not valid JSON"), ("redirect", "redirects to another address")],
)
def test_an_answer_that_breaks_the_protocol_is_not_passed_on(evil: Evil, answers: str, tool: str, message: str) -> None:
    evil.control("answers", "PUT", answers)

    with pytest.raises(BackendError, match=message):
        called(make_route(url=evil.url, protocol_version="2026-07-28"), tool)


def test_a_json_rpc_error_keeps_its_code(evil: Evil) -> None:
    with pytest.raises(UpstreamError) as failure:
        called(make_route(url=evil.url), "nothing_of_the_kind")

    assert failure.value.rpc_code == -32602


def test_a_forgotten_session_is_opened_again_once_for_all_who_wait(evil: Evil) -> None:
    async def work() -> list[dict[str, Any]]:
        upstream = StreamableHttp(make_route(url=evil.url, protocol_version="2025-11-25"))
        await upstream.open()
        await asyncio.to_thread(evil.control, "sessions", "DELETE")
        return await asyncio.gather(*(call(upstream, "echo", text=str(number)) for number in range(20)))

    results = run(work)

    assert [result["content"][0]["text"] for result in results] == [str(number) for number in range(20)]
    assert [seen[":rpc"] for seen in evil.control("headers")].count("initialize") == 2
    assert evil.control("calls") == {"echo": 20}  # nothing was done twice


@pytest.mark.parametrize("refusal", [
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}',
    b"Bad Request: No valid session ID provided",
])  # fmt: skip
def test_a_forgotten_session_is_opened_again_where_the_server_answers_400(settings: Any, refusal: bytes) -> None:
    def hello(number: int) -> bytes:
        result = b'{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s"}}'
        return http(b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (number, result), extra="mcp-session-id: s1\r\n")

    notified = http(b"", status="202 Accepted")
    good = http(b'{"jsonrpc":"2.0","id":4,"result":{"content":[]}}')

    result, requests = scripted_call(
        settings,
        hello(1),
        notified,
        http(refusal, status="400 Bad Request"),
        hello(3),
        notified,
        good,
        era="2025-11-25",
    )

    assert result == {"content": []}
    assert [b"initialize" in request and b'"id"' in request for request in requests].count(True) == 2


def test_a_server_that_changed_its_era_is_asked_again(settings: Any) -> None:
    from tests.fixtures import servers

    for known, spoken, era in (("2026-07-28", "2025-11-25", "2025"), ("2025-11-25", "2026-07-28", "2026")):
        port = servers.free_port()
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
        with servers.evil_upstream(port, "--eras", era):
            route = make_route(url=f"http://127.0.0.1:{port}/mcp", protocol_version=known)

            async def work(route: ServerRoute = route) -> str:
                upstream = StreamableHttp(route)
                await upstream.open()
                await call(upstream, "echo", text="x")
                return upstream.protocol_version

            assert run(work) == spoken


def test_a_caller_who_goes_away_is_told_to_the_server(evil: Evil) -> None:
    async def work() -> None:
        upstream = StreamableHttp(make_route(url=evil.url, protocol_version="2025-11-25"))
        await upstream.open()
        task = asyncio.create_task(call(upstream, "hang", 30))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.3)

    run(work)

    assert evil.control("cancelled") == {"hang": 1}
    assert evil.control("headers")[-1][":rpc"] == "notifications/cancelled"


class Scripted:
    """A server in this loop that answers each request with the next of some HTTP messages, byte for byte."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []

    async def __aenter__(self) -> str:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port: int = self.server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/mcp"

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self.answers.pop(0) if self.answers else b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()


def http(body: bytes, kind: str = "application/json", status: str = "200 OK", extra: str = "") -> bytes:
    """An HTTP answer that ends with its connection."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n{extra}\r\n".encode() + body


def scripted_call(settings: Any, *answers: bytes, era: str = "2026-07-28") -> tuple[Any, list[bytes]]:
    """The result of a call, or its error, with what the server was sent."""
    server = Scripted(*answers)

    async def work() -> Any:
        async with server as url:
            settings.EGRESS_ALLOW = frozenset({url.removeprefix("http://").removesuffix("/mcp")})
            upstream = StreamableHttp(make_route(url=url, protocol_version=era))
            await upstream.open()
            try:
                return await call(upstream, "echo", 3)
            except BackendError as error:
                return error
            finally:
                await asyncio.sleep(0.2)

    return run(work), server.requests


GOOD = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'


def test_a_stream_is_read_over_line_ends_comments_and_requests_of_the_server(settings: Any) -> None:
    stream = (
        b': hello\r\n\r\nevent: message\r\ndata: {"jsonrpc":"2.0",\r\ndata: "method":"notifications/progress"}\r\n\r\n'
        b'data: {"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage","params":{}}\n\ndata: ' + GOOD + b"\n\n"
    )

    result, requests = scripted_call(settings, http(stream, "text/event-stream; charset=utf-8"))

    assert result == {"content": []}
    assert b'"id":"s1"' in requests[1]
    assert b"-32601" in requests[1]


def test_a_stream_that_ends_early_is_resumed_where_the_server_offers_it(settings: Any) -> None:
    begin = http(
        b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s"}}}'
    )
    notified = http(b"", status="202 Accepted", extra="content-length: 0\r\n")
    primed = http(b"id: 7\nretry: 100\ndata:\n\n", "text/event-stream")
    rest = http(b"data: " + GOOD.replace(b'"id":1', b'"id":2') + b"\n\n", "text/event-stream")

    result, requests = scripted_call(settings, begin, notified, primed, rest, era="2025-11-25")

    assert result == {"content": []}
    assert requests[3].startswith(b"GET ")
    assert b"last-event-id: 7" in requests[3].lower()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(b"\x1f\x8b", extra="content-encoding: gzip\r\n"), "compresses its answer"),
        (http(b"<html>", "text/html"), "instead of JSON"),
        (http(b"", status="401 Unauthorized"), "refuses our credentials"),
        (http(b"", status="404 Not Found"), "no MCP endpoint"),
        (http(b"", status="503 Busy"), "busy or down"),
        (http(b"", status="202 Accepted", extra="content-length: 0\r\n"), "gave no answer"),
        (http(b'{"jsonrpc":"2.0","id":1,"result":[]}'), "not a JSON object"),
        (http(b'{"jsonrpc":"2.0","id":1}'), "neither a result nor an error"),
        (http(b'{"jsonrpc":"2.0","id":true,"result":{}}'), "not asked"),
        (http(b'[{"jsonrpc":"2.0","id":1,"result":{}}]'), "not a JSON-RPC message"),
        (http(b'{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}'), "not valid JSON"),
        (http(b'{"jsonrpc":"2.0","id":1,"result":{"x":"\\ud800"}}'), "not valid JSON"),
        (http(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 5000 + b"]" * 5000 + b"}"), "not valid JSON"),
        (http(b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required"}}'), "asks for more input"),
        (http(b"data: {}\n\n", "text/event-stream"), "not a JSON-RPC message"),
        (http(b"data: x", "text/event-stream"), "without a result"),
    ],
)
def test_each_wrong_answer_has_an_error_that_says_what_is_wrong(settings: Any, answer: bytes, message: str) -> None:
    result, _ = scripted_call(settings, answer)

    assert isinstance(result, BackendError)
    assert message in result.message
    if isinstance(result, HttpRefusal):
        assert result.http_status >= 202


def test_events_are_never_kept_beyond_the_limit() -> None:
    async def read(*chunks: bytes) -> list[bytes]:
        async def stream() -> Any:
            for chunk in chunks:
                yield chunk

        return [b"\n".join(event.data) async for event in events(stream(), limit_bytes=100)]

    assert run(lambda: read(b"da", b"ta: a\n", b"data:b\n\nda", b"ta: c\n\n")) == [b"a\nb", b"c"]
    with pytest.raises(Exception, match="too long"):
        run(lambda: read(b"data: " + b"x" * 60, b"x" * 60))
    with pytest.raises(Exception, match="too long"):
        run(lambda: read(*[b"data: x\n"] * 50))


def test_a_session_id_that_no_header_can_carry_is_refused(settings: Any) -> None:
    answer = http(
        b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{}}}',
        extra="mcp-session-id: caf\u00e9 x\r\n",
    )

    with pytest.raises(BackendError, match="session id"):
        scripted_call(settings, answer, era="2025-11-25")
