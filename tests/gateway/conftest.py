"""Upstreams beside the platform: a good one, and one whose tools misbehave."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from apps.gateway import services as gateway
from apps.usage import services as usage
from apps.usage.models import UsageEvent
from tests.fixtures.servers import Process, evil_upstream, free_port


class Evil:
    """The evil upstream, and what it saw."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}/mcp"

    def seen(self, what: str) -> Any:
        """What it remembers: headers, calls, cancelled, sessions."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_{what}", timeout=60) as answer:
            return json.loads(answer.read())

    def put(self, what: str, value: Any) -> None:
        """Change how it behaves."""
        body = json.dumps(value).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/_{what}", data=body, method="PUT")
        urllib.request.urlopen(asked, timeout=60).close()


@pytest.fixture
def evil(settings: Any) -> Iterator[Evil]:
    """The evil upstream, which this platform may call."""
    port = free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    with evil_upstream(port) as process:
        yield Evil(process, port)


@pytest.fixture
def good(settings: Any) -> Iterator[Evil]:
    """A second upstream of the same kind, whose good tools are used."""
    port = free_port()
    settings.EGRESS_ALLOW = frozenset({*settings.EGRESS_ALLOW, f"127.0.0.1:{port}"})
    with evil_upstream(port) as process:
        yield Evil(process, port)


@pytest.fixture(autouse=True)
def _forget_snapshots() -> Iterator[None]:
    gateway.forget_snapshots()
    yield
    gateway.forget_snapshots()


def events() -> list[UsageEvent]:
    """The usage events so far, oldest first."""
    usage.flush()
    return list(UsageEvent.objects.order_by("id"))
