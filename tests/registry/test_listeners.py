"""What a server says beside its answers, and what it asks, against servers that really do so."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from apps.core.errors import BackendTimeout
from apps.registry.backends.base import Refused, ServerRoute, Upstream
from apps.registry.services.routes import connect
from tests.fixtures import servers
from tests.registry.conftest import make_route, run

pytestmark = pytest.mark.slow_process
CONFORMANCE = [sys.executable, "-m", "tests.fixtures.conformance"]
CAN = {"sampling": {}, "elicitation": {"form": {}}, "roots": {}}
WAITS = 20.0
Said = tuple[str, dict[str, Any]]
Answer = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def refuse(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Nobody is there."""
    raise Refused(-1, "The user said no.", {"why": "tired"})


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
    with servers.Process([*CONFORMANCE, "--port", str(port)], ready=port):
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
                await asyncio.wait_for(asyncio.Event().wait(), 2.5)
            return {"action": "decline"}

        said = await call(upstream, "test_elicitation", Ear(slowly), 2.0, message="Who?")
        assert "action=decline" in text_of(said)

        with pytest.raises(BackendTimeout):
            await call(upstream, "test_tool_with_progress", Ear(), 0.05)  # nobody is asked: it holds

    opened(legacy, work, capabilities=CAN)
