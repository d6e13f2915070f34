"""Thousands of calls while the servers hang, die, freeze, answer rubbish, change their tools, and return.

A call is answered, once, and with its own result or an error that says what happened; and afterwards the platform is
as large as before. TEST_CHAOS_CALLS says how many calls there are.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import psutil
import pytest

from tests.fixtures.faults import eventually
from tests.fixtures.servers import FIXTURES, Forked, Process, evil_stdio_command, free_port
from tests.gateway.agent import BOTH, LEGACY, META, MODERN
from tests.journeys.platform import Platform
from tests.journeys.rest import finished, offered, signed_in, signed_in_as
from tests.live import Client

pytestmark = pytest.mark.slow_process

CALLS = int(os.environ.get("TEST_CHAOS_CALLS", "2000"))
CALLERS = 48
KEYS = ("owner", "admin", "developer")
TIMEOUT_SECONDS = 1
PATIENCE_SECONDS = 60
"""Far more than a call may take: whoever waits for so long has got no answer."""
SETTLE_SECONDS = 60
REFUSED_SECONDS = 0.1
"""How long a caller waits that was refused at once: else most calls would be refusals."""
ROOM_BYTES = 48 * 1024 * 1024
FEW = 12
CALM = "old"
"""The server whose definitions change: its process ends only between two readings, and it may take its time."""
CALM_SECONDS, CHILD_SECONDS = 10, 3
OVER_HTTP = {"old": ("--eras", "2025"), "new": (), "stream": ("--answers", "sse")}
CHILD = "kid"

GOOD, SLOW, TWICE, CHATTY = "echo", "slow", "twice", "chatty"
"""Tools that answer with the nonce of their call, the third one with something else after it, the last one before."""
BAD = ("hang", "wrong_id", "not_json", "is_error", "structured_bad", "redirect", "drip")
CHILDS = {"slow": "sleep", "hang": "sleep", "crash": "exit_now", "not_json": "garbage"}
"""What the server over stdio has instead."""


# The stage ---------------------------------------------------------------------------------------------------------


@dataclass
class Upstream:
    """A server over HTTP that dies and is started again."""

    process: Process
    port: int
    address: str = ""

    def put_tools(self, tools: list[dict[str, Any]] | None) -> None:
        """Offer other tools; None: those from the beginning."""
        body = json.dumps(tools).encode() if tools is not None else None
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/_tools", data=body, method="DELETE" if tools is None else "PUT"
        )
        with suppress(OSError):
            urllib.request.urlopen(asked, timeout=3).close()

    def revive(self) -> None:
        """Start it again where it has ended."""
        if self.process.popen is None or self.process.popen.poll() is not None:
            self.process.start()


@dataclass
class Stage:
    """A platform, the servers behind it, and the keys of its people."""

    platform: Platform
    upstreams: dict[str, Upstream]
    keys: list[str]
    admin: Client


@pytest.fixture
def stage(tmp_path: Any) -> Iterator[Stage]:
    """Three servers over HTTP, of either era, and one over stdio, all of acme."""
    ports = {slug: free_port() for slug in OVER_HTTP}
    settings = {
        "GATEHOUSE_EGRESS_ALLOW": ",".join(f"127.0.0.1:{port}" for port in ports.values()),
        "GATEHOUSE_STDIO_ALLOW": " ".join(evil_stdio_command()),
        "BREAKER_OPEN_SECONDS": "0.5",
    }  # fmt: skip
    with ExitStack() as stack:
        upstreams = {}
        for slug, options in OVER_HTTP.items():
            command = [sys.executable, FIXTURES / "evil_upstream.py", "--port", str(ports[slug]), *options]
            upstreams[slug] = Upstream(stack.enter_context(Forked(command, ready=ports[slug])), ports[slug])
        platform = stack.enter_context(Platform(tmp_path, **settings))
        keys = [platform.provision()["keys"][role] for role in KEYS]
        developer, admin = signed_in(platform, "developer"), signed_in(platform, "admin")
        operator = signed_in_as(platform, platform.admin_account(), **{"X-Organization": "acme"})
        for slug, upstream in upstreams.items():
            made = offered(developer, admin, {
                "name": slug, "slug": slug, "url": f"http://127.0.0.1:{upstream.port}/mcp", "max_concurrency": 64,
            })  # fmt: skip
            upstream.address = f"/api/v1/mcp/servers/{made['id']}"
            seconds = CALM_SECONDS if slug == CALM else TIMEOUT_SECONDS
            assert developer.patch(upstream.address, {"timeout_seconds": seconds}).status == 200
        child = {"name": CHILD, "slug": CHILD, "transport": "stdio", "command": evil_stdio_command(),
                 "timeout_seconds": CHILD_SECONDS}  # fmt: skip
        offered(operator, admin, child)
        yield Stage(platform, upstreams, keys, admin)


@dataclass(frozen=True)
class Size:
    """How large the platform is."""

    memory: int
    sockets: int
    children: int
    threads: int

    @classmethod
    def of(cls, platform: Platform) -> "Size":
        """As it is now."""
        process = psutil.Process(platform.pid)
        found = process.children(recursive=True)
        return cls(process.memory_info().rss, len(process.net_connections("inet")), len(found), process.num_threads())


# Callers -----------------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What came of the calls."""

    answers: Counter[str] = field(default_factory=Counter)
    good: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    done: int = 0
    half: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Caller:
    """One agent; in the 2025 revisions with a session."""

    url: str
    key: str
    revision: str
    number: int
    told: Told
    http: aiohttp.ClientSession
    session: str = ""
    pause: float = 0
    ids: Any = field(default_factory=lambda: itertools.count(1))

    async def work(self, calls: Iterator[int]) -> None:
        """Call until there is nothing left to call, and leave."""
        chance = random.Random(self.number)
        await self.begin()
        for _ in calls:
            server = chance.choice([*OVER_HTTP, CHILD])
            await self.call(server, some_tool(chance, server), f"{self.number}-{chance.getrandbits(64):x}")
            self.told.done += 1
            await asyncio.sleep(self.pause)
            if self.told.done >= CALLS // 2:
                self.told.half.set()
        await self.leave()

    async def begin(self) -> None:
        """Open a session, where there are any."""
        if self.revision == LEGACY:
            hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            await self.send("initialize", hello)

    async def leave(self) -> None:
        """End it."""
        if self.session:
            async with self.http.delete(self.url, headers=self.headers("", {})) as answer:
                assert answer.status == 200

    async def call(self, server: str, tool: str, nonce: str) -> bool:
        """One call, judged; whether it brought its own result."""
        given: dict[str, Any] = {"text": nonce}
        if tool in (SLOW, "sleep"):
            given["ms"] = 200
        elif tool == "hang" and server == CHILD:
            tool, given["ms"] = "sleep", 10_000
        elif tool in ("exit_now", "garbage", *BAD):
            given = {}
        try:
            said = await self.send("tools/call", {"name": f"{server}__{tool}", "arguments": given})
        except (aiohttp.ClientError, TimeoutError, ValueError, AssertionError) as error:
            self.told.wrong.append(f"no answer to {server}__{tool}: {error!r}")
            return False
        kind, fault = judged(said, nonce, tool)
        self.told.answers[kind] += 1
        self.pause = REFUSED_SECONDS if kind == "BACKEND_DOWN" else 0
        if fault:
            self.told.wrong.append(f"{server}__{tool} ({nonce}): {fault}")
        if kind == "its own":
            self.told.good[server, self.revision] += 1
        return kind == "its own"

    async def send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One request: the one message that answers it."""
        number = next(self.ids)
        if self.revision == MODERN:
            params = {**params, "_meta": {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}}
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        async with self.http.post(self.url, json=body, headers=self.headers(method, params)) as answer:
            allowed = (200, 400) if self.revision == MODERN else (200,)  # an unknown tool is 400 there
            assert answer.status in allowed, await answer.text()
            self.session = answer.headers.get("Mcp-Session-Id", self.session)
            text = await answer.text()
        if answer.content_type == "text/event-stream":
            messages = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        else:
            messages = [json.loads(text)]
        answers = [each for each in messages if "method" not in each]
        assert len(answers) == 1, f"{len(answers)} answers"
        assert answers[0]["id"] == number, f"the answer to another request: {answers[0]['id']}"
        found: dict[str, Any] = answers[0]
        return found

    def headers(self, method: str, params: dict[str, Any]) -> dict[str, str]:
        """Those of the revision."""
        sent = {"Authorization": f"Bearer {self.key}", "Accept": "application/json, text/event-stream"}
        if self.revision == MODERN:
            return {**sent, "MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Mcp-Name": params.get("name", "")}
        if self.session:
            return {**sent, "MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": self.session}
        return sent


def some_tool(chance: random.Random, server: str) -> str:
    """Mostly one that answers."""
    found = chance.choices([GOOD, SLOW, TWICE, CHATTY, "crash", chance.choice(BAD)], [73, 8, 4, 5, 0.4, 9])[0]
    if server == CALM and found in ("crash", "hang", "drip"):
        return GOOD
    if server != CHILD:
        return found
    return CHILDS.get(found, found if found in (GOOD, TWICE) else GOOD)


def judged(said: dict[str, Any], nonce: str, tool: str) -> tuple[str, str]:
    """What an answer is, and what is wrong with it."""
    if "error" in said:
        code = said["error"].get("data", {}).get("code", "")
        return code, "" if code in ("NOT_FOUND", "BACKEND_DOWN") else f"an error: {said['error']}"
    result = said["result"]
    text = "".join(block.get("text", "") for block in result["content"])
    if result.get("isError"):
        error = result.get("_meta", {}).get("gatehouse/error", {})
        if error:
            return error["code"], "" if error["code"].startswith("BACKEND_") else f"an error of ours: {error}"
        return "its tool's error", "" if "failed on purpose" in text or "Error" in text else f"an error: {text[:200]}"
    if tool in (GOOD, SLOW, TWICE, CHATTY, "sleep"):
        return ("its own", "") if text == nonce else (
            "another's", f"another one's result: {text[:200]}"
        )  # fmt: skip
    return "something else", "" if tool == "garbage" else f"passed on: {text[:200]}"


# What happens to the servers ---------------------------------------------------------------------------------------


class Weather:
    """What happens to the servers, one thing after the other."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.happened: Counter[str] = Counter()
        self.is_over = False

    async def blow(self) -> None:
        """Until it is over."""
        blows = itertools.cycle([self.kill, self.freeze, self.change, self.kill_child, self.rename])
        servers = itertools.cycle(self.stage.upstreams.values())
        while not self.is_over:
            blow = next(blows)
            await asyncio.to_thread(blow, next(servers))
            self.happened[blow.__name__] += 1
            await asyncio.to_thread(self.clear)
            await asyncio.sleep(0.3)

    async def end(self, blowing: "asyncio.Task[None]") -> None:
        """Let what blows just now end, and everybody return."""
        self.is_over = True
        await blowing
        await asyncio.to_thread(self.clear)

    def clear(self) -> None:
        """Let everybody return."""
        for upstream in self.stage.upstreams.values():
            if upstream.process.popen is not None and upstream.process.popen.poll() is not None:
                self.happened["return"] += 1
            upstream.revive()

    def kill(self, upstream: Upstream) -> None:
        """It is gone, in the middle of whatever it did."""
        upstream.process.send_signal(signal.SIGKILL)
        with suppress(Exception):
            upstream.process.stop()

    def freeze(self, upstream: Upstream) -> None:
        """It takes connections and answers nothing."""
        upstream.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5 * TIMEOUT_SECONDS)
        upstream.process.send_signal(signal.SIGCONT)

    def change(self, _: Upstream) -> None:
        """Tools of a server mean something else, which discovery notices: withheld until it is all as before."""
        upstream = self.stage.upstreams[CALM]
        changed = {"type": "object", "properties": {"text": {"type": "string"}, "to": {"type": "string"}}}
        upstream.put_tools([{"name": GOOD, "description": "Mail it.", "inputSchema": changed}])
        self.discover(upstream)
        upstream.put_tools(None)
        self.discover(upstream)

    def rename(self, upstream: Upstream) -> None:
        """It has no such tools any more, and nobody has noticed."""
        upstream.put_tools([])
        time.sleep(0.5)
        upstream.put_tools(None)

    def kill_child(self, _: Upstream) -> None:
        """The process of the server over stdio is gone."""
        for child in psutil.Process(self.stage.platform.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any("stdio_evil" in part for part in child.cmdline()):
                    child.kill()

    def discover(self, upstream: Upstream) -> None:
        """Read its tools anew."""
        started = self.stage.admin.post(f"{upstream.address}/discover")
        if started.status in (200, 201, 202):
            finished(self.stage.admin, started.json())


# The story ---------------------------------------------------------------------------------------------------------


async def see_all_return(callers: list[Caller]) -> None:
    """Every server answers again, in either era."""
    for caller in callers:
        for server in (*OVER_HTTP, CHILD):
            deadline = time.monotonic() + SETTLE_SECONDS
            while not await caller.call(server, GOOD, f"back-{time.monotonic()}"):
                assert time.monotonic() < deadline, f"{server} does not return"
                await asyncio.sleep(0.2)


def events(platform: Platform) -> int:
    """How many calls were counted."""
    with closing(sqlite3.connect(platform.data / "gatehouse.sqlite3")) as database:
        found = database.execute("SELECT COUNT(*) FROM usage_usageevent WHERE method = 'tools/call'").fetchone()
        return int(found[0])


def test_every_call_is_answered_once_with_its_own_result_and_nothing_is_left(stage: Stage) -> None:
    told, weather = Told(), Weather(stage)
    before = Size.of(stage.platform)

    async def story() -> Size:
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            calls = iter(range(CALLS))
            callers = [
                Caller(f"{stage.platform.url}/mcp", stage.keys[n % len(KEYS)], BOTH[n % 2], n, told, http)
                for n in range(CALLERS)
            ]
            blowing = asyncio.ensure_future(weather.blow())
            working = asyncio.gather(*(caller.work(calls) for caller in callers))
            half = asyncio.ensure_future(told.half.wait())
            await asyncio.wait({working, half}, return_when=asyncio.FIRST_COMPLETED)
            middle = Size.of(stage.platform)
            await working
            await weather.end(blowing)
            last = [replace(each, session="") for each in callers[:2]]
            for caller in last:
                await caller.begin()
            await see_all_return(last)
            for caller in last:
                await caller.leave()
        return middle

    middle = asyncio.run(story())
    eventually(lambda: Size.of(stage.platform).sockets <= before.sockets + FEW, SETTLE_SECONDS)
    eventually(lambda: Size.of(stage.platform).children <= before.children + 1, SETTLE_SECONDS)  # the others still end
    eventually(lambda: events(stage.platform) >= sum(told.answers.values()), SETTLE_SECONDS)
    after = Size.of(stage.platform)

    print(f"\n{CALLS} calls: {dict(told.answers)}; {dict(weather.happened)}\n{before}\n{middle}\n{after}")
    assert told.wrong == []
    assert told.done == CALLS
    assert told.answers["its own"] > CALLS / 4
    assert events(stage.platform) == sum(told.answers.values())
    assert after.memory <= middle.memory + ROOM_BYTES
    assert after.sockets <= before.sockets + FEW
    assert after.children <= before.children + 1
    assert after.threads <= middle.threads + FEW
