"""What is left of a request when it has ended: no bytes that count, no work, no entry, and nothing of a session."""

import asyncio
import gc
import json
import socket
from typing import Any
from uuid import uuid4

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from apps.core import budget
from apps.core.errors import BackendDown, InvalidInput, RateLimited
from apps.gateway.services.asking import Ask, Silent
from apps.gateway.services.parking import Parked, ParkingLot, park, parking_lot
from apps.gateway.services.rounds import Place
from apps.gateway.services.subscriptions import _OfServer
from apps.registry.models import Capability
from config import mcp_held
from config.mcp_exchange import Exchange
from config.mcp_messages import Message
from config.mcp_posts import _finish
from config.mcp_sessions import IDLE_SECONDS, Session, Sessions
from config.mcp_streams import Reply
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, Agent, add_tool, agent_of, change, offer, refresh
from tests.gateway.conftest import Evil
from tests.live import Live
from tests.people import Person
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
MAY_BE_ASKED = {META + "clientCapabilities": {"elicitation": {"form": {}}}}
PATIENCE_SECONDS = 60
FORM = {
    "method": "elicitation/create",
    "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


@pytest.fixture
def prying(alice: Person, evil: Evil) -> Evil:
    """A server of the older era with a tool that asks."""
    evil.put("tools", [{"name": "pry", "inputSchema": {"type": "object"}}])
    offer(alice, "up", evil.url, tools=("pry",), protocol_version=LEGACY, timeout_seconds=30.0)
    return evil


def asked(agent: Agent, **more: Any) -> dict[str, Any]:
    """The result of one round of a call that asks, of an agent of 2026-07-28."""
    answer = agent.ask("tools/call", {"name": "up__pry", "arguments": FORM, "_meta": MAY_BE_ASKED, **more})
    result: dict[str, Any] = answer["result"]
    return result


def test_a_large_answer_after_a_question_counts_only_until_it_is_out(live: Live, alice: Person, prying: Evil) -> None:
    agent = agent_of(live, alice, MODERN)
    question = asked(agent)

    answers = {name: {"action": "accept", "content": {"name": "x" * 600_000}} for name in question["inputRequests"]}
    result = asked(agent, requestState=question["requestState"], inputResponses=answers)

    assert len(result["content"][0]["text"]) > 600_000
    wait_until(lambda: all(each.taken == 0 for each in budget._budgets.values()))
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Parked)]


def test_what_one_person_answered_is_not_kept_for_another(live: Live, alice: Person, prying: Evil) -> None:
    change(Capability.objects.get(name="pry"), risk="low", cache_seconds=60)
    hers, other = agent_of(live, alice, MODERN), agent_of(live, alice, MODERN)
    question = asked(hers)
    answers = {name: {"action": "accept", "content": {"name": "Ada"}} for name in question["inputRequests"]}
    assert "Ada" in asked(hers, requestState=question["requestState"], inputResponses=answers)["content"][0]["text"]

    assert asked(other)["resultType"] == "input_required"


@pytest.mark.parametrize("wrong", [[1], {"a": 1}, None], ids=str)
def test_to_cancel_what_has_no_number_cancels_nothing(live: Live, alice: Person, wrong: Any) -> None:
    agent = agent_of(live, alice).open()
    notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": wrong}}

    answer = agent.post(json.dumps(notice).encode())

    assert answer.status == 202, answer.text


def listening() -> list[_OfServer]:
    """Who hears of resources, on behalf of a client."""
    found = [each for each in gc.get_objects() if isinstance(each, _OfServer)]
    return [each for each in found if each.task is not None and not each.task.done()]


def messages_with(name: str) -> list[Message]:
    """The messages with such a parameter that anything still keeps."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Message) and name in each.params]


def stream_of(agent: Agent, uri: str) -> socket.socket:
    """A stream on which the agent is told of a resource."""
    if agent.revision == LEGACY:
        assert "result" in agent.ask("resources/subscribe", {"uri": uri})
        body, method = b"", "GET"
    else:
        meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        params = {"notifications": {"resourceSubscriptions": [uri]}, "_meta": meta}
        body, method = (
            json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).encode(),
            "POST",
        )
    headers = {**agent._headers("subscriptions/listen", {}), "Host": "127.0.0.1", "Content-Length": str(len(body))}
    if method == "GET":
        headers.pop("Content-Length")
    wire = socket.create_connection(("127.0.0.1", int(agent.url.rpartition(":")[2])), timeout=PATIENCE_SECONDS)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    wire.sendall(f"{method} /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
    assert b"200 OK" in wire.recv(65536)
    return wire


@pytest.mark.parametrize("revision", BOTH)
def test_who_may_not_read_a_resource_any_more_hears_no_more_of_it(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    server = offer(alice, "up", evil.url, protocol_version=MODERN)
    resource = add_tool(
        server,
        "demo://note",
        kind="resource",
        definition={"uri": "demo://note", "name": "note"},
        public_name="demo://note",
    )
    refresh(alice)
    with stream_of(agent_of(live, alice, revision), "demo://note"):
        assert len(listening()) == 1

        change(resource, approved_digest="")

        wait_until(lambda: not listening())


def test_a_client_cannot_leave_a_large_description_of_itself(live: Live, alice: Person) -> None:
    hello = {"protocolVersion": LEGACY, "capabilities": {"experimental": {"x": "x" * 300_000}}}

    answer = agent_of(live, alice).send("initialize", hello)

    assert answer.json()["error"]["code"] == -32602
    assert "mcp-session-id" not in answer.headers


async def swallowed(_: Any) -> None:
    """A connection that takes everything and brings nothing."""


async def never() -> dict[str, Any]:
    """A caller who stays and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError


def session_of(sessions: Sessions, person: Person) -> Session:
    """A session without a client."""
    return sessions.open(person.actor, bundle="", version=LEGACY, capabilities={}, client_info={})


def test_a_long_result_that_went_nowhere_can_be_read_again(alice: Person) -> None:
    async def scenario() -> None:
        stream = session_of(Sessions(), alice).new_stream()
        stream.put(b"{}")
        stream.put(b"x" * 3_000_000)
        stream.end()
        await stream.copy(swallowed)
        read: list[bytes] = []

        async def send(message: Any) -> None:
            read.append(message.get("body", b""))

        await stream.copy(send, after=1)

        assert b"x" * 3_000_000 in b"".join(read)

    asyncio.run(scenario())


def test_what_ended_streams_keep_is_bounded_and_soon_gone(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.mcp_sessions.MOST_KEPT_BYTES", 1_000_000)
    monkeypatch.setattr("config.mcp_sessions.RESUME_SECONDS", 0.5)

    async def scenario() -> None:
        sessions = Sessions()
        opened = [session_of(sessions, alice) for _ in range(4)]
        for session in opened * 3:
            stream = session.new_stream()
            stream.put(b"x" * 300_000)
            stream.end()

        assert sum(stream.size for session in opened for stream in session.streams.values()) == 900_000
        sessions.end(opened[-1])
        assert sessions.kept.size == 600_000
        for _ in range(20 * PATIENCE_SECONDS):
            if sessions.kept.size:
                await asyncio.sleep(0.05)
        assert not any(session.streams for session in opened[:-1])

    asyncio.run(scenario())


def test_an_organisation_that_keeps_much_displaces_its_own_streams_alone(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.mcp_sessions.MOST_KEPT_BYTES", 1_000_000)

    async def scenario() -> None:
        sessions = Sessions()
        of_bob, of_alice = session_of(sessions, bob), session_of(sessions, alice)
        for session in (of_bob, *[of_alice] * 6):
            stream = session.new_stream()
            stream.put(b"x" * 300_000)
            stream.end()

        assert [len(each.streams) for each in (of_bob, of_alice)] == [1, 2]
        sessions.end_all()
        assert sessions.kept.size == 0

    asyncio.run(scenario())


def test_a_session_whose_client_listened_for_long_is_not_ended_when_the_stream_breaks(alice: Person) -> None:
    async def scenario() -> None:
        sessions, now = Sessions(), asyncio.get_running_loop().time()
        session = session_of(sessions, alice)
        reading = asyncio.ensure_future(session.open_notices().copy(swallowed))
        await asyncio.sleep(0)
        sessions.end_idle(now + IDLE_SECONDS + 10)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

        sessions.end_idle(now + IDLE_SECONDS + 40)
        assert not session.is_over

        sessions.end_idle(now + 2 * IDLE_SECONDS + 60)
        assert session.is_over

    asyncio.run(scenario())


def test_to_cancel_an_answer_that_is_on_its_way_sends_no_second_one(alice: Person) -> None:
    async def scenario() -> None:
        sent, is_sending, can_go_on = [], asyncio.Event(), asyncio.Event()
        replies: list[Reply] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                is_sending.set()
                await can_go_on.wait()

        async def serve() -> None:
            replies.append(Reply(send, never, can_stream=False))
            ping = Message(1, "ping", {}, {})
            await _finish(replies[0], Exchange(alice.actor, ping, replies[0], "", False, None, {}, {}), is_modern=False)

        serving = asyncio.ensure_future(serve())
        await is_sending.wait()
        replies[0].cancel()
        await asyncio.sleep(0)
        can_go_on.set()
        await serving

        assert sent == ["http.response.start", "http.response.body"]

    asyncio.run(scenario())


def test_who_does_not_read_a_stream_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_held, "LONGEST_PIECE_SECONDS", 0.1)

    async def blocked(_: Any) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        send = mcp_held.Paced(blocked)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    asyncio.run(scenario())


def test_an_id_is_free_as_soon_as_its_answer_is_out(
    live: Live, alice: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(alice, "up", evil.url)
    send = RequestResponseCycle.send

    async def send_and_linger(cycle: RequestResponseCycle, message: Any) -> None:
        await send(cycle, message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await asyncio.sleep(0.5)

    monkeypatch.setattr(RequestResponseCycle, "send", send_and_linger)
    agent = agent_of(live, alice).open()
    called = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "up__echo", "arguments": {}}}

    answers = [agent.post(json.dumps(called).encode(), "tools/call", called["params"]).json() for _ in range(3)]

    assert all("result" in answer for answer in answers), answers


def test_who_listens_too_often_is_told_so(live: Live, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.mcp_listening.MOST_STREAMS_OF_ONE_CALLER", 0)

    error = agent_of(live, alice, MODERN).ask("subscriptions/listen", {"notifications": {}})["error"]

    assert (error["code"], error["data"]["code"]) == (-32000, "RATE_LIMITED")


def test_how_long_the_requests_of_waiting_calls_are_is_bounded(
    live: Live, alice: Person, prying: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.gateway.services.parking.MOST_PARKED_BYTES", 2 * 20_000)
    agent = agent_of(live, alice, MODERN)
    call = {"name": "up__pry", "arguments": FORM, "_meta": {**MAY_BE_ASKED, "x": "x" * 15_000}}

    waits = asked(agent)["requestState"]
    said = [agent.ask("tools/call", call)["result"] for _ in range(2)]
    long = asked(agent, requestState=waits, more="x" * 30_000)

    assert said[0]["resultType"] == "input_required"
    assert said[1]["_meta"]["gatehouse/error"]["code"] == "RATE_LIMITED"
    assert long["resultType"] == "input_required"
    wait_until(lambda: not messages_with("more"))


def test_an_organisation_takes_half_of_the_places_for_waiting_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.gateway.services.parking.MOST_PARKED", 6)

    async def scenario() -> None:
        lot, acme, globex = ParkingLot(), uuid4(), uuid4()
        for number in range(3):
            lot.keep(Parked(f"key {number}@acme", acme))

        with pytest.raises(RateLimited):
            lot.keep(Parked("one more key@acme", acme))
        for number in range(3):
            lot.keep(Parked(f"key {number}@globex", globex))
        with pytest.raises(RateLimited):
            lot.keep(Parked("key@initech", uuid4()))
        lot.end_all()
        lot.keep(Parked("one more key@acme", acme))
        lot.end_all()

    asyncio.run(scenario())


def test_a_call_that_fails_while_its_client_is_away_is_no_error_of_ours() -> None:
    async def scenario() -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: said.append(about))
        gone = asyncio.Event()

        async def start(parked: Parked) -> dict[str, Any]:
            async with asyncio.TaskGroup() as group:
                question = group.create_task(parked.asked("elicitation/create", {}))
                await gone.wait()
                question.cancel()
            raise BackendDown("The server broke off its answer.")

        place = Place("alice", "", "tools/call", "up__pry", "up")
        first = await park(Ask(Silent(is_modern=True)), place, start)
        assert first["resultType"] == "input_required"
        gone.set()
        await asyncio.sleep(0.05)
        parking_lot().end_all()
        gc.collect()
        return said

    assert asyncio.run(scenario()) == []


def test_who_continues_a_call_is_told_when_another_of_its_requests_gives_it_up() -> None:
    async def scenario() -> None:
        place, client = Place("alice", "", "tools/call", "up__pry", "up"), Silent(is_modern=True)

        async def start(parked: Parked) -> dict[str, Any]:
            await parked.asked("elicitation/create", {})
            return await never()

        first = await park(Ask(client), place, start)
        answers = {name: {"action": "accept"} for name in first["inputRequests"]}
        going_on = Ask(client, request_state=first["requestState"], input_responses=answers)
        one, other = (asyncio.ensure_future(park(going_on, place, start)) for _ in range(2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        one.cancel()

        with pytest.raises(InvalidInput):
            await other

    asyncio.run(scenario())
