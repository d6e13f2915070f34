"""What every way to a server promises, whichever transport it is: one suite for all backends of `Upstream`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.conf import settings as configured

from apps.core.errors import BackendDown, BackendError, BackendTimeout, TooLarge
from apps.registry.backends.base import ServerRoute, Upstream, UpstreamError
from apps.registry.models import Transport
from apps.registry.services.routes import connect
from tests.registry.conftest import Evil, make_route, run

pytestmark = pytest.mark.slow_process
WAYS = ("streamable_http, newest", "streamable_http, 2025", "sse", "stdio")
HANGS: dict[str, tuple[str, dict[str, Any]]] = {"stdio": ("sleep", {"ms": 60_000})}
CRASHES: dict[str, tuple[str, dict[str, Any]]] = {"stdio": ("exit_now", {})}


@pytest.fixture(params=WAYS)
def way(request: Any) -> str:
    """Each backend, streamable HTTP in both eras."""
    name: str = request.param
    return name


@pytest.fixture
def route(way: str, own_evil: Evil, stdio_command: list[str]) -> ServerRoute:
    """The way to the misbehaving server; the test may end it."""
    if way == "stdio":
        return make_route(transport="stdio", command=tuple(stdio_command), env={"API_TOKEN": "planted-secret"})
    given = {"headers": {"Authorization": "Bearer planted-secret"}}
    if way == "sse":
        return make_route(transport="sse", url=own_evil.sse_url, **given)
    version = "2025-11-25" if "2025" in way else ""
    return make_route(transport="streamable_http", url=own_evil.url, protocol_version=version, **given)


def opened(route: ServerRoute, work: Callable[[Upstream], Awaitable[Any]]) -> Any:
    """Open, work, close."""

    async def whole() -> Any:
        upstream = connect(route)
        await upstream.open()
        try:
            return await work(upstream)
        finally:
            await upstream.aclose()

    return run(whole)


async def call(upstream: Upstream, name: str, seconds: float = 60, **arguments: Any) -> dict[str, Any]:
    """One tool call."""
    return await upstream.request("tools/call", {"name": name, "arguments": arguments}, timeout_seconds=seconds)


def test_every_transport_that_can_be_registered_has_a_backend_in_this_suite() -> None:
    assert set(configured.BACKENDS["upstream"]) == set(Transport.values) == {name.partition(",")[0] for name in WAYS}


def test_the_life_of_an_upstream(route: ServerRoute, way: str) -> None:
    """It opens, says who it is, lists, answers many at once, refuses, times out, and is still there; then it ends."""

    async def work(upstream: Upstream) -> None:
        states = [upstream.is_open]
        assert upstream.protocol_version in ("2025-11-25", "2026-07-28")
        assert (await upstream.request("tools/list", {}, timeout_seconds=5))["tools"]

        answers = await asyncio.gather(*(call(upstream, "echo", text=f"grüße {number}") for number in range(20)))
        assert [answer["content"][0]["text"] for answer in answers] == [f"grüße {number}" for number in range(20)]

        with pytest.raises(UpstreamError) as refusal:
            await call(upstream, "nothing_of_the_kind")
        assert refusal.value.rpc_code == -32602

        hang, arguments = HANGS.get(way, ("hang", {}))
        with pytest.raises(BackendTimeout, match="did not answer within"):
            await call(upstream, hang, 0.3, **arguments)

        given_up = asyncio.create_task(call(upstream, hang, 60, **arguments))
        await asyncio.sleep(0.05)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up

        assert (await call(upstream, "echo", text="still there"))["content"][0]["text"] == "still there"
        await upstream.aclose()
        assert [*states, upstream.is_open] == [True, False]
        with pytest.raises(BackendDown):
            await call(upstream, "echo", text="too late")

    opened(route, work)  # which closes it a second time


def test_an_answer_beyond_the_limit_is_cut_and_is_not_the_servers_outage(route: ServerRoute, settings: Any) -> None:
    settings.UPSTREAM_MAX_RESULT_BYTES = 300_000

    async def work(upstream: Upstream) -> None:
        assert await call(upstream, "echo", text="x" * 200_000)
        with pytest.raises(BackendError, match=r"more than 300000 bytes.*Ask for less") as failure:
            await call(upstream, "echo", text="x" * 400_000)
        assert isinstance(failure.value.__cause__, TooLarge)

    opened(route, work)


def test_a_server_that_dies_in_the_middle_fails_the_call_cleanly_and_cannot_be_reached_after(
    route: ServerRoute, way: str
) -> None:
    async def work(upstream: Upstream) -> None:
        crash, arguments = CRASHES.get(way, ("crash", {}))
        with pytest.raises(BackendError) as failure:
            await call(upstream, crash, **arguments)
        assert not isinstance(failure.value, BackendTimeout | UpstreamError)
        assert "planted-secret" not in failure.value.message
        with pytest.raises(BackendError, match=r"cannot be reached|broke off|closed|ended"):
            await call(upstream, "echo", text="x")

    opened(route, work)


def test_what_cannot_be_reached_is_said_when_it_is_opened(way: str, settings: Any) -> None:
    settings.EGRESS_ALLOW, settings.STDIO_ALLOW = frozenset({"127.0.0.1:9"}), ("/no/such/program",)
    transport = way.partition(",")[0]
    reached = {"command": ("/no/such/program",)} if way == "stdio" else {"url": "http://127.0.0.1:9/mcp"}
    version = "2025-11-25" if "2025" in way else ""

    with pytest.raises(BackendDown):
        opened(
            make_route(transport=transport, protocol_version=version, **reached), lambda upstream: call(upstream, "x")
        )
