"""Who loses a right in the middle of a call has no call of it any more, within seconds."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from django.db import OperationalError

from apps.auth import services as auth
from apps.auth.models import Membership
from apps.core.errors import NotAuthenticated
from apps.registry import services as registry
from apps.registry.models import Server
from config import mcp_rights, mcp_streams
from config.mcp_messages import Message
from tests.fixtures.faults import eventually
from tests.gateway.agent import LEGACY, MODERN, Agent, offer
from tests.gateway.conftest import Evil, events
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE_SECONDS = 60
NEVER = 3600.0
WORKING = {"taskId": "theirs", "status": "working", "createdAt": "2026-11-01T00:00:00Z",
           "lastUpdatedAt": "2026-11-01T00:00:00Z", "ttlMs": None, "pollIntervalMs": 100}  # fmt: skip
PROMISE = {"name": "up__promise", "arguments": {"task": WORKING, "is_needed": True}}
HANG = {"name": "up__hang", "arguments": {}}


def revoked(alice: Person, dora: Person, key: Any) -> None:
    auth.revoke_key(dora.actor, key_id=key.key.id)


def demoted(alice: Person, dora: Person, key: Any) -> None:
    membership = Membership.objects.get(user=dora.user)
    auth.change_role(alice.actor, organization_id=alice.organization.id, membership_id=membership.id, role="viewer")


def disabled(alice: Person, dora: Person, key: Any) -> None:
    registry.disable_server(alice.actor, server_id=Server.objects.get().id)


CASES = [
    (revoked, "NOT_AUTHENTICATED", LEGACY, 401), (revoked, "NOT_AUTHENTICATED", MODERN, 401),
    (demoted, "NOT_PERMITTED", LEGACY, 200), (demoted, "NOT_PERMITTED", MODERN, 200),
    (disabled, "NOT_FOUND", LEGACY, 200), (disabled, "NOT_FOUND", MODERN, 400),
]  # fmt: skip
"""What is lost, how the call ends, for an agent of which revision, and with which status."""


@pytest.fixture(autouse=True)
def _no_stream_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_streams, "PING_SECONDS", NEVER)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[2]}")
def test_a_call_ends_that_would_not_be_let_in_any_more(
    live: Live, alice: Person, dora: Person, evil: Evil, case: tuple[Callable[..., None], str, str, int]
) -> None:
    lose, code, revision, status = case
    key = auth.create_key(dora.actor, name="hers")
    offer(alice, "up", evil.url, tools=("hang",), timeout_seconds=300.0, protocol_version=revision)
    agent = Agent(live.url, key.plain, revision, timeout=PATIENCE_SECONDS).open()

    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(agent.send, "tools/call", HANG)
        assert eventually(lambda: evil.seen("calls").get("hang") == 1, PATIENCE_SECONDS)
        lose(alice, dora, key)
        answer = called.result()

    told = answer.json()["error"]
    assert answer.status == status
    assert code == (told["code"] if status == 401 else told["data"]["code"])
    assert eventually(lambda: evil.seen("cancelled").get("hang") == 1, PATIENCE_SECONDS)
    assert eventually(lambda: [each.error_code for each in events() if each.name == "up__hang"], PATIENCE_SECONDS)


def test_an_answer_that_has_begun_says_why_it_ends(
    live: Live, alice: Person, dora: Person, evil: Evil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_streams, "PING_SECONDS", 0.2)
    key = auth.create_key(dora.actor, name="hers")
    offer(alice, "up", evil.url, tools=("hang",), timeout_seconds=300.0)
    agent = Agent(live.url, key.plain).open()
    connection = HTTPConnection("127.0.0.1", live.port, timeout=PATIENCE_SECONDS)
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": HANG})
    connection.request("POST", "/mcp", body, agent._headers("tools/call", HANG))
    response = connection.getresponse()
    assert response.headers.get_content_type() == "text/event-stream"

    auth.revoke_key(dora.actor, key_id=key.key.id)

    said = [json.loads(line[6:]) for line in response.read().decode().splitlines() if line.startswith("data: {")]
    assert [(each["id"], each["error"]["data"]["code"]) for each in said] == [(7, "NOT_AUTHENTICATED")]
    connection.close()


def test_a_task_that_is_waited_for_ends_with_the_right_to_call(
    live: Live, alice: Person, dora: Person, evil: Evil
) -> None:
    evil.put("tools", [{"name": "promise", "inputSchema": {"type": "object"}}])
    evil.put("task", WORKING)
    offer(alice, "up", evil.url, tools=("promise",), protocol_version=MODERN)
    agent = Agent(live.url, live.key(dora), timeout=PATIENCE_SECONDS).open()

    with ThreadPoolExecutor(1) as threads:
        called = threads.submit(agent.ask, "tools/call", PROMISE)
        assert eventually(lambda: evil.seen("calls").get("tasks/get", 0) > 0, PATIENCE_SECONDS)
        demoted(alice, dora, None)

        assert called.result()["error"]["data"]["code"] == "NOT_PERMITTED"
    assert eventually(lambda: evil.seen("calls").get("tasks/cancel") == 1, PATIENCE_SECONDS)


def test_nothing_ends_because_a_token_s_time_is_over_or_nobody_knows() -> None:
    async def outcome(error: Exception) -> None:
        async def admit() -> Any:
            raise error

        await mcp_rights.still_allowed(admit, Message(1, "tools/call", {"name": "x"}, {}), "")()

    for harmless in (auth.TokenExpired(), OperationalError("the database is away"), RuntimeError("a bug")):
        asyncio.run(outcome(harmless))
    with pytest.raises(NotAuthenticated):
        asyncio.run(outcome(NotAuthenticated()))
