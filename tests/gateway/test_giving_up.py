"""Who gives up is told upstream, nothing is called twice, a network that misbehaves costs no more than the limit."""

import json
import shlex
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fixtures.faults import FaultProxy, Mode
from tests.fixtures.servers import evil_stdio_command
from tests.gateway.agent import BOTH, META, MODERN, Agent, add_tool, agent_of, change, offer
from tests.gateway.conftest import Evil, events
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
FAR_BELOW_THE_LIMIT_SECONDS = 15
"""A caller that leaves is noticed within two seconds on an idle machine; the limit of these calls is a minute."""
PROMISED_SECONDS = 2.0


def eventually(holds: Any, seconds: float = FAR_BELOW_THE_LIMIT_SECONDS) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def calling(live: Live, agent: Agent, tool: str, **arguments: Any) -> Iterator[socket.socket]:
    """A call whose answer nobody reads yet."""
    agent.open()
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    params = {"name": tool, "arguments": arguments, **({"_meta": meta} if agent.revision == MODERN else {})}
    body = json.dumps({"jsonrpc": "2.0", "id": "left", "method": "tools/call", "params": params}).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in agent._headers("tools/call", params).items())
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as wire:
        wire.sendall(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body
        )
        yield wire


# C22: who leaves, and who cancels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
@pytest.mark.parametrize("spoken", BOTH)
def test_a_caller_that_leaves_ends_the_call_upstream_and_makes_room(
    live: Live, alice: Person, evil: Evil, revision: str, spoken: str
) -> None:
    offer(
        alice, "up", evil.url, tools=("hang", "echo"), timeout_seconds=60.0, max_concurrency=1, protocol_version=spoken
    )
    agent = agent_of(live, alice, revision)

    with calling(live, agent, "up__hang"):
        eventually(lambda: evil.seen("calls") == {"hang": 1})

    eventually(lambda: evil.seen("cancelled") == {"hang": 1})
    assert agent.text("up__echo", text="there is room") == "there is room"
    assert [(each.name, each.status, each.error_code) for each in events()] == [
        ("up__hang", "error", "CANCELLED"), ("up__echo", "ok", ""),
    ]  # fmt: skip


def test_a_call_that_its_session_cancels_ends_upstream_too(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("hang", "echo"), timeout_seconds=60.0, max_concurrency=1)
    agent = agent_of(live, alice)

    with calling(live, agent, "up__hang") as wire:
        eventually(lambda: evil.seen("calls") == {"hang": 1})
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "left"}}
        assert agent.post(json.dumps(note).encode()).status == 202
        eventually(lambda: evil.seen("cancelled") == {"hang": 1})
        assert wire.recv(1000).startswith(b"HTTP/1.1 202")

    assert agent.text("up__echo", text="there is room") == "there is room"


@pytest.mark.parametrize("transport", ["sse", "stdio"])
def test_a_caller_that_leaves_makes_room_over_the_other_transports_too(
    live: Live, alice: Person, evil: Evil, settings: Any, transport: str
) -> None:
    command = evil_stdio_command()
    settings.STDIO_ALLOW = (shlex.join(command),)
    where = {"url": f"http://127.0.0.1:{evil.port}/sse"} if transport == "sse" else {"command": command}
    tool, arguments = ("hang", {}) if transport == "sse" else ("sleep", {"ms": 600_000})
    offer(alice, "up", tools=(tool, "echo"), timeout_seconds=60.0, max_concurrency=1, transport=transport, **where)
    agent = agent_of(live, alice)
    assert agent.text("up__echo", text="before") == "before"

    with calling(live, agent, f"up__{tool}", **arguments):
        time.sleep(1)
    began = time.monotonic()

    assert agent.text("up__echo", text="there is room") == "there is room"
    assert time.monotonic() - began < FAR_BELOW_THE_LIMIT_SECONDS
    if transport == "sse":
        eventually(lambda: evil.seen("cancelled") == {"hang": 1})
    assert [(each.name, each.status, each.error_code) for each in events()][1:] == [
        (f"up__{tool}", "error", "CANCELLED"), ("up__echo", "ok", ""),
    ]  # fmt: skip


@pytest.mark.measured
@pytest.mark.parametrize("revision", BOTH)
@pytest.mark.parametrize("spoken", BOTH)
def test_a_server_knows_within_two_seconds_that_its_caller_has_left(
    live: Live, alice: Person, evil: Evil, revision: str, spoken: str
) -> None:
    offer(alice, "up", evil.url, tools=("hang",), timeout_seconds=60.0, protocol_version=spoken)
    with calling(live, agent_of(live, alice, revision), "up__hang"):
        eventually(lambda: evil.seen("calls") == {"hang": 1})
        time.sleep(1)

    eventually(lambda: evil.seen("cancelled") == {"hang": 1}, PROMISED_SECONDS)


# C20: many that hang ----------------------------------------------------------------------------------------------


def test_fifty_calls_that_hang_hold_up_nobody_else(live: Live, alice: Person, evil: Evil, good: Evil) -> None:
    offer(alice, "hung", evil.url, tools=("hang",), timeout_seconds=60.0, max_concurrency=64)
    offer(alice, "good", good.url)
    rest, key = live.rest(alice), live.key(alice)
    agents = [Agent(live.url, key, BOTH[number % 2]).open() for number in range(50)]
    threads = ThreadPoolExecutor(50)
    stuck = [threads.submit(agent.call, "hung__hang") for agent in agents]
    eventually(lambda: evil.seen("calls") == {"hang": 50})

    for revision in BOTH:
        agent = agent_of(live, alice, revision)
        for number in range(25):
            assert agent.text("good__echo", text=str(number)) == str(number)
    assert rest.get("/api/v1/mcp/servers").status == 200
    assert live.anonymous().get("/ready").status == 200

    assert not any(each.done() for each in stuck)
    evil.process.stop()
    assert all(each.result()["isError"] for each in stuck)
    threads.shutdown()


# C24: nothing is called twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoken", BOTH)
def test_a_call_that_failed_is_not_made_again(
    live: Live, alice: Person, evil: Evil, settings: Any, spoken: str
) -> None:
    settings.BREAKER_FAILURES = 100
    server = offer(alice, "up", evil.url, tools=(), timeout_seconds=1.0, protocol_version=spoken)
    tools = ("not_json", "wrong_id", "redirect", "hang", "is_error")
    for number, tool in enumerate(tools):  # what says that it only reads is not called twice either
        hints = {"readOnlyHint": bool(number % 2), "idempotentHint": bool(number % 2)}
        definition = {"name": tool, "inputSchema": {"type": "object"}, "annotations": hints}
        add_tool(server, tool, definition=definition, approved_definition=definition)
    change(server, timeout_seconds=1.0)
    agent = agent_of(live, alice)

    for tool in tools:
        assert agent.call(f"up__{tool}")["isError"] is True

    assert evil.seen("calls") == dict.fromkeys(tools, 1)


@pytest.mark.parametrize("spoken", BOTH)
def test_a_call_whose_connection_is_reset_is_not_made_again(
    live: Live, alice: Person, evil: Evil, settings: Any, spoken: str
) -> None:
    with FaultProxy(evil.port) as proxy, ThreadPoolExecutor(1) as thread:
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{proxy.port}"})
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        offer(alice, "up", url, tools=("drip", "echo"), timeout_seconds=60.0, protocol_version=spoken)
        agent = agent_of(live, alice)
        failing = thread.submit(agent.failure, "up__drip")
        eventually(lambda: evil.seen("calls") == {"drip": 1})
        proxy.cut()

        assert failing.result(30)["code"] in ("BACKEND_DOWN", "BACKEND_FAILED")
        assert agent.text("up__echo", text="again") == "again"
        assert evil.seen("calls") == {"drip": 1, "echo": 1}


# L20: a network that misbehaves -----------------------------------------------------------------------------------

ENDS = {
    "late": None, "swallow": ("BACKEND_TIMEOUT",), "drip": ("BACKEND_TIMEOUT",), "refuse": ("BACKEND_DOWN",),
    "half": ("BACKEND_DOWN", "BACKEND_FAILED", "BACKEND_TIMEOUT"),
}  # fmt: skip


@pytest.mark.parametrize("spoken", BOTH)
def test_a_network_that_misbehaves_costs_no_more_than_the_limit_and_is_used_again_at_once(
    live: Live, alice: Person, evil: Evil, settings: Any, spoken: str
) -> None:
    settings.BREAKER_FAILURES = 100
    with FaultProxy(evil.port) as proxy:
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{proxy.port}"})
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        server = offer(alice, "up", url, timeout_seconds=30.0, protocol_version=spoken)
        agents = [agent_of(live, alice, revision) for revision in BOTH]
        for agent in agents:
            assert agent.text("up__echo", text="before") == "before"

        for mode, codes in ENDS.items():
            set_mode(proxy, server, mode, seconds=30.0 if codes is None else 1.0)
            for agent in agents:
                began = time.monotonic()
                result = agent.call("up__echo", text=mode)
                if codes is None:
                    assert result["content"][0]["text"] == mode
                else:
                    assert result["_meta"]["gatehouse/error"]["code"] in codes, (mode, result)
                assert time.monotonic() - began < FAR_BELOW_THE_LIMIT_SECONDS, mode
            set_mode(proxy, server, "pass", seconds=30.0)
            for agent in agents:
                assert agent.text("up__echo", text="after") == "after", mode


def set_mode(proxy: FaultProxy, server: Any, mode: Mode, *, seconds: float) -> None:
    """Let the network behave in another way, with another limit for calls."""
    change(server, timeout_seconds=seconds)
    proxy.set(mode)
    if mode == "pass":
        proxy.cut()
