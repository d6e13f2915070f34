"""What is held of large answers on their way: bounded, whoever asks at once, and whoever does not read."""

import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from apps.core import budget
from apps.core.budget import Budget
from apps.gateway import services as gateway
from config import mcp_held
from config.mcp_http import count_sessions
from tests.gateway.agent import MODERN, Agent, agent_of, offer
from tests.gateway.conftest import Evil
from tests.gateway.sse_speaker import speaking
from tests.live import Live
from tests.people import Person
from tests.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]
MEBIBYTE = 1024 * 1024
MOST = 4 * MEBIBYTE


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[int]:
    """How much was held, whenever that changed; the budget is four megabytes, two for an organisation."""
    settings.UPSTREAM_MAX_HELD_BYTES = MOST
    seen: list[int] = []
    account = Budget._account

    def noting(self: Budget, share: Any, size: int) -> None:
        account(self, share, size)
        seen.append(self.taken)

    monkeypatch.setattr(Budget, "_account", noting)
    return seen


def huge(agent: Agent, megabytes: int = 2) -> dict[str, Any]:
    """One call with a large answer."""
    return agent.call("up__huge", megabytes=megabytes)


@pytest.mark.parametrize("answers", ["json", "sse"])
def test_sixteen_large_answers_at_once_all_arrive_and_no_more_than_the_budget_is_held(
    live: Live, alice: Person, evil: Evil, held: list[int], answers: str
) -> None:
    evil.put("answers", answers)
    offer(alice, "up", evil.url, tools=("huge", "echo"), protocol_version=MODERN, max_concurrency=16)
    agents = [agent_of(live, alice, MODERN) for _ in range(4)]

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(huge, agents * 4))

    assert [len(result["content"][0]["text"]) for result in results] == [2 * MEBIBYTE] * 16
    assert max(held) <= MOST + 2 * MEBIBYTE
    assert max(held) > MEBIBYTE  # it was counted
    wait_until(lambda: held[-1] == 0)  # the last is given back a moment after its caller has it all


def test_who_does_not_read_is_left_and_meanwhile_others_are_refused_clearly_and_small_answers_pass(
    live: Live, alice: Person, evil: Evil, held: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_held, "LONGEST_PIECE_SECONDS", 8.0)
    server = offer(alice, "up", evil.url, tools=("huge", "echo"), protocol_version=MODERN, timeout_seconds=4.0)
    agent = agent_of(live, alice, MODERN)
    agent.text("up__echo", text="hi")

    with Unread(agent, megabytes=9), Unread(agent, megabytes=9):
        wait_until(lambda: held and held[-1] > MOST // 2)
        refusal = agent.failure("up__huge", megabytes=3)
        assert refusal["code"] == "BACKEND_TIMEOUT"
        assert "no room for it in time" in refusal["message"]
        assert agent.text("up__echo", text="small") == "small"
        wait_until(lambda: held[-1] == 0)  # both were left

    assert len(huge(agent)["content"][0]["text"]) == 2 * MEBIBYTE
    assert gateway.breaker_state(server.id).failures == 0  # it was never the server's fault
    wait_until(lambda: all(each.taken == 0 for each in budget._budgets.values()))


def test_large_answers_on_one_stream_all_arrive_and_count_until_they_have_left(
    live: Live, alice: Person, evil: Evil, held: list[int], settings: Any
) -> None:
    settings.MCP_SSE = True
    offer(alice, "up", evil.url, tools=("huge", "echo"), protocol_version=MODERN, max_concurrency=16)
    with speaking((live.url,), live.key(alice), "2024-11-05") as client:
        numbers = {client.send("tools/call", {"name": "up__huge", "arguments": {"megabytes": 2}}) for _ in range(8)}
        wait_until(lambda: held and held[-1] > MOST // 4)  # several have been read, and wait for who reads them
        sizes = {}
        while numbers - set(sizes):
            each = next(client.messages())
            sizes[each["id"]] = len(each["result"]["content"][0]["text"])

    assert list(sizes.values()) == [2 * MEBIBYTE] * 8
    assert max(held) <= MOST + 2 * MEBIBYTE
    wait_until(lambda: held[-1] == 0)


def test_who_does_not_read_its_stream_is_left_with_all_that_it_has_under_way(
    live: Live, alice: Person, evil: Evil, held: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.conf.settings.MCP_SSE", True)
    monkeypatch.setattr(mcp_held, "LONGEST_PIECE_SECONDS", 3.0)
    offer(alice, "up", evil.url, tools=("huge", "hang"), protocol_version=MODERN, timeout_seconds=60.0)
    with speaking((live.url,), live.key(alice), "2024-11-05") as client:
        client.send("tools/call", {"name": "up__hang", "arguments": {}})
        for _ in range(2):
            client.send("tools/call", {"name": "up__huge", "arguments": {"megabytes": 9}})
        wait_until(lambda: held and held[-1] > MOST // 2)

        wait_until(lambda: count_sessions(alice.organization.id) == 0)
        wait_until(lambda: evil.seen("cancelled").get("hang") == 1)
        wait_until(lambda: held[-1] == 0)
        assert client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 404


def test_who_is_left_is_cut_and_that_is_no_error(
    live: Live, alice: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To close the connection would be to wait until its caller has read what the server holds for them."""
    monkeypatch.setattr(mcp_held, "LONGEST_PIECE_SECONDS", 1.0)
    caplog.set_level(logging.INFO, "config.mcp_held")
    offer(alice, "up", evil.url, tools=("huge",), protocol_version=MODERN)

    with Unread(agent_of(live, alice, MODERN), megabytes=9):
        wait_until(lambda: "did not read" in caplog.text)
        wait_until(lambda: not live._server.server_state.tasks and not live._server.server_state.connections)

    assert not [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


class Unread:
    """A connection on which a large answer waits and is not read."""

    def __init__(self, agent: Agent, megabytes: int) -> None:
        host, port = agent.url.removeprefix("http://").split(":")
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
        params = {"name": "up__huge", "arguments": {"megabytes": megabytes}, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        headers = {**agent._headers("tools/call", params), "Host": f"{host}:{port}", "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.address = (host, int(port))
        self.request = f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body

    def __enter__(self) -> "Unread":
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.sendall(self.request)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
