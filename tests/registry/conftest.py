"""Upstreams of our own on loopback, and short ways to speak to them."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from apps.core import egress
from apps.registry.backends.base import ServerRoute
from tests.fixtures import servers

T = TypeVar("T")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run async work in a loop of its own, and close its pool."""

    async def whole() -> T:
        try:
            return await work()
        finally:
            await egress.close_shared_session()

    return asyncio.run(whole())


def make_route(**values: Any) -> ServerRoute:
    """The way to a server of nobody's."""
    defaults: dict[str, Any] = {"slug": "evil", "name": "Evil", "transport": "streamable_http", "timeout_seconds": 5.0}
    return ServerRoute(id=uuid4(), organization_id=uuid4(), **{**defaults, **values})


class Evil:
    """The misbehaving upstream: where it is, and what it remembers."""

    def __init__(self, port: int, process: servers.Process) -> None:
        self.port = port
        self.process = process
        self.url = f"http://127.0.0.1:{port}/mcp"
        self.sse_url = f"http://127.0.0.1:{port}/sse"

    def control(self, what: str, method: str = "GET", content: Any = None) -> Any:
        """Ask for, change or forget what it remembers."""
        body = None if content is None else json.dumps(content).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.port}/_{what}", data=body, method=method), timeout=60) as answer:
            return json.loads(answer.read())

    def offer(self, *tools: Any) -> None:
        """List these tools from now on."""
        self.control("tools", "PUT", list(tools))

    def forget(self) -> None:
        """Be as new."""
        for what in ("headers", "calls", "cancelled", "sessions", "tools", "replies"):
            self.control(what, "DELETE")
        self.control("answers", "PUT", "json")


@pytest.fixture(scope="session")
def evil_process() -> Iterator[Evil]:
    """The misbehaving upstream, one for all tests that do not kill it."""
    port = servers.free_port()
    with servers.evil_upstream(port) as process:
        yield Evil(port, process)


@pytest.fixture
def evil(evil_process: Evil, settings: Any) -> Evil:
    """The misbehaving upstream, as new, and listed by the operator."""
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{evil_process.port}"})
    evil_process.forget()
    return evil_process


@pytest.fixture
def own_evil(settings: Any) -> Iterator[Evil]:
    """A misbehaving upstream that the test may kill."""
    port = servers.free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    with servers.evil_upstream(port) as process:
        yield Evil(port, process)


@pytest.fixture
def stdio_command(settings: Any) -> list[str]:
    """The command line of the misbehaving stdio server, listed by the operator."""
    command = servers.evil_stdio_command()
    settings.STDIO_ALLOW = (" ".join(command),)
    assert command[0] == sys.executable
    return command
