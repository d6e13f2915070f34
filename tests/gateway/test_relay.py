"""Answers that come through another process: whole or not at all, and no more of them held than a slow reader may cost.

The two processes are two event loops here, each with a server of its own; they share the database and Redis. Tests of
two real processes are in tests/journeys/test_two_webs.py.
"""

import asyncio
import dataclasses
import json
import logging
import random
import socket
import string
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

import pytest
from redis import Redis

from apps.auth import services as auth
from apps.core import budget
from apps.core.budget import Budget
from config import mcp_held, mcp_http, mcp_parts, mcp_relay, mcp_streams
from config.mcp_relay import Relay
from config.mcp_stopping import stopping
from tests.fixtures.faults import own_redis
from tests.gateway.agent import LEGACY, MODERN, Agent, agent_of, offer
from tests.gateway.conftest import Evil, events
from tests.gateway.speaker import rest_of
from tests.gateway.test_giving_up import eventually
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]
MEBIBYTE = 1024 * 1024
LONG = 9 * MEBIBYTE
PIECE = mcp_held.PIECE_BYTES
SOON_SECONDS = 60
IN_PARTS = 2_000_000
"""So long an answer is one part for its head and eight for its body."""
Told = dict[str, Any]
Losing = Callable[..., list[Told]]


@dataclass
class Two:
    """The process in which sessions are opened, and the one that is asked."""

    owner: Live
    asked: Live
    redis: str

    def agent(self, person: Person, key: str = "") -> Agent:
        """An agent whose session is open in the one, and who asks the other."""
        agent = Agent(self.owner.url, key, LEGACY) if key else agent_of(self.owner, person)
        agent.open().url = self.asked.url
        return agent

    def relay(self, live: Live) -> Relay:
        """The relay of one of them."""
        found = mcp_http._running[live._server._loop].relay
        assert found is not None
        return found

    def budget(self, live: Live) -> Budget:
        """What one of them holds."""
        return budget._budgets.setdefault(live._server._loop, Budget())

    def is_quiet(self) -> bool:
        """Whether nothing is relayed, and nothing held."""
        relays = [self.relay(live) for live in (self.owner, self.asked)]
        busy = [work for relay in relays for work in (relay._waiting, relay._working)]
        return not any(busy) and not any(each.taken for each in budget._budgets.values())


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """The address of a Redis."""
    with own_redis() as url:
        if not url:
            pytest.skip("There is no Redis here.")
        yield url


@pytest.fixture
def two(transactional_db: None, redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    """Both of them."""
    settings.ENV = dataclasses.replace(settings.ENV, redis_url=redis)
    settings.MAX_BODY_BYTES = LONG + MEBIBYTE
    monkeypatch.setattr(mcp_relay, "ASK_SECONDS", 1.0)
    monkeypatch.setattr(mcp_relay, "MOST_ASKED", SOON_SECONDS)  # who is slow to answer here has many neighbours
    with ExitStack() as stack:
        yield Two(stack.enter_context(Live()), stack.enter_context(Live()), redis)


@pytest.fixture
def agent(two: Two, alice: Person, evil: Evil) -> Agent:
    """An agent with a server whose answers may be long, late or told in a stream."""
    offer(alice, "up", evil.url, tools=("echo", "chatty", "huge", "slow"), protocol_version=MODERN)
    return two.agent(alice)


@pytest.fixture(autouse=True)
def _nothing_is_an_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens on the way, neither we nor the server call it an error."""
    yield
    assert not [each.getMessage() for each in caplog.get_records("call") if each.levelno >= logging.ERROR]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> dict[Budget, list[int]]:
    """How much each of them held, whenever that changed."""
    seen: dict[Budget, list[int]] = {}
    account = Budget._account

    def noting(self: Budget, share: Any, size: int) -> None:
        account(self, share, size)
        seen.setdefault(self, []).append(self.taken)

    monkeypatch.setattr(Budget, "_account", noting)
    return seen


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Losing:
    """Lets Redis lose the first message of such a kind, as it does with what a connection held that it cut."""

    tell = Relay._tell

    def lose(is_meant: Callable[[Told], bool], most: int = 1) -> list[Told]:
        lost = list[Told]()

        async def telling(self: Relay, process: str, told: Told, body: bytes = b"") -> bool:
            if len(lost) < most and is_meant(told):
                lost.append(told)
                return True
            return await tell(self, process, told, body)

        monkeypatch.setattr(Relay, "_tell", telling)
        return lost

    return lose


def text_of(size: int) -> str:
    """A text in which no two parts are alike."""
    return "".join(random.Random(size).choices(string.ascii_letters, k=size))


@contextmanager
def calling(agent: Agent, tool: str, *, reads: bool = True, **arguments: Any) -> Iterator[HTTPConnection]:
    """A call on a connection of its own; who does not read takes as little as the network lets them."""
    params = {"name": tool, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": "it", "method": "tools/call", "params": params}
    connection = HTTPConnection(agent.url.removeprefix("http://"), timeout=SOON_SECONDS)
    connection.connect()
    try:
        if not reads:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.request("POST", "/mcp", json.dumps(message), agent._headers("tools/call", params))
        yield connection
    finally:
        connection.close()


def listening(agent: Agent, last_event_id: str = "") -> tuple[HTTPConnection, HTTPResponse]:
    """A stream that has begun."""
    connection = HTTPConnection(agent.url.removeprefix("http://"), timeout=SOON_SECONDS)
    headers = {**agent._headers("", {}), **({"Last-Event-ID": last_event_id} if last_event_id else {})}
    connection.request("GET", "/mcp", headers=headers)
    response = connection.getresponse()
    assert response.status == 200
    return connection, response


def breaks_off(connection: HTTPConnection) -> bool:
    """Whether the client sees that an answer which has begun is not whole."""
    try:
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()
    except (HTTPException, ConnectionError):
        return True
    return False


# Whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["echo", "chatty"])
def test_a_large_answer_arrives_whole_and_at_most_a_window_of_it_is_held(
    two: Two, agent: Agent, held: dict[Budget, list[int]], tool: str
) -> None:
    text = text_of(LONG)

    answer = agent.send("tools/call", {"name": f"up__{tool}", "arguments": {"text": text}})

    is_stream = answer.headers["content-type"] == "text/event-stream"
    message = answer.text.rstrip().rpartition("\ndata: ")[2] if is_stream else answer.text
    assert is_stream == (tool == "chatty")
    assert json.loads(message)["result"]["content"][0]["text"] == text
    assert 0 < max(held[two.budget(two.asked)]) <= mcp_parts.WINDOW_BYTES + PIECE
    eventually(two.is_quiet)


def test_a_small_answer_is_not_acknowledged(two: Two, agent: Agent, losing: Losing) -> None:
    said = list[str]()

    def is_noted(told: Told) -> bool:
        said.append(told["kind"])
        return False

    losing(is_noted)

    assert agent.text("up__echo", text="x" * (PIECE // 2)) == "x" * (PIECE // 2)

    eventually(two.is_quiet)
    assert [kind for kind in said if kind not in ("ask", "alive")] == ["request", "part", "part"]


# Slow -------------------------------------------------------------------------------------------------------------


class Patient(mcp_held.Paced):
    """Waits for a reader for ever."""

    async def _send_pieces(self, message: Any, *, has_more: bool) -> bool:
        body = message.get("body", b"")
        for start in range(0, len(body) or 1, PIECE):
            is_last = start + PIECE >= len(body)
            await self._send({**message, "body": body[start : start + PIECE], "more_body": has_more or not is_last})
        return True


def let_owners_be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let them wait for ever for callers of other processes."""

    def paced(send: Any, cut: Any) -> mcp_held.Paced:
        is_relayed = isinstance(getattr(cut, "__self__", None), mcp_parts.Outgoing)
        return (Patient if is_relayed else mcp_held.Paced)(send, cut)

    monkeypatch.setattr(mcp_http, "Paced", paced)


@pytest.mark.parametrize("owner_is_patient", [False, True])
def test_who_does_not_read_behind_another_process_holds_a_window_there_and_is_left(
    two: Two, agent: Agent, held: dict[Budget, list[int]], monkeypatch: pytest.MonkeyPatch, owner_is_patient: bool
) -> None:
    """Both lose patience, about at once; an owner who would not is told."""
    monkeypatch.setattr(mcp_held, "LONGEST_PIECE_SECONDS", 3.0)
    if owner_is_patient:
        let_owners_be_patient(monkeypatch)

    with calling(agent, "up__huge", reads=False, megabytes=9) as connection:
        eventually(lambda: two.budget(two.owner).taken and two.budget(two.asked).taken)
        assert agent.text("up__echo", text="small") == "small"
        eventually(two.is_quiet, SOON_SECONDS)
        # Really cut: to close it would be to wait until what the server holds of the answer has been read.
        eventually(lambda: not two.asked._server.server_state.connections)
        assert connection.sock is not None

    assert mcp_parts.WINDOW_BYTES // 2 < max(held[two.budget(two.asked)]) <= mcp_parts.WINDOW_BYTES + PIECE
    eventually(lambda: [each.name for each in events()].count("up__huge") == 1)


def test_very_many_small_parts_fill_a_window_too() -> None:
    async def scenario() -> None:
        told, most = list[Told](), mcp_parts.WINDOW_BYTES // mcp_parts.PART_BYTES

        async def tell(part: Told, _: bytes) -> bool:
            told.append(part)
            return True

        outgoing = mcp_parts.Outgoing(tell, b"")

        async def send_all() -> None:
            for _ in range(2 * most):
                await outgoing.send({"type": "http.response.body", "body": b"x", "more_body": True})

        sending = asyncio.ensure_future(send_all())
        await asyncio.wait({sending}, timeout=2)
        assert most - 2 <= len(told) <= most

        outgoing.acknowledge(mcp_parts.WINDOW_BYTES)
        await asyncio.wait({sending}, timeout=2)
        outgoing.leave()
        await sending
        assert 2 * most - 4 <= len(told) <= 2 * most

    asyncio.run(scenario())


# Lost -------------------------------------------------------------------------------------------------------------


def is_part(number: int) -> Callable[[Told], bool]:
    """Whether it is this part."""
    return lambda told: told["kind"] == "part" and told["number"] == number


def is_last_part(told: Told) -> bool:
    """Whether nothing follows."""
    return told["kind"] == "part" and told["number"] > 1 and not told["message"].get("more_body")


@pytest.mark.parametrize("tool", ["echo", "chatty"])
def test_an_answer_that_has_lost_a_part_breaks_off(
    two: Two, agent: Agent, losing: Losing, caplog: pytest.LogCaptureFixture, tool: str
) -> None:
    for is_meant in (is_part(2), is_part(5), is_last_part):
        lost = losing(is_meant)
        with calling(agent, f"up__{tool}", text="x" * IN_PARTS) as connection:
            assert breaks_off(connection)
        assert lost
        eventually(two.is_quiet, SOON_SECONDS)  # else the next loss might be one of this answer's

    assert caplog.text.count("broke off") == 3
    assert agent.text(f"up__{tool}", text="the session lives") == "the session lives"
    eventually(two.is_quiet, SOON_SECONDS)


def test_an_owner_of_whom_nothing_is_heard_any_more_is_given_up(
    two: Two, agent: Agent, monkeypatch: pytest.MonkeyPatch, losing: Losing
) -> None:
    monkeypatch.setattr(mcp_relay, "MOST_ASKED", 2)
    owner = two.relay(two.owner)
    lost = losing(
        lambda told: is_part(5)(told) or (bool(lost) and told["kind"] in ("part", "alive", "gone", "cut")), most=99
    )

    with calling(agent, "up__echo", text="x" * IN_PARTS) as connection:
        assert breaks_off(connection)

    assert {told["kind"] for told in lost} >= {"part", "alive"}
    eventually(lambda: not owner._working, SOON_SECONDS)


@pytest.mark.parametrize("kind", ["request", "part"])
def test_a_request_whose_first_message_is_lost_is_answered_with_an_outage(
    two: Two, agent: Agent, losing: Losing, kind: str
) -> None:
    lost = losing(lambda told: told["kind"] == kind)

    answer = agent.send("tools/call", {"name": "up__echo", "arguments": {"text": "hi"}})

    assert lost
    assert (answer.status, answer.json()["error"]["code"]) == (503, "BACKEND_DOWN")
    assert answer.headers["retry-after"]
    assert agent.text("up__echo", text="the session lives") == "the session lives"
    eventually(two.is_quiet, SOON_SECONDS)


def test_a_lost_acknowledgement_holds_an_answer_up_for_a_moment_only(agent: Agent, losing: Losing) -> None:
    text = text_of(IN_PARTS)
    lost = losing(lambda told: told["kind"] == "acknowledge", most=99)

    assert agent.text("up__echo", text=text) == text

    assert lost


def test_an_owner_learns_by_its_next_part_of_a_caller_whose_leaving_was_lost(
    two: Two, agent: Agent, monkeypatch: pytest.MonkeyPatch, losing: Losing
) -> None:
    monkeypatch.setattr(mcp_streams, "PING_SECONDS", 2.0)
    lost = losing(lambda told: told["kind"] == "leave")
    connection, _ = listening(agent)

    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()

    eventually(lambda: bool(lost))
    eventually(two.is_quiet, SOON_SECONDS)


def test_a_subscription_that_redis_cuts_breaks_an_answer_off_and_is_made_again(
    two: Two, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Redis does with one that cannot keep up (client-output-buffer-limit)."""
    tell, cut = Relay._tell, list[int]()

    async def telling(self: Relay, process: str, told: Told, body: bytes = b"") -> bool:
        if is_part(5)(told) and not cut:
            with Redis.from_url(two.redis) as redis:
                cut.append(redis.client_kill_filter(_type="pubsub"))
        return await tell(self, process, told, body)

    monkeypatch.setattr(Relay, "_tell", telling)

    with calling(agent, "up__echo", text="x" * IN_PARTS) as connection:
        assert breaks_off(connection)

    assert cut == [2]
    eventually(lambda: agent.send("ping").status == 200, SOON_SECONDS)
    eventually(two.is_quiet, SOON_SECONDS)


# Ends -------------------------------------------------------------------------------------------------------------


def test_a_stream_through_another_process_ends_properly_when_its_key_is_revoked(two: Two, alice: Person) -> None:
    made = auth.create_key(alice.actor, name="agent")
    agent = two.agent(alice, made.plain)
    connection, response = listening(agent)

    auth.revoke_key(alice.actor, key_id=made.key.id)

    assert b"id: " in rest_of(response)
    connection.close()
    eventually(two.is_quiet)


def test_a_process_that_stops_finishes_what_it_answers_for_another(
    two: Two, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with calling(agent, "up__slow", ms=2000, text="done") as connection:
        eventually(lambda: two.relay(two.owner)._working)
        monkeypatch.setattr(stopping, "is_told", True)
        monkeypatch.setattr(stopping, "until", time.monotonic() + SOON_SECONDS)
        two.owner._server.end()

        answer = connection.getresponse()
        assert b'"done"' in answer.read(), answer.status


def test_who_comes_back_to_a_stream_that_broke_reads_on_through_another_process(
    two: Two, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_streams, "PING_SECONDS", 0.1)  # a call becomes a stream as soon as it is watched
    with calling(agent, "up__slow", ms=5000, text="at last") as connection:
        mark = connection.getresponse().readline().decode()

    connection, response = listening(agent, mark.removeprefix("id: ").strip())

    assert b"at last" in rest_of(response)
    connection.close()
    eventually(two.is_quiet)
