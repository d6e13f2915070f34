"""What comes in at /mcp and what does not: host, origin, credential, body, session."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
from django.conf import settings

from apps.auth import services as auth
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, Agent, agent_of
from tests.gateway.speaker import rest_of
from tests.gateway.test_giving_up import eventually
from tests.live import Answer, Client, Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)


def error_of(answer: Answer, status: int) -> dict[str, Any]:
    """The envelope's error of a refusal with this status."""
    assert answer.status == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "details", "timestamp", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    return error


def raw(live: Live, head: str) -> bytes:
    """The answer to a request as it is written here."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as wire:
        wire.sendall(head.replace("\n", "\r\n").encode("latin-1"))
        return wire.recv(65536)


@pytest.mark.parametrize("revision", BOTH)
def test_nobody_gets_in_without_a_credential(live: Live, revision: str) -> None:
    answer = Agent(live.url, "", revision).send("tools/list")

    assert error_of(answer, 401)["code"] == "NOT_AUTHENTICATED"
    assert answer.headers["www-authenticate"].startswith('Bearer realm="gatehouse"')


@pytest.mark.parametrize("credential", ["gate_nonsense", "e.y.J", "x" * 10_000, "ü"])
def test_a_wrong_credential_is_refused(live: Live, credential: str) -> None:
    error_of(Client(live.url, {"Authorization": f"Bearer {credential}"}).post("/mcp", {}), 401)


def test_a_credential_in_the_address_is_refused(live: Live, alice: Person) -> None:
    key = live.key(alice)
    for name in ("access_token", "token", "api_key", "KEY"):
        error_of(Client(live.url).post("/mcp", {}, query={name: key}), 401)
        error_of(live.with_key(key).post("/mcp", {}, query={name: key}), 401)


def test_a_token_for_rest_does_not_open_mcp(live: Live, alice: Person) -> None:
    error_of(live.rest(alice).post("/mcp", {}), 401)


@pytest.mark.parametrize("revision", BOTH)
def test_a_token_for_mcp_opens_it_and_its_session_outlives_the_token(live: Live, alice: Person, revision: str) -> None:
    first, second = (
        auth.login(email=alice.email, password=alice.password, resource=f"{settings.MCP_AUDIENCE}").access
        for _ in range(2)
    )
    agent = Agent(live.url, first, revision)
    assert "search" in agent.names()

    agent.key = second

    assert "search" in agent.names()


def test_a_platform_admin_without_an_organization_has_native_tools_only(
    live: Live, root: Person, alice: Person
) -> None:
    token = auth.login(email=root.email, password=root.password, resource=settings.MCP_AUDIENCE).access
    agent = Agent(live.url, token)

    assert agent.names() == {"platform_health", "platform_metadata", "search", "fetch"}
    assert agent.call("platform_metadata")["structuredContent"]["organization"] == ""
    inside = Agent(live.url, token, MODERN, headers={"X-Organization": "acme"})
    assert inside.call("platform_metadata")["structuredContent"]["organization"] == "acme"


@pytest.mark.parametrize("revision", BOTH)
def test_pages_of_other_origins_are_refused(live: Live, alice: Person, revision: str) -> None:
    agent = agent_of(live, alice, revision)
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{live.port}.evil.example", "http://127.0.0.1:1"):
        answer = agent.send("tools/list", headers={"Origin": origin})
        assert error_of(answer, 403)["code"] == "NOT_PERMITTED"


def test_our_own_origin_and_no_origin_are_served(live: Live, alice: Person) -> None:
    agent = agent_of(live, alice, MODERN)
    for headers in ({}, {"Origin": live.url}, {"Origin": f"http://localhost:{live.port}"}):
        assert agent.send("tools/list", headers=headers).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "a b"])
def test_another_host_name_is_misdirected(live: Live, alice: Person, host: str) -> None:
    key = live.key(alice)
    answer = raw(
        live, f"POST /mcp HTTP/1.1\nHost: {host}\nAuthorization: Bearer {key}\nContent-Length: 0\nConnection: close\n\n"
    )

    # An empty or broken name may be refused by the server before it reaches us.
    assert answer.split(b" ")[1] in ((b"421",) if host and " " not in host else (b"421", b"400"))


def test_host_and_origin_come_before_the_credential(live: Live) -> None:
    answer = raw(live, "POST /mcp HTTP/1.1\nHost: evil.example\nContent-Length: 0\nConnection: close\n\n")
    assert answer.split(b" ")[1] == b"421"
    error_of(Client(live.url, {"Origin": "https://evil.example"}).post("/mcp", {}), 403)


def test_two_hosts_or_two_credentials_are_malformed(live: Live, alice: Person) -> None:
    key = live.key(alice)
    for twice in (f"Authorization: Bearer {key}\nAuthorization: Bearer x", f"Origin: a\nOrigin: {live.url}"):
        answer = raw(live, f"POST /mcp HTTP/1.1\nHost: 127.0.0.1\n{twice}\nContent-Length: 0\nConnection: close\n\n")
        assert answer.split(b" ")[1] == b"400"


def test_other_methods_are_refused(live: Live, alice: Person) -> None:
    client = live.with_key(live.key(alice))
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE"):
        answer = client.request(method, "/mcp")
        assert error_of(answer, 405)["code"] == "METHOD_NOT_ALLOWED"
        assert answer.headers["allow"] == "GET, POST, DELETE"


def test_the_stateless_revision_takes_post_alone(live: Live, alice: Person) -> None:
    client = live.with_key(live.key(alice))
    for method in ("GET", "DELETE"):
        answer = client.request(method, "/mcp", headers={"MCP-Protocol-Version": MODERN, "Mcp-Session-Id": "x"})
        error_of(answer, 405)
        assert answer.headers["allow"] == "POST"


def test_a_slash_at_the_end_is_the_same_address_and_nothing_else_is(live: Live, alice: Person) -> None:
    agent = agent_of(live, alice, MODERN)

    assert agent.send("tools/list", path="/mcp/").status == 200
    for path in ("/mcp/other", "/mcp/../mcp/x", "/mcp/v1"):
        error_of(agent.send("tools/list", path=path), 404)


HOSTILE = {
    "not json": b"{",
    "not utf-8": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "NaN": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":NaN}}}',
    "Infinity": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":1e400}}}',
    "NUL": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\\u0000b"}}',
    "half a surrogate": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\ud800"}}',
    "a name twice": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}',
    "depth": b"[" * 100_000 + b"]" * 100_000,
    "a huge integer": b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}',
}


@pytest.mark.parametrize("revision", BOTH)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies_are_refused_at_the_door(live: Live, alice: Person, revision: str, body: bytes) -> None:
    answer = agent_of(live, alice, revision).post(body, "tools/list")

    assert error_of(answer, 400)["code"] == "MALFORMED"


def test_a_body_that_is_too_long_is_refused(live: Live, alice: Person, settings: Any) -> None:
    settings.MAX_BODY_BYTES = 1000
    agent = agent_of(live, alice, MODERN)

    assert error_of(agent.post(b" " * 1001), 413)["code"] == "TOO_LARGE"


def test_a_body_of_another_type_is_refused(live: Live, alice: Person) -> None:
    agent = agent_of(live, alice)
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        assert error_of(agent.post(b"{}", headers=headers), 415)["code"] == "UNSUPPORTED_MEDIA_TYPE"


def test_a_client_that_accepts_only_json_is_served(live: Live, alice: Person) -> None:
    for revision in BOTH:
        agent = agent_of(live, alice, revision)
        agent.headers["Accept"] = "application/json"
        assert "platform_health" in agent.names()


def test_a_key_speaks_for_its_own_organization_only(live: Live, alice: Person, bob: Person) -> None:
    agent = agent_of(live, alice, MODERN)

    assert agent.send("tools/list", headers={"X-Organization": "acme"}).status == 200
    error_of(agent.send("tools/list", headers={"X-Organization": "globex"}), 400)


@pytest.mark.parametrize("revision", BOTH)
def test_a_revoked_key_is_refused_within_a_second(live: Live, alice: Person, revision: str) -> None:
    made = auth.create_key(alice.actor, name="agent")
    agent = Agent(live.url, made.plain, revision)
    agent.list()

    auth.revoke_key(alice.actor, key_id=made.key.id)
    time.sleep(1)

    error_of(agent.send("tools/list"), 401)


def test_a_session_belongs_to_the_key_that_opened_it(live: Live, alice: Person, bob: Person) -> None:
    agent = agent_of(live, alice).open()

    for other in (agent_of(live, bob), agent_of(live, alice)):
        other.session = agent.session
        answer = other.send("tools/list")
        assert answer.status == 404
        assert "Session not found" in answer.text
        assert other.close().status == 404

    assert agent.names()


def test_a_session_that_was_ended_is_gone(live: Live, alice: Person) -> None:
    agent = agent_of(live, alice).open()

    assert agent.close().status == 200

    assert agent.send("tools/list").status == 404


@contextmanager
def streaming(agent: Agent) -> Iterator[HTTPResponse]:
    """The stream of a session, or of a subscription, which has begun."""
    connection = HTTPConnection(agent.url.removeprefix("http://"), timeout=60)
    if agent.revision == LEGACY:
        connection.request("GET", "/mcp", headers=agent.open()._headers("", {}))
    else:
        meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}
        connection.request("POST", "/mcp", json.dumps(body), agent._headers("subscriptions/listen", params))
    response = connection.getresponse()
    assert response.status == 200 and response.readline()
    yield response
    connection.close()


@pytest.mark.measured
def test_an_open_stream_ends_soon_after_its_key_is_revoked(live: Live, alice: Person) -> None:
    made = auth.create_key(alice.actor, name="agent")
    with streaming(Agent(live.url, made.plain, LEGACY)) as response:
        auth.revoke_key(alice.actor, key_id=made.key.id)
        began = time.monotonic()
        rest_of(response)

    assert time.monotonic() - began < 5


@pytest.mark.parametrize("revision", BOTH)
def test_a_stream_whose_key_is_revoked_has_an_end_and_is_no_error(
    live: Live, alice: Person, caplog: pytest.LogCaptureFixture, revision: str
) -> None:
    made = auth.create_key(alice.actor, name="agent")
    with streaming(Agent(live.url, made.plain, revision)) as response:
        auth.revoke_key(alice.actor, key_id=made.key.id)
        rest_of(response)

    eventually(lambda: not live._server.server_state.tasks)
    assert not [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


def test_requests_before_the_handshake_are_refused_in_json_rpc(live: Live, alice: Person) -> None:
    answer = agent_of(live, alice).send("tools/list")

    assert answer.status == 400
    assert answer.json()["error"]["code"] == -32600


def test_batches_are_refused(live: Live, alice: Person) -> None:
    for revision in BOTH:
        body = b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]'
        assert agent_of(live, alice, revision).post(body, "tools/list").status == 400


def test_nobody_holds_all_sessions(live: Live, alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.mcp_sessions.MOST_OF_ONE_CALLER", 3)
    monkeypatch.setattr("config.mcp_sessions.MOST_OF_ONE_ORGANIZATION", 5)
    hers, his = live.key(alice), live.key(bob)
    bobs = Agent(live.url, his).open()
    first, second, third = (Agent(live.url, hers).open() for _ in range(3))
    assert first.send("tools/list").status == 200  # so that the second was left alone for longest

    fourth = Agent(live.url, hers).open()

    assert [each.send("tools/list").status for each in (first, second, third, fourth)] == [200, 404, 200, 200]
    others = [Agent(live.url, live.key(alice)).open() for _ in range(3)]
    assert [each.send("tools/list").status for each in (first, third, fourth)] == [404, 200, 200]
    assert [each.send("tools/list").status for each in (*others, bobs)] == [200] * 4


def test_who_has_many_keys_pushes_nobody_else_out(
    live: Live, alice: Person, adam: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.mcp_sessions.MOST_OF_ONE_ORGANIZATION", 3)
    his = Agent(live.url, live.key(adam)).open()

    hers = [Agent(live.url, live.key(alice)).open() for _ in range(5)]

    assert his.send("tools/list").status == 200
    assert [each.send("tools/list").status for each in hers] == [404, 404, 404, 200, 200]


def test_a_session_that_its_client_ends_makes_room(live: Live, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("config.mcp_sessions.MOST_OF_ONE_CALLER", 2)
    key = live.key(alice)
    first, second = Agent(live.url, key).open(), Agent(live.url, key).open()

    assert second.close().status == 200
    third = Agent(live.url, key).open()

    assert [each.send("tools/list").status for each in (first, second, third)] == [200, 404, 200]


def test_a_session_of_somebody_else_is_not_ended_by_asking(live: Live, alice: Person, adam: Person) -> None:
    session = Agent(live.url, live.key(alice)).open()

    other = Agent(live.url, live.key(adam), session=session.session)

    assert other.close().status == 404
    assert other.send("tools/list").status == 404
    assert session.send("tools/list").status == 200
