"""Testing a connection step by step, so that whoever registers a server sees where it fails and what to do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from apps.core import egress
from apps.core.actor import Actor
from apps.core.errors import BackendDown, BackendError, BackendTimeout, InvalidInput, ServiceError
from apps.registry.backends import commands
from apps.registry.backends.base import Hello, HttpRefusal, ServerRoute
from apps.registry.backends.wire import MODERN
from apps.registry.models import Transport
from apps.registry.schemas import ConnectionOut, StepOut
from apps.registry.services.reading import MOST_CAPABLE, read_list, run_short
from apps.registry.services.routes import connect, route_of
from apps.registry.services.servers import get_server

LONGEST_SECONDS = 20.0
STEP_NAMES = ("resolve", "connect", "TLS", "authenticate", "initialise", "list")
_CREDENTIALS_REFUSED = (401, 403)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: whether it worked, what it found or what to do, and how long it took."""

    name: str
    ok: bool
    message: str = ""
    ms: float | None = None
    is_skipped: bool = False
    protocol_version: str = ""


@dataclass(slots=True)
class _Test:
    """The steps so far."""

    route: ServerRoute
    steps: list[Step] = field(default_factory=list)

    async def step(self, name: str, work: Callable[[], Awaitable[str]]) -> bool:
        """Do one step and note how it went."""
        started = time.monotonic()
        try:
            message, ok = await work(), True
        except ServiceError as error:
            message, ok = error.message, False
        self.steps.append(Step(name, ok, message, (time.monotonic() - started) * 1000))
        return ok

    def skip(self, name: str, message: str) -> None:
        """Note that a step has no meaning here."""
        self.steps.append(Step(name, ok=True, message=message, is_skipped=True))

    def finish(self) -> list[Step]:
        """All steps, those that were not reached among them."""
        done = {step.name for step in self.steps}
        rest = [name for name in STEP_NAMES if name not in done]
        return [*self.steps, *(Step(name, False, "Not tried.", is_skipped=True) for name in rest)]


def test_connection(actor: Actor, *, server_id: UUID) -> list[Step]:
    """Reach a server step by step: resolve, connect, TLS, authenticate, initialise or discover, list."""
    server = get_server(actor, server_id=server_id)
    actor.require("server.check")
    route = route_of(server)
    route = replace(route, protocol_version="", timeout_seconds=min(route.timeout_seconds, LONGEST_SECONDS))
    test = _Test(route)
    work = _test_stdio if server.transport == Transport.STDIO else _test_http
    run_short(lambda: work(test))
    return test.finish()


def describe_connection(actor: Actor, *, server_id: UUID) -> ConnectionOut:
    """The same, with a verdict and the revision that was spoken."""
    steps = test_connection(actor, server_id=server_id)
    return ConnectionOut(
        ok=all(step.ok for step in steps),
        protocol_version=next((step.protocol_version for step in steps if step.protocol_version), ""),
        steps=[StepOut.model_validate(step) for step in steps],
    )


async def _test_http(test: _Test) -> None:
    url, seconds = test.route.url, test.route.timeout_seconds

    async def resolve() -> str:
        found = await egress.addresses_of(url, timeout_seconds=seconds)
        return f"{len(found)} address{'es' if len(found) > 1 else ''}: {', '.join(found[:4])}"

    async def touch(*, tls: bool) -> str:
        return await egress.touch(url, tls=tls, timeout_seconds=seconds)

    if not await test.step("resolve", resolve) or not await test.step("connect", lambda: touch(tls=False)):
        return
    if url.lower().startswith("http://"):
        test.skip("TLS", "Not used: the address begins with http://.")
    elif not await test.step("TLS", lambda: touch(tls=True)):
        return
    await _speak(test, lambda error: isinstance(error, HttpRefusal) and error.http_status in _CREDENTIALS_REFUSED)


async def _test_stdio(test: _Test) -> None:
    async def resolve() -> str:
        try:
            return f"The command is allowed, and runs {commands.resolve(test.route.command)[0]}."
        except InvalidInput as error:
            raise BackendDown(error.message) from error

    if not await test.step("resolve", resolve):
        return
    await _speak(test, lambda error: isinstance(error, BackendDown))


async def _speak(test: _Test, is_early: Callable[[BackendError], bool]) -> None:
    """Open the server once, and tell the steps that this takes apart by how it failed."""
    upstream = connect(test.route, capabilities=MOST_CAPABLE)
    started = time.monotonic()
    try:
        hello = await upstream.open()
        _note_opening(test, None, is_early, hello, _since(started))
        await test.step("list", lambda: _list(upstream, test.route, hello))
    except BackendError as error:
        _note_opening(test, error, is_early, None, _since(started))
    finally:
        await upstream.aclose()


def _note_opening(
    test: _Test, error: BackendError | None, is_early: Callable[[BackendError], bool], hello: Hello | None, ms: float
) -> None:
    is_child = test.route.transport == Transport.STDIO
    early = "connect" if is_child else "authenticate"
    if error is not None and is_early(error):
        test.steps.append(Step(early, ok=False, message=error.message, ms=ms))
        return
    if is_child:
        test.steps.append(Step("connect", ok=True, message="The process has started.", ms=ms))
        test.skip("TLS", "Not used: the server is a process of this machine.")
        test.skip("authenticate", "Not used: the server is given variables instead.")
    elif test.route.headers:
        test.steps.append(Step("authenticate", ok=True, message="The credential was not refused.", ms=ms))
    else:
        test.steps.append(Step("authenticate", ok=True, message="No credential is set, and none was asked for.", ms=ms))
    if hello is None:
        message = error.message if error else ""
        hint = " Is this the address of its MCP endpoint?" if isinstance(error, BackendTimeout) else ""
        test.steps.append(Step("initialise", ok=False, message=message + hint, ms=ms))
    else:
        way = "server/discover" if hello.protocol_version == MODERN else "initialize"
        name = str(hello.server_info.get("name", ""))[:100]
        said = f" It calls itself {name!a}." if name else ""
        message = f"It speaks {hello.protocol_version} ({way}).{said}"
        test.steps.append(Step("initialise", True, message, ms, protocol_version=hello.protocol_version))


async def _list(upstream: Any, route: ServerRoute, hello: Hello) -> str:
    if "tools" not in hello.capabilities:
        return "It offers no tools."
    try:
        async with asyncio.timeout(route.timeout_seconds):
            tools = await read_list(upstream, "tools/list", "tools", timeout_seconds=route.timeout_seconds)
    except TimeoutError as error:
        raise BackendTimeout(f"It did not list its tools within {route.timeout_seconds:g} seconds.") from error
    return f"It offers {len(tools)} tool{'s' if len(tools) != 1 else ''}."


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1000
