"""What a server answers wrongly, over each transport: the caller gets what is theirs, or an error, and nothing else."""

import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from apps.registry.models import Risk
from tests.fixtures.servers import evil_stdio_command
from tests.gateway.agent import BOTH, LEGACY, MODERN, add_tool, agent_of, offer, refresh
from tests.gateway.conftest import Evil, events
from tests.gateway.test_checking import NUMBER, defined
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
WAYS = ("http", "stream", "sse", "stdio")
TIMES = 20


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, evil: Evil, settings: Any) -> dict[str, Any]:
    """How the server is reached."""
    settings.STDIO_ALLOW = (shlex.join(evil_stdio_command()),)
    if request.param == "stream":
        evil.put("answers", "sse")
    ways: dict[str, dict[str, Any]] = {
        "http": {"url": evil.url, "protocol_version": MODERN},
        "stream": {"url": evil.url, "protocol_version": LEGACY},
        "sse": {"transport": "sse", "url": f"http://127.0.0.1:{evil.port}/sse"},
        "stdio": {"transport": "stdio", "command": evil_stdio_command()},
    }
    return ways[request.param]


@pytest.mark.parametrize("revision", BOTH)
def test_a_second_answer_reaches_nobody(
    live: Live, alice: Person, evil: Evil, way: dict[str, Any], revision: str
) -> None:
    offer(alice, "up", tools=("twice", "echo"), timeout_seconds=30.0, **way)
    agents = [agent_of(live, alice, revision).open() for _ in range(4)]
    words = [f"word {number}" for number in range(TIMES)]

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda n: agents[n % 4].text("up__twice", text=words[n]), range(TIMES)))
        echoed = list(threads.map(lambda n: agents[n % 4].text("up__echo", text=words[n]), range(TIMES)))

    assert told == echoed == words
    assert [event.status for event in events()] == ["ok"] * 2 * TIMES


def test_an_answer_to_what_nobody_asked_reaches_nobody_over_any_transport(
    live: Live, alice: Person, evil: Evil, way: dict[str, Any]
) -> None:
    if way.get("transport") == "stdio":
        pytest.skip("that server has no such tool")
    offer(alice, "up", tools=("wrong_id", "echo"), timeout_seconds=2.0, **way)
    agent = agent_of(live, alice)

    error = agent.failure("up__wrong_id")

    assert error["code"] in ("BACKEND_FAILED", "BACKEND_TIMEOUT")
    assert "not yours" not in str(error)
    assert agent.text("up__echo", text="still there") == "still there"


@pytest.mark.parametrize("revision", BOTH)
def test_a_broken_promise_is_told_as_an_error_over_streams_too_and_errors_are_not_kept(
    live: Live, alice: Person, evil: Evil, revision: str
) -> None:
    evil.put("answers", "sse")
    server = offer(alice, "up", evil.url, tools=())
    kept: dict[str, Any] = {"risk": Risk.LOW, "cache_seconds": 60}
    add_tool(server, "structured_bad", **kept, **defined("structured_bad", outputSchema=NUMBER))
    add_tool(server, "is_error", **kept)
    refresh(alice)
    agent = agent_of(live, alice, revision)

    for _ in range(2):
        broken = agent.call("up__structured_bad")
        assert broken["isError"] is True and "structuredContent" not in broken and "many" not in str(broken)
        failed = agent.call("up__is_error")
        assert failed["isError"] is True and failed["content"][0]["text"] == "The tool failed on purpose."

    assert evil.seen("calls") == {"structured_bad": 2, "is_error": 2}
    told = {(event.name, event.status, event.error_code) for event in events()}
    assert told == {("up__structured_bad", "error", "BACKEND_FAILED"), ("up__is_error", "error", "TOOL_ERROR")}


def test_an_older_agent_takes_nothing_out_of_a_kept_result(live: Live, alice: Person, evil: Evil) -> None:
    server = offer(alice, "up", evil.url, tools=(), protocol_version=MODERN)
    add_tool(server, "structured", risk=Risk.LOW, cache_seconds=60)
    refresh(alice)
    newer, older = agent_of(live, alice, MODERN), agent_of(live, alice)
    first = newer.call("up__structured", value=[1, 2])
    assert first["structuredContent"] == [1, 2]

    assert "structuredContent" not in older.call("up__structured", value=[1, 2])

    assert newer.call("up__structured", value=[1, 2]) == first
    assert evil.seen("calls") == {"structured": 1}
