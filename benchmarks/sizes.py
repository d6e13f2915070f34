"""What a call costs in a small organisation and in a large one: more tools, more servers, the same call."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench_run
import mcp_load

PROJECT = Path(__file__).parent.parent
SIZES = ((1, 10), (1, 1_000), (10, 1_000), (1_000, 10))
"""Servers, and tools of each."""
CALLERS = 4
WARM_SECONDS = 2.0
TURN_SECONDS = 1.0
"""Of one turn: the machine's own pace changes from minute to minute, so that turns are short and compared in rounds."""
REST_SECONDS = 30.0
MAX_X_SMALLEST = 1.25

ABOUT = (
    f"The same call with {CALLERS} callers, each organisation in a Gatehouse of its own, in turns of {TURN_SECONDS:g} "
    "s; what is counted is all CPU time of Gatehouse while the calls run. That includes what it does at rest: the "
    "health of every server is looked at once a minute, whether anybody calls or not. Each turn is compared with that "
    "of the smallest in the same round; the median is shown. What each caller is shown comes from a snapshot that is "
    "built when something changes, so that a call looks one name up, however many there are."
)
FILL = """
import hashlib, json
from django.utils import timezone
from apps.auth import services as auth
from apps.auth.models import Organization
from apps.registry.models import Capability, Server
slug, url, servers, tools = {slug!r}, {url!r}, {servers}, {tools}
org = Organization.objects.get(slug=slug)
now = timezone.now()
def capability(server, name):
    schema = {{"type": "object", "properties": {{"text": {{"type": "string"}}}}}}
    definition = {{"name": name, "description": "A tool of the measurement.", "inputSchema": schema}}
    digest = hashlib.sha256(json.dumps(definition).encode()).hexdigest()
    return Capability(organization=org, server=server, kind="tool", name=name, public_name=server.slug + "__" + name,
                      definition=definition, digest=digest, approved_digest=digest, approved_definition=definition)
for number in range(servers):
    server = Server(organization=org, name=f"Server {{number}}", slug=f"s{{number}}", transport="streamable_http",
                    url=url, approved_at=now, health="healthy", protocol_version="2025-11-25").store()
    names = ["echo", "add"] if not number else []
    names += [f"tool_{{index}}" for index in range(tools - len(names))]
    Capability.objects.bulk_create([capability(server, name) for name in names], batch_size=500)
auth.raise_revision(org.id)
"""


@dataclass
class Size:
    """One organisation in a Gatehouse of its own, and how its agent comes in."""

    servers: int
    tools: int
    target: dict[str, Any]
    rest: float = 0.0
    """The share of a core that it takes when nobody calls."""


@dataclass
class Cost:
    """What a call costs, each turn in CPU milliseconds, and how long half of the calls took at most."""

    size: Size
    cpu_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)


def start(running: contextlib.ExitStack, gatehouse: Callable[[str], Any], upstream: str) -> list[Size]:
    """Organisations of all sizes, all of whose servers are the one upstream; what they take at rest is measured."""
    made = []
    for servers, tools in SIZES:
        ours = running.enter_context(gatehouse(upstream))
        made.append(Size(servers, servers * tools, _organization(ours, upstream, servers, tools)))
    for size in made:
        for protocol in ("2025-11-25", "2026-07-28"):
            _turn(size, WARM_SECONDS, protocol)
    before = [bench_run.cpu_s(size.target["pids"]) for size in made]
    time.sleep(REST_SECONDS)
    for size, begun in zip(made, before, strict=True):
        size.rest = (bench_run.cpu_s(size.target["pids"]) - begun) / REST_SECONDS
    return made


def _organization(ours: Any, upstream: str, servers: int, tools: int) -> dict[str, Any]:
    slug = f"size-{servers}-{tools}"
    provisioned = ours.provision(slug)
    code = FILL.format(slug=slug, url=upstream, servers=servers, tools=tools)
    subprocess.run(
        [sys.executable, "manage.py", "shell", "--command", code], cwd=PROJECT, env=ours.env, check=True,
        capture_output=True,
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {provisioned['keys']['developer']}"}
    return {"name": slug, "url": f"{ours.base}/mcp", "headers": headers, "pids": [ours.pid]}


def measure(sizes: list[Size], *, rounds: int, protocol: str) -> list[Cost]:
    """What a call costs in each size, in as many rounds."""
    found = [Cost(size) for size in sizes]
    for _ in range(rounds):
        for cost in found:
            cpu_ms, p50_ms = _turn(cost.size, TURN_SECONDS, protocol)
            cost.cpu_ms.append(cpu_ms)
            cost.p50_ms.append(p50_ms)
    return found


def _turn(size: Size, seconds: float, protocol: str) -> tuple[float, float]:
    """The CPU milliseconds of a call, and the median of what calls took."""
    edges: list[float] = []

    def edge() -> None:
        edges.append(bench_run.cpu_s(size.target["pids"]))

    row = asyncio.run(
        mcp_load.measure(
            size.target["url"], size.target["headers"], seconds=seconds, warmup=0, protocol=protocol, op="call",
            concurrency=CALLERS, edge=edge,
        )
    )  # fmt: skip
    if row["errors"] or not row["completed_total"]:
        raise RuntimeError(f"{size.target['name']}: {row['error_samples']}")
    before, after = edges
    return 1000 * (after - before) / row["completed_total"], row["p50_ms"]


def table(measured: list[Cost]) -> str:
    """What was measured, each compared with the smallest."""
    smallest = measured[0].cpu_ms
    lines = [
        "| servers | tools | at rest, share of a core | CPU ms per call | x the smallest | holds | p50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for cost in measured:
        ratio = bench_run.med(own / other for own, other in zip(cost.cpu_ms, smallest, strict=True)) or 0.0
        lines.append(
            f"| {cost.size.servers:,} | {cost.size.tools:,} | {cost.size.rest:.1%} | {bench_run.med(cost.cpu_ms):.2f} "
            f"| {ratio:.2f} | {'yes' if ratio <= MAX_X_SMALLEST else '**no**'} | {bench_run.med(cost.p50_ms):.1f} |"
        )
    return "\n".join(lines)
