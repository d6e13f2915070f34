"""Who listens: told of what has changed since the last time, on one stream, and acknowledged whatever servers do."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest
from django.db import OperationalError

from apps.auth import services as auth
from apps.core.errors import BackendDown
from tests.gateway.agent import LEGACY, META, MODERN, Agent, add_tool, agent_of, change, offer, refresh
from tests.gateway.conftest import Evil
from tests.gateway.test_wire import listening
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
CHANGED = "notifications/tools/list_changed"


def acknowledged(agent: Agent, uris: list[str]) -> Any:
    """The acknowledgement of `subscriptions/listen`; the stream is left after it."""
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    params = {"notifications": {"resourceSubscriptions": uris}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).encode()
    sent = {**agent._headers("subscriptions/listen", {}), "Host": "127.0.0.1", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    with socket.create_connection(("127.0.0.1", int(agent.url.rpartition(":")[2])), timeout=60) as wire:
        wire.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        for line in wire.makefile("rb"):
            if line.startswith(b"data: {"):
                return json.loads(line[6:])["params"]["notifications"]
    raise AssertionError("the stream has ended")


def resource(server: Any, uri: str) -> None:
    """One more resource of a server."""
    add_tool(server, uri, kind="resource", definition={"uri": uri, "name": "note"}, public_name=uri)


def test_what_changed_while_nobody_listened_is_told_to_who_listens_again(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url)
    agent = agent_of(live, alice).open()
    assert "up__echo" in agent.names()
    add_tool(server, "add")
    refresh(alice)

    with listening(live, agent) as reader:
        assert reader.next()[1]["method"] == CHANGED

    change(server, is_enabled=False)
    with listening(live, agent) as reader:
        assert reader.next()[1]["method"] == CHANGED


def test_a_stream_has_one_reader_and_the_newest_is_it(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url)
    agent = agent_of(live, alice).open()

    with listening(live, agent) as first, listening(live, agent, "0-0") as second:
        for line in first.file:  # until it ends, which is before it would say that it is still there
            assert not line.startswith((b": still here", b"data: {")), line
        add_tool(server, "add")
        refresh(alice)
        assert second.next()[1]["method"] == CHANGED


@pytest.mark.parametrize(
    "error", [OperationalError("the database is away"), BackendDown()], ids=["database", "threads"]
)
def test_a_stream_goes_on_while_nobody_knows_whether_its_caller_may_listen(
    live: Live, alice: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    server = offer(alice, "up", evil.url)
    agent = agent_of(live, alice).open()
    has_asked = Event()

    def nobody_knows(*_: Any, **__: Any) -> None:
        has_asked.set()
        raise error

    with listening(live, agent) as reader:
        with monkeypatch.context() as outage:
            outage.setattr(auth, "known_actor", nobody_knows)
            assert has_asked.wait(60)
        add_tool(server, "add")
        refresh(alice)
        assert reader.next()[1]["method"] == CHANGED


@contextmanager
def stopped(evil: Evil) -> Iterator[None]:
    """The server accepts connections, and then does nothing."""
    os.kill(evil.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(evil.process.pid, signal.SIGCONT)


def test_who_listens_is_acknowledged_without_what_hangs(
    live: Live, alice: Person, evil: Evil, good: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.mcp_notices.FIRST_ANSWERS_SECONDS", 1.0)
    hangs = offer(alice, "hangs", evil.url, tools=(), protocol_version=LEGACY, timeout_seconds=50.0)
    works = offer(alice, "works", good.url, tools=(), protocol_version=MODERN)
    for number in range(3):
        resource(hangs, f"slow://{number}")
    resource(works, "quick://1")
    refresh(alice)

    with stopped(evil):
        told = acknowledged(
            agent_of(live, alice, MODERN), ["slow://0", "slow://1", "slow://2", "quick://1", "none://1"]
        )

    assert told == {"resourceSubscriptions": ["quick://1"]}


def test_one_resource_is_asked_for_once_however_often_it_is_named(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=(), protocol_version=MODERN)
    resource(server, "demo://note")
    refresh(alice)

    told = acknowledged(agent_of(live, alice, MODERN), ["demo://note"] * 201)

    assert told == {"resourceSubscriptions": ["demo://note"]}
