"""What a server says beside its answers, and what it asks, against servers that really do so."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from apps.core import egress
from apps.core.errors import BackendTimeout
from apps.registry.backends import hearing, wire
from apps.registry.backends.base import Refused, ServerRoute, Unanswered, Upstream, UpstreamError
from apps.registry.services.routes import connect
from tests.fixtures import servers
from tests.fixtures.evil_upstream import SPEAKING
from tests.registry.conftest import Evil, make_route, run
from tests.registry.test_http_client import Scripted, http

pytestmark = pytest.mark.slow_process
CONFORMANCE = [sys.executable, "-m", "tests.fixtures.conformance"]
CAN = {"sampling": {}, "elicitation": {"form": {}}, "roots": {}}
WAITS = 20.0
Said = tuple[str, dict[str, Any]]
Answer = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def refuse(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Nobody is there."""
    raise Refused(-1, "The user said no.", {"why": "tired"})


async def accept(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Somebody is there."""
    return {"action": "accept", "content": {"name": "Alice"}}


class Ear:
    """A listener that remembers, and answers as it is told to."""

    def __init__(self, answer: Answer = refuse) -> None:
        self.heard: list[Said] = []
        self.questions: list[Said] = []
        self.cancelled = 0
        self._answer = answer
        self._changed = asyncio.Event()

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Remember."""
        self.heard.append((method, dict(params)))
        self._changed.set()

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Remember, and answer."""
        self.questions.append((method, dict(params)))
        self._changed.set()
        try:
            return await self._answer(method, params)
        except asyncio.CancelledError:
            self.cancelled += 1
            self._changed.set()
            raise

    def of(self, method: str) -> list[dict[str, Any]]:
        """What was said by this method."""
        return [params for name, params in self.heard if name == method]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for something to have been heard."""
        async with asyncio.timeout(WAITS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(scope="session")
def conformance_port() -> Iterator[int]:
    """The server of the conformance suite over HTTP."""
    port = servers.free_port()
    with servers.Forked([*CONFORMANCE, "--port", str(port)], ready=port):
        yield port


@pytest.fixture
def legacy(conformance_port: int, settings: Any) -> ServerRoute:
    """The way to it in the older era."""
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{conformance_port}"})
    return make_route(url=f"http://127.0.0.1:{conformance_port}/mcp", protocol_version="2025-11-25")


@pytest.fixture
def modern(conformance_port: int, settings: Any) -> ServerRoute:
    """The way to it in the newest."""
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{conformance_port}"})
    return make_route(url=f"http://127.0.0.1:{conformance_port}/mcp", protocol_version="2026-07-28")


@pytest.fixture
def speaking(evil: Evil) -> Evil:
    """The misbehaving server, with the tools that speak and ask beside their answers."""
    evil.offer({"name": "echo", "inputSchema": {"type": "object"}}, *SPEAKING)
    return evil


def evil_route(evil: Evil, way: str = "url") -> ServerRoute:
    """The way to it, over streamable HTTP of 2025 or over HTTP+SSE."""
    if way == "sse_url":
        return make_route(transport="sse", url=evil.sse_url)
    return make_route(url=evil.url, protocol_version="2025-11-25")


def opened(route: ServerRoute, work: Callable[[Upstream], Awaitable[Any]], **given: Any) -> Any:
    """Open, work, close."""

    async def whole() -> Any:
        upstream = connect(route, **given)
        await upstream.open()
        try:
            return await work(upstream)
        finally:
            await upstream.aclose()

    return run(whole)


async def call(
    upstream: Upstream, name: str, ear: Ear, seconds: float = WAITS, *, meta: Any = None, can: Any = None, **args: Any
) -> dict[str, Any]:
    """One tool call."""
    params = {"name": name, "arguments": args, **({"_meta": meta} if meta else {})}
    return await upstream.request("tools/call", params, timeout_seconds=seconds, listener=ear, capabilities=can)


def text_of(result: Mapping[str, Any]) -> str:
    """The first block of a result."""
    return str(result["content"][0]["text"])


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_progress_is_heard_in_order_under_the_callers_own_token(era: str, request: Any) -> None:
    async def work(upstream: Upstream) -> None:
        ear = Ear()

        await call(upstream, "test_tool_with_progress", ear, meta={"progressToken": "mine"})

        told = ear.of("notifications/progress")
        assert [each["progress"] for each in told] == [0, 50, 100]
        assert {each["progressToken"] for each in told} == {"mine"}

    opened(request.getfixturevalue(era), work)


def test_a_question_within_a_call_is_answered_by_whoever_made_the_call(legacy: ServerRoute) -> None:
    async def fill_in(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"action": "accept", "content": {"username": "alice", "email": "a@example.org"}}

    async def work(upstream: Upstream) -> None:
        ear = Ear(fill_in)

        said = await call(upstream, "test_elicitation", ear, message="Who are you?")

        assert '"username": "alice"' in text_of(said)
        assert [(method, params["message"]) for method, params in ear.questions] == [
            ("elicitation/create", "Who are you?")
        ]

    opened(legacy, work, capabilities=CAN)


def test_a_slow_person_does_not_use_up_the_time_of_the_call(legacy: ServerRoute) -> None:
    async def work(upstream: Upstream) -> None:
        async def slowly(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            with pytest.raises(TimeoutError):  # longer than the call may take
                await asyncio.wait_for(asyncio.Event().wait(), 4)
            return {"action": "decline"}

        said = await call(upstream, "test_elicitation", Ear(slowly), 3.5, message="Who?")
        assert "action=decline" in text_of(said)

        with pytest.raises(BackendTimeout) as refused:
            await call(upstream, "test_tool_with_progress", Ear(), 0.05)  # nobody is asked: it holds
        assert not isinstance(refused.value, Unanswered)

    opened(legacy, work, capabilities=CAN)


# What may be asked, and by whom ----------------------------------------------------------------------------------


def test_a_refusal_of_the_listener_is_the_error_that_the_server_gets(speaking: Evil) -> None:
    async def work(upstream: Upstream) -> None:
        await call(upstream, "ask", Ear(refuse), ids=["a"])

    opened(evil_route(speaking), work, capabilities=CAN)

    [reply] = speaking.control("replies")
    assert reply["error"] == {"code": -1, "message": "The user said no.", "data": {"why": "tired"}}


@pytest.mark.parametrize(
    "wrong",
    [None, "no object", {"x": {1: "a name that is no text"}}, {"x": "\ud800"}, {"x": 2**70}, {"x": object()}],
    ids=["nothing", "text", "name", "surrogate", "number", "object"],
)
def test_an_answer_that_json_cannot_carry_becomes_an_error(speaking: Evil, wrong: Any) -> None:
    async def answer(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return wrong  # type: ignore[no-any-return]

    async def work(upstream: Upstream) -> None:
        await call(upstream, "ask", Ear(answer), ids=["a"])

    opened(evil_route(speaking), work, capabilities=CAN)

    [reply] = speaking.control("replies")
    assert reply["error"]["code"] == -32603


def test_without_a_listener_questions_are_refused_and_notices_dropped(speaking: Evil) -> None:
    async def work(upstream: Upstream) -> None:
        asked = {"name": "ask", "arguments": {"ids": ["a"]}, "_meta": {"progressToken": "mine"}}
        await upstream.request("tools/call", asked, timeout_seconds=WAITS)

    opened(evil_route(speaking), work)

    [reply] = speaking.control("replies")
    assert reply["error"]["code"] == -32601


def test_a_question_is_answered_once_however_often_it_comes(speaking: Evil) -> None:
    async def work(upstream: Upstream) -> tuple[Ear, str]:
        ear = Ear(accept)
        return ear, text_of(await call(upstream, "ask", ear, ids=[1, 1, "1", 2, 1, 3]))

    ear, said = opened(evil_route(speaking), work, capabilities=CAN)

    assert [params["message"] for _, params in ear.questions] == [
        "Question 1?",
        "Question 1?",
        "Question 2?",
        "Question 3?",
    ]  # fmt: skip  (a number and a text are two ids)
    assert sorted(str(reply["id"]) for reply in json.loads(said)) == ["1", "1", "2", "3"]


def test_more_than_sixteen_questions_at_once_are_refused(speaking: Evil) -> None:
    async def work(upstream: Upstream) -> Ear:
        async def when_all_are_there(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            await ear.until(lambda: len(ear.questions) == 16)
            await asyncio.to_thread(until_replied, speaking, 4)
            return {"action": "accept"}

        ear = Ear(when_all_are_there)
        await call(upstream, "ask", ear, ids=[*range(20), 0])
        return ear

    ear = opened(evil_route(speaking), work, capabilities=CAN)

    assert len(ear.questions) == 16
    assert [reply["error"]["code"] for reply in speaking.control("replies") if "error" in reply] == [-32603] * 4


def until_replied(evil: Evil, count: int) -> None:
    """Wait until the server has so many replies."""
    deadline = time.monotonic() + WAITS
    while len(evil.control("replies")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("way", ["url", "sse_url"])
def test_a_question_that_is_taken_back_is_not_answered(speaking: Evil, way: str) -> None:
    async def work(upstream: Upstream) -> tuple[Ear, str]:
        async def think(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            if params["message"] == "Never mind?":
                await asyncio.Event().wait()
            await ear.until(lambda: ear.cancelled)
            return {"action": "accept"}

        ear = Ear(think)
        return ear, text_of(await call(upstream, "withdraw", ear))

    ear, said = opened(evil_route(speaking, way), work, capabilities=CAN)

    assert ear.cancelled == 1
    assert [reply["id"] for reply in json.loads(said) if reply.get("result")] == ["second"]


def test_who_was_asked_for_a_request_that_has_ended_need_not_answer(speaking: Evil) -> None:
    async def work(upstream: Upstream) -> None:
        async def think(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        ear = Ear(think)
        assert text_of(await call(upstream, "ask_and_leave", ear)) == "left"
        await ear.until(lambda: ear.cancelled)
        await asyncio.to_thread(until_replied, speaking, 2)

        given_up = asyncio.create_task(call(upstream, "ask", ear, ids=["x"]))
        await ear.until(lambda: len(ear.questions) == 2)
        given_up.cancel()
        await ear.until(lambda: ear.cancelled == 2)
        await asyncio.to_thread(until_replied, speaking, 3)

    opened(evil_route(speaking), work, capabilities=CAN)

    failed = [(reply["id"], reply["error"]["code"]) for reply in speaking.control("replies") if "error" in reply]
    assert failed == [("left", -32800), ("x", -32800)]
    assert "notifications/cancelled" in [seen[":rpc"] for seen in speaking.control("headers")]


def test_the_patience_of_a_request_has_an_end(speaking: Evil, monkeypatch: Any) -> None:
    monkeypatch.setattr(hearing.Exchange, "__init__", impatient(hearing.Exchange.__init__))

    async def work(upstream: Upstream) -> None:
        async def think(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        ear = Ear(think)
        with pytest.raises(Unanswered):
            await call(upstream, "ask", ear, 0.5, ids=["x"])
        await ear.until(lambda: ear.cancelled)

    opened(evil_route(speaking), work, capabilities=CAN)


def test_who_has_answered_is_not_to_blame_for_what_comes_after() -> None:
    async def story(*, is_late: bool) -> None:
        limit = asyncio.timeout_at(0)
        exchange = hearing.Exchange(1, Ear(), None, limit, asyncio.get_running_loop().time() + 0.1)
        exchange.patience = 0.1
        exchange.pause()
        if not is_late:
            exchange.resume()
        with pytest.raises(TimeoutError):
            async with limit:
                await asyncio.Event().wait()
        exchange.check_answered()

    asyncio.run(story(is_late=False))
    with pytest.raises(Unanswered):
        asyncio.run(story(is_late=True))


def impatient(begin: Callable[..., None]) -> Callable[..., None]:
    """Exchanges that wait for a second only."""

    def shorter(self: Any, *given: Any, **more: Any) -> None:
        begin(self, *given, **more)
        self.patience = 1.0

    return shorter


@pytest.mark.parametrize("way", ["url", "sse_url"])
def test_our_own_credentials_are_masked_in_notices_and_in_questions(speaking: Evil, way: str) -> None:
    async def work(upstream: Upstream) -> Ear:
        ear = Ear(accept)
        await call(upstream, "whisper", ear)
        return ear

    route = replace(evil_route(speaking, way), headers={"Authorization": "Bearer planted-secret"})
    ear = opened(route, work, capabilities=CAN)

    assert "authorization" in str(ear.heard)
    assert "authorization" in str(ear.questions)
    assert "planted-secret" not in str(ear.heard) + str(ear.questions)


# What is heard, and by whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["url", "sse_url"])
def test_progress_of_others_and_progress_after_the_answer_is_heard_by_nobody(speaking: Evil, way: str) -> None:
    async def work(upstream: Upstream) -> None:
        ear = Ear()
        await call(upstream, "stray", ear, meta={"progressToken": "mine"})
        await call(upstream, "echo", ear, text="whatever came late has been read now")
        assert ear.of("notifications/progress") == [{"progressToken": "mine", "progress": 9}]

        unwanted = Ear()
        await call(upstream, "stray", unwanted)
        assert unwanted.heard == []

    opened(evil_route(speaking, way), work)


@pytest.mark.parametrize("way", ["url", "sse_url"])
def test_a_flood_of_notices_is_cut_and_the_answer_still_comes(speaking: Evil, way: str) -> None:
    async def work(upstream: Upstream) -> tuple[Ear, Ear]:
        many, long = Ear(), Ear()
        assert text_of(await call(upstream, "flood", many, 60, count=20_000)) == "flooded"
        assert text_of(await call(upstream, "flood", long, 60, count=20, length=500_000)) == "flooded"
        return many, long

    many, long = opened(evil_route(speaking, way), work)

    # What comes in the time of the flood is added; it takes seconds, not minutes.
    assert hearing.NOTICES_AT_ONCE <= len(many.heard) < 20_000
    assert [params["data"].split()[0] for _, params in many.heard[:1000]] == [str(number) for number in range(1000)]
    assert 1 <= len(long.heard) < 20


def test_the_lines_of_a_servers_log_are_heard_by_whoever_made_the_call(legacy: ServerRoute) -> None:
    async def work(upstream: Upstream) -> None:
        ear = Ear()
        await call(upstream, "test_tool_with_logging", ear)
        assert [params["data"] for params in ear.of("notifications/message")] == [
            "Tool execution started", "Tool processing data", "Tool execution completed",
        ]  # fmt: skip

    opened(legacy, work)


def test_in_2026_a_log_comes_at_the_level_that_the_call_asks_for(modern: ServerRoute) -> None:
    async def work(upstream: Upstream) -> None:
        silent, loud = Ear(), Ear()
        await call(upstream, "test_logging_tool", silent)
        await call(upstream, "test_logging_tool", loud, meta={"io.modelcontextprotocol/logLevel": "alert"})
        assert [params["level"] for params in silent.of("notifications/message")] == []
        assert [params["level"] for params in loud.of("notifications/message")] == ["alert", "emergency"]

    opened(modern, work)


def test_a_model_is_asked_within_a_call(legacy: ServerRoute) -> None:
    async def sample(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        assert (method, params["maxTokens"]) == ("sampling/createMessage", 100)
        return {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Four."}}

    async def work(upstream: Upstream) -> None:
        assert text_of(await call(upstream, "test_sampling", Ear(sample), prompt="2 + 2?")) == "LLM response: Four."

    opened(legacy, work, capabilities=CAN)


def test_what_a_caller_of_2026_can_do_is_said_with_each_request_and_by_nobody_else(modern: ServerRoute) -> None:
    theirs = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}

    async def work(upstream: Upstream) -> None:
        assert text_of(await call(upstream, "test_missing_capability", Ear(), can={"sampling": {}}))
        for given in ({"can": {}}, {"meta": theirs}):
            with pytest.raises(UpstreamError) as refusal:
                await call(upstream, "test_missing_capability", Ear(), **given)
            assert refusal.value.rpc_code == -32021

    opened(modern, work)


def test_two_calls_to_one_child_hear_their_own_progress_and_questions(settings: Any) -> None:
    script = servers.FIXTURES / "revisions.py"
    command = (sys.executable, str(script), "--revision", "2025-11-25", "--stdio")
    settings.STDIO_ALLOW = (" ".join(command),)

    async def work(upstream: Upstream) -> None:
        one, two, nobody = Ear(), Ear(), Ear(accept)
        await asyncio.gather(
            call(upstream, "count", one, meta={"progressToken": "same"}, to=20),
            call(upstream, "count", two, meta={"progressToken": "same"}, to=30),
            call(upstream, "count", nobody, to=10),
        )
        assert [params["progress"] for params in one.of("notifications/progress")] == list(range(1, 21))
        assert [params["progress"] for params in two.of("notifications/progress")] == list(range(1, 31))
        assert nobody.heard == []

        assert text_of(await call(upstream, "ask", nobody, message="Only you?")).startswith("accept")
        await asyncio.gather(call(upstream, "ask", one, message="Who of you?"), call(upstream, "count", two, to=20))
        assert (one.questions, two.questions) == ([], [])
        assert [params["message"] for _, params in connection.questions] == ["Who of you?"]

    connection = Ear(accept)
    route = make_route(transport="stdio", command=command, timeout_seconds=WAITS)
    opened(route, work, capabilities=CAN, listener=connection)


# The stream of what nobody asked ---------------------------------------------------------------------------------

HELLO = (
    b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s"}}}'
)


def note(number: int) -> bytes:
    """A notice, as an event's data."""
    return b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%d}}' % number


def scripted(
    settings: Any, *answers: bytes, until: Callable[[Ear, Scripted], bool], ear: Ear, quiet_seconds: float = 0
) -> list[bytes]:
    """Listen to a server of 2025 that answers byte for byte, until something is so; what it was sent."""
    server = Scripted(http(HELLO), http(b"", status="202 Accepted", extra="content-length: 0\r\n"), *answers)

    async def work() -> None:
        async with server as url:
            settings.EGRESS_ALLOW = frozenset({url.removeprefix("http://").removesuffix("/mcp")})
            upstream = connect(make_route(url=url, protocol_version="2025-11-25"))
            await upstream.open()
            listening = asyncio.create_task(upstream.listen({}, ear))
            async with asyncio.timeout(WAITS):
                while not until(ear, server):  # noqa: ASYNC110 - the server may be what it waits for
                    await asyncio.sleep(0.02)
            await asyncio.sleep(quiet_seconds)
            assert not listening.done()
            await upstream.aclose()
            await listening

    run(work)
    return server.requests


def test_a_stream_of_notices_that_breaks_off_is_resumed_where_it_was_and_when_the_server_says(settings: Any) -> None:
    first = http(b"retry: 300\nid: 7\ndata: " + note(1) + b"\n\nid: 8\ndata: " + note(2) + b"\n\n", "text/event-stream")
    second = http(b"id: 9\ndata: " + note(3) + b"\n\n", "text/event-stream")
    ear = Ear()
    began = time.monotonic()

    requests = scripted(settings, first, second, until=lambda ear, _: len(ear.heard) == 3, ear=ear)

    assert [params["data"] for _, params in ear.heard] == [1, 2, 3]
    streams = [each for each in requests if each.startswith(b"GET ")]
    assert b"last-event-id" not in streams[0].lower()
    assert b"last-event-id: 8" in streams[1].lower()
    assert time.monotonic() - began > 0.3


def test_a_server_without_a_stream_of_notices_is_asked_for_it_once(settings: Any) -> None:
    refused = http(b"", status="405 Method Not Allowed")

    requests = scripted(
        settings, refused, until=lambda _, server: len(server.requests) == 3, ear=Ear(), quiet_seconds=2
    )

    assert [each[:4] for each in requests] == [b"POST", b"POST", b"GET "]


def test_a_server_that_answers_404_and_keeps_its_session_has_no_stream_either(settings: Any) -> None:
    nothing, pong = http(b"", status="404 Not Found"), http(b'{"jsonrpc":"2.0","id":3,"result":{}}')

    requests = scripted(
        settings, nothing, pong, until=lambda _, server: len(server.requests) == 4, ear=Ear(), quiet_seconds=2
    )

    assert b'"ping"' in requests[3]
    assert len(requests) == 4


def test_a_question_on_that_stream_is_answered_by_whoever_listens(settings: Any) -> None:
    asked = b'{"jsonrpc":"2.0","id":"q1","method":"roots/list"}'
    stream = http(b"retry: 60000\ndata: " + asked + b"\n\n", "text/event-stream")

    async def answer(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"roots": [{"uri": "file:///home"}]}

    requests = scripted(settings, stream, until=lambda _, server: len(server.requests) == 4, ear=Ear(answer))

    assert b'{"jsonrpc":"2.0","id":"q1","result":{"roots":[{"uri":"file:///home"}]}}' in requests[3]


def test_all_who_listen_to_a_session_share_its_one_stream_of_notices(speaking: Evil) -> None:
    async def work(upstream: Upstream) -> None:
        listening = [asyncio.create_task(upstream.listen({}, Ear())) for _ in range(3)]
        await call(upstream, "echo", Ear(), text="x")
        listening.pop().cancel()
        await asyncio.to_thread(until_streamed, speaking)
        await call(upstream, "echo", Ear(), text="x")
        assert not any(task.done() for task in listening)

    opened(evil_route(speaking), work)

    assert [seen[":method"] for seen in speaking.control("headers")].count("GET") == 1


def until_streamed(evil: Evil) -> None:
    """Wait until somebody has opened the stream of notices."""
    deadline = time.monotonic() + WAITS
    while "GET" not in [seen[":method"] for seen in evil.control("headers")]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_server_says_too_fast_on_that_stream_waits_in_the_network(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(hearing, "NOTICES_AT_ONCE", 10)
    events = b"".join(b"data: " + note(number) + b"\n\n" for number in range(1000))
    ear = Ear()
    stream = http(b"retry: 60000\n" + events, "text/event-stream")

    scripted(settings, stream, until=lambda ear, _: len(ear.heard) > 30, ear=ear)

    assert len(ear.heard) < 1000


def test_neither_listening_nor_answering_needs_a_connection_of_the_pool(
    speaking: Evil, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(egress, "POOL_SIZE", 1)

    async def work(upstream: Upstream) -> None:
        listening = [asyncio.create_task(upstream.listen({}, Ear())) for _ in range(3)]
        await asyncio.to_thread(until_streamed, speaking)
        ear = Ear(accept)
        assert text_of(await call(upstream, "ask", ear, ids=["while the only connection is taken"]))
        assert not any(task.done() for task in listening)

    opened(evil_route(speaking), work, capabilities=CAN)


# What a server is told of the caller -----------------------------------------------------------------------------

META = "io.modelcontextprotocol/"
SAID = {
    "progressToken": "theirs", "traceparent": "00-1", META + "logLevel": "info", META + "protocolVersion": "1999-01-01",
    META + "clientInfo": {"name": "somebody"}, META + "clientCapabilities": {"roots": {}},
}  # fmt: skip


@pytest.mark.parametrize("era", ["2025", "2026"])
def test_what_is_ours_to_say_is_said_by_nobody_else(era: str) -> None:
    ours = wire.modern_meta(wire.introduction(None, None)) if era == "2026" else {}

    def sent(**given: Any) -> Any:
        return json.loads(wire.encode_request(7, "tools/call", {"name": "x", "_meta": SAID}, ours, **given))["params"]

    assert sent(with_progress=True)["_meta"] == {
        "progressToken": 7, "traceparent": "00-1", META + "logLevel": "info", **ours,
    }  # fmt: skip
    assert "progressToken" not in sent()["_meta"]
    assert SAID["progressToken"] == "theirs"  # what the caller gave is left as it was


def test_a_session_begins_with_what_its_client_is_and_can_do(settings: Any) -> None:
    server = Scripted(http(HELLO))

    async def work() -> None:
        async with server as url:
            settings.EGRESS_ALLOW = frozenset({url.removeprefix("http://").removesuffix("/mcp")})
            route = make_route(url=url, protocol_version="2025-11-25")
            await connect(route, capabilities=CAN, client_info={"name": "inspector", "version": "2"}).open()

    run(work)

    said = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])["params"]
    assert (said["capabilities"], said["clientInfo"]) == (CAN, {"name": "inspector", "version": "2"})
