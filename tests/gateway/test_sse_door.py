"""HTTP+SSE towards agents: off unless its operator wants it, and then the same road as `/mcp` by two addresses."""

import asyncio
import time
from typing import Any

import pytest
from fastmcp import Client as FastMCPClient
from fastmcp.client.transports import SSETransport
from mcp.client.client import Client as SdkClient
from mcp.client.sse import sse_client

from apps.auth import services as auth
from apps.gateway import services as gateway
from apps.gateway.schemas import BundleItemIn
from apps.registry.models import Capability
from config import mcp_streams
from config.mcp_http import count_sessions
from config.mcp_listening import WATCH_SECONDS
from config.mcp_sse import Wire
from config.mcp_stopping import stopping
from tests.gateway.agent import LEGACY, META, MODERN, Agent, add_tool, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.gateway.sse_speaker import SseSpeaker, speaking
from tests.gateway.test_door import error_of
from tests.gateway.test_giving_up import eventually
from tests.live import Client, Live
from tests.people import Person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]
OLDEST = "2024-11-05"
SESSION_NOT_FOUND = "Session not found. Open another one."
MEBIBYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def _is_on(settings: Any) -> None:
    settings.MCP_SSE = True


def listed(live: Live, person: Person, **more: Any) -> Any:
    """A client of this person that speaks the revision of the transport."""
    return speaking((live.url,), live.key(person), OLDEST, **more)


# On and off ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mcp/sse", "/mcp/messages", "/mcp/pack/sse", "/mcp/pack/messages"])
def test_it_is_off_unless_it_is_switched_on(live: Live, alice: Person, settings: Any, path: str) -> None:
    settings.MCP_SSE = False

    for method in ("POST", "GET"):
        error = error_of(live.with_key(live.key(alice)).request(method, path, {} if method == "POST" else None), 404)
        assert error["code"] == "NOT_FOUND" and "GATEHOUSE_MCP_SSE" in error["message"]


def test_the_setting_is_off_by_default() -> None:
    from config.env import variables

    assert [each["default"] for each in variables() if each["name"] == "GATEHOUSE_MCP_SSE"] == ["0"]


# Clients of others --------------------------------------------------------------------------------------------------


def by_sdk(url: str, key: str, **options: Any) -> SdkClient:
    """The SDK's client over its own transport."""
    return SdkClient(sse_client(url, headers={"Authorization": f"Bearer {key}"}, timeout=60), **options)


def by_fastmcp(url: str, key: str, **options: Any) -> Any:
    """FastMCP's client over its own transport."""
    return FastMCPClient(SSETransport(url, headers={"Authorization": f"Bearer {key}"}), **options)


@pytest.mark.parametrize("client_of", [by_sdk, by_fastmcp])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_clients_that_nobody_here_wrote_list_and_call(
    live: Live, alice: Person, evil: Evil, client_of: Any, mode: str
) -> None:
    offer(alice, "up", evil.url, tools=("echo", "slow"))
    key = live.key(alice)

    async def talk() -> None:
        async with asyncio.timeout(60), client_of(f"{live.mcp_url}/sse", key, mode=mode) as client:
            tools = await client.list_tools()
            assert "up__echo" in {tool.name for tool in getattr(tools, "tools", tools)}
            answers = await asyncio.gather(
                *(client.call_tool("up__echo", {"text": f"héllo {number}"}) for number in range(20))
            )
            assert [answer.content[0].text for answer in answers] == [f"héllo {number}" for number in range(20)]
            assert client.protocol_version == LEGACY

    asyncio.run(talk())

    assert {(event.name, event.endpoint, event.status) for event in events()} == {("up__echo", "/mcp/sse", "ok")}
    eventually(lambda: count_sessions(alice.organization.id) == 0)


def test_a_call_under_way_is_answered_before_a_server_that_stops_lets_go(
    live: Live, alice: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(alice, "up", evil.url, tools=("slow",))

    with listed(live, alice) as client:
        text = "done " * 600_000
        call = {"name": "up__slow", "arguments": {"ms": 2000, "text": text}}
        numbers = [client.send("tools/call", call) for _ in range(4)]
        eventually(lambda: evil.seen("calls") == {"slow": 4})
        monkeypatch.setattr(stopping, "is_told", True)
        time.sleep(5)  # the answers are there, and on their way to somebody who reads late

        answers = {message["id"]: message["result"] for message in client.messages()}  # until the stream ends

        assert [answers[number]["content"][0]["text"] for number in numbers] == [text] * 4


# The handshake ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN, "1999-01-01"])
def test_a_session_speaks_the_revision_that_was_asked_for_up_to_the_last_with_sessions(
    live: Live, alice: Person, asked: str
) -> None:
    client = SseSpeaker((live.url,), live.key(alice), asked).open()

    said = client.ask("initialize", {"protocolVersion": asked, "capabilities": {}}).result
    again = client.ask("initialize", {"protocolVersion": asked, "capabilities": {}}).error

    assert said["protocolVersion"] == (asked if asked in ("2024-11-05", "2025-03-26", "2025-06-18") else LEGACY)
    assert "begun already" in again["message"]
    client.end()


def test_what_has_no_place_here_is_refused_on_the_stream(live: Live, alice: Person) -> None:
    client = SseSpeaker((live.url,), live.key(alice), OLDEST).open()

    early = client.ask("tools/list").error
    modern = client.ask("server/discover", {"_meta": {META + "protocolVersion": MODERN}}).error
    client.ask("initialize", {"protocolVersion": OLDEST, "capabilities": {}})
    unknown = client.ask("subscriptions/listen", {"notifications": {}}).error
    wrong = client.ask("tools/call", {"name": 1}).error

    assert "begin with initialize" in early["message"]
    assert modern["code"] == -32022 and modern["data"]["supported"][-1] == LEGACY
    assert (unknown["code"], wrong["code"]) == (-32601, -32602)
    client.end()


# What comes in ------------------------------------------------------------------------------------------------------


def test_both_addresses_are_guarded_like_the_endpoint(live: Live, alice: Person) -> None:
    key = live.key(alice)
    with listed(live, alice) as client:
        for method, path in (("GET", "/mcp/sse"), ("POST", client.address)):
            body = {} if method == "POST" else None
            ours = live.with_key(key)
            error_of(Client(live.url).request(method, path, body), 401)
            error_of(live.rest(alice).request(method, path, body), 401)
            error_of(ours.request(method, path, body, headers={"Origin": "https://evil.example"}), 403)
            error_of(ours.request(method, path, body, headers={"Host": "evil.example"}), 421)
            joint = "&" if "?" in path else "?"
            error_of(ours.request(method, f"{path}{joint}api_key={key}", body), 401)
        error_of(live.with_key(key).post("/mcp/sse", {}), 405)
        error_of(live.with_key(key).get("/mcp/messages"), 405)
        assert live.with_key(key).get("/mcp/sse", headers={"Accept": "application/json"}).status == 406


def test_bodies_are_read_as_strictly_as_at_the_endpoint(live: Live, alice: Person, settings: Any) -> None:
    settings.MAX_BODY_BYTES = 100_000
    with listed(live, alice) as client:
        own = live.with_key(client.key)
        for body in (b"{", b'{"a": NaN}', b"[" * 5000, b'{"a": "\\ud800"}', b'{"a": 1, "a": 2}'):
            assert own.post(client.address, body=body).status == 400, body
        error_of(own.post(client.address, body=b" " * 100_001), 413)
        error_of(own.post(client.address, body=b"{}", headers={"Content-Type": "text/plain"}), 415)
        assert client.post([{"jsonrpc": "2.0", "id": 1, "method": "ping"}]).status == 400

        assert client.ask("ping").result == {}


# Whose it is --------------------------------------------------------------------------------------------------------


def test_a_session_is_its_callers_alone_and_unknown_to_everybody_else(live: Live, alice: Person, bob: Person) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    with listed(live, alice) as client:
        session_id = client.address.partition("=")[2]
        changed = client.address[:-1] + ("0" if client.address[-1] != "0" else "1")

        others = [
            client.post(message, key=live.key(bob)),
            client.post(message, key=live.key(alice)),  # another key of hers
            client.post(message, address=changed),
            client.post(message, address="/mcp/messages?session_id="),
        ]

        assert [each.status for each in others] == [404] * 4
        assert [each.json()["error"]["message"] for each in others] == [SESSION_NOT_FOUND] * 4
        assert len(session_id) == 32
        for address in ("/mcp/messages", f"{client.address}&session_id=x"):
            error_of(client.post(message, address=address), 400)
        assert client.ask("ping").result == {}


def test_the_sessions_of_the_two_transports_are_no_sessions_of_each_other(live: Live, alice: Person) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    with listed(live, alice) as client:
        agent = Agent(live.url, client.key, session=client.address.partition("=")[2])
        assert agent.send("ping").status == 404
        assert agent.close().status == 404

        other = Agent(live.url, client.key).open()
        assert client.post(message, address=f"/mcp/messages?session_id={other.session}").status == 404
        assert (
            client.post(message, address="/mcp/messages?session_id=x", **{"Mcp-Session-Id": other.session}).status
            == 404
        )
        assert client.ask("ping").result == {}


def test_a_bundle_has_addresses_of_its_own(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("echo", "huge"))
    items = [BundleItemIn(capability_id=each.pk) for each in Capability.objects.all()]
    gateway.create_bundle(alice.actor, slug="pack", name="Pack", items=items)
    refresh(alice)
    with listed(live, alice, path="/mcp/pack/sse") as client:
        names = {tool["name"] for tool in client.ask("tools/list").result["tools"]}
        assert client.address.startswith("/mcp/pack/messages?session_id=")
        assert names == {"up__echo", "up__huge"}
        elsewhere = client.address.replace("/pack", "")
        assert client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, address=elsewhere).status == 404
        client.use("up__echo", {"text": "hi"})
    assert events()[-1].endpoint == "/mcp/pack/sse"
    assert live.with_key(live.key(alice)).get("/mcp/other/sse").status == 404


# What goes on -------------------------------------------------------------------------------------------------------


def test_a_stream_outlives_its_token_as_long_as_the_last_one_holds(live: Live, alice: Person, settings: Any) -> None:
    def sign_in() -> Any:
        return auth.login(email=alice.email, password=alice.password, resource=settings.MCP_AUDIENCE)

    first, second = sign_in(), sign_in()
    with speaking((live.url,), first.access, LEGACY) as client:
        client.key = second.access
        assert client.ask("ping").result == {}

        auth.logout(None, refresh=first.refresh)
        eventually(lambda: live.with_key(first.access).post("/mcp", {}).status == 401)
        time.sleep(2 * WATCH_SECONDS)  # it was looked at twice by now, and nothing has happened
        assert client.ask("ping").result == {}

        auth.logout(None, refresh=second.refresh)
        assert list(client.messages()) == []


def test_a_question_comes_on_the_stream_and_is_answered_by_a_post(live: Live, alice: Person, evil: Evil) -> None:
    evil.put("tools", [{"name": "pry", "inputSchema": {"type": "object"}}])
    offer(alice, "up", evil.url, tools=("pry",), protocol_version=LEGACY)
    asked = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}}
    said = {"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m"}

    with listed(live, alice, capabilities={"sampling": {}}, answers={"sampling/createMessage": said}) as client:
        heard = client.use("up__pry", asked)

    assert [each["method"] for each in heard.questions] == ["sampling/createMessage"]
    assert "Paris" in heard.result["content"][0]["text"]


def test_a_changed_list_is_told(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url)
    with listed(live, alice) as client:
        client.ask("tools/list")
        add_tool(server, "huge")
        refresh(alice)
        told = next(each for each in client.messages())

    assert told["method"] == "notifications/tools/list_changed"


def test_what_is_cancelled_ends_upstream_and_has_no_answer(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("hang", "echo"), timeout_seconds=60.0, max_concurrency=1)
    with listed(live, alice) as client:
        number = client.send("tools/call", {"name": "up__hang", "arguments": {}})
        eventually(lambda: evil.seen("calls") == {"hang": 1})
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
        assert client.post(note).status == 202
        eventually(lambda: evil.seen("cancelled") == {"hang": 1})

        assert client.use("up__echo", {"text": "room"}).result["content"][0]["text"] == "room"
        assert client.early == []


def test_an_id_that_is_under_way_is_not_used_twice(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("hang", "echo"), timeout_seconds=60.0)
    with listed(live, alice) as client:
        number = client.send("tools/call", {"name": "up__hang", "arguments": {}})
        client.post({"jsonrpc": "2.0", "id": number, "method": "ping"})

        assert "under way" in client.wait_for(number).error["message"]


def test_who_leaves_ends_the_session_and_all_that_it_had_upstream(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("hang", "echo"), timeout_seconds=60.0, protocol_version=LEGACY)
    with listed(live, alice) as client:
        client.use("up__echo", {"text": "hi"})
        assert len(evil.seen("sessions")) == 1
        client.send("tools/call", {"name": "up__hang", "arguments": {}})
        eventually(lambda: evil.seen("calls").get("hang") == 1)

    eventually(lambda: evil.seen("cancelled") == {"hang": 1})
    eventually(lambda: evil.seen("sessions") == [])
    eventually(lambda: client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 404)
    eventually(lambda: (events()[-1].name, events()[-1].error_code) == ("up__hang", "CANCELLED"))


def test_a_revoked_key_ends_the_stream(live: Live, alice: Person, evil: Evil) -> None:
    offer(alice, "up", evil.url, tools=("hang",), timeout_seconds=60.0)
    made = auth.create_key(alice.actor, name="gone soon")
    with speaking((live.url,), made.plain, OLDEST) as client:
        client.send("tools/call", {"name": "up__hang", "arguments": {}})
        eventually(lambda: evil.seen("calls") == {"hang": 1})

        auth.revoke_key(alice.actor, key_id=made.key.id)

        # The connection is closed long before the call would have ended; perhaps the call is refused a moment before.
        assert [said["error"]["data"]["code"] for said in client.messages()] in ([], ["NOT_AUTHENTICATED"])
        eventually(lambda: evil.seen("cancelled") == {"hang": 1})


def test_one_session_more_than_a_caller_may_have_ends_the_oldest_and_its_stream(
    live: Live, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.mcp_sessions.MOST_OF_ONE_CALLER", 2)
    key = live.key(alice)

    first, second, third = (SseSpeaker((live.url,), key, OLDEST) for _ in range(3))
    for client in (first, second, third):
        client.begin()

    assert list(first.messages()) == []
    assert [client.ask("ping").result for client in (second, third)] == [{}, {}]
    assert first.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 404
    for client in (first, second, third):
        client.end()


def test_more_than_a_session_may_have_under_way_is_refused_on_the_stream(
    live: Live, alice: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.mcp_conversation.MOST_BYTES_UNDER_WAY", 10_000)
    offer(alice, "up", evil.url, tools=("hang",), timeout_seconds=60.0)
    with listed(live, alice) as client:
        client.send("tools/call", {"name": "up__hang", "arguments": {"text": "x" * 9000}})

        assert (
            "Too many"
            in client.ask("tools/call", {"name": "up__hang", "arguments": {"text": "x" * 2000}}).error["message"]
        )
        assert client.ask("ping").result == {}


def test_a_stream_that_stays_quiet_says_that_it_is_still_there(
    live: Live, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mcp_streams.PING_SECONDS <= 15
    monkeypatch.setattr("config.mcp_streams.PING_SECONDS", 0.1)

    with listed(live, alice) as client:
        assert next(client.events()) == ("", ": still here\n")


# What waits ---------------------------------------------------------------------------------------------------------


class Reader:
    """A connection that takes a part when it is let."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.may_read = asyncio.Event()

    async def send(self, message: Any) -> None:
        """Take a part."""
        await self.may_read.wait()
        self.parts.append(message.get("body", b""))


def test_answers_wait_for_each_other_and_nothing_promised_is_dropped() -> None:
    async def story() -> None:
        wire, reader = Wire(b"hello"), Reader()
        reading = asyncio.ensure_future(wire.copy(reader.send))
        large = [bytes([65 + number]) * 6 * MEBIBYTE for number in range(3)]
        delivering = [asyncio.ensure_future(wire.deliver(each)) for each in large]
        await asyncio.sleep(0)

        assert wire.size == 6 * MEBIBYTE  # one is on its way, and two are with those who bring them
        assert wire.put(b"q" * 5 * MEBIBYTE)
        assert not wire.put(b"q" * 5 * MEBIBYTE)  # too many questions that nobody reads
        assert not wire.put(b"n", may_be_dropped=True)
        reader.may_read.set()
        await asyncio.gather(*delivering)
        assert wire.put(b"n", may_be_dropped=True)
        wire.end()
        await reading

        told = b"".join(reader.parts)
        assert told.startswith(b"hello")
        assert [each in told for each in (*large, b"q" * 5 * MEBIBYTE)] == [True] * 4
        assert told.endswith(b"data: n\n\n") and wire.size == 0

    asyncio.run(story())


def test_an_answer_does_not_wait_for_a_stream_that_has_ended() -> None:
    async def story() -> None:
        wire = Wire(b"")
        delivering = asyncio.ensure_future(wire.deliver(b"{}"))
        await asyncio.sleep(0)
        wire.end()
        async with asyncio.timeout(60):
            await delivering
            await wire.deliver(b"{}")

    asyncio.run(story())
