"""What a call costs in a small organisation and in a large one: more tools, more servers, the same call."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_run
import mcp_load

PROJECT = Path(__file__).parent.parent
SIZES = ((1, 10), (1, 1_000), (10, 1_000), (1_000, 10))
"""Servers, and tools of each."""
CALLERS = 4
WARM_SECONDS = 2.0

ABOUT = (
    f"The same call with {CALLERS} callers in organisations of different size, in turns; what is counted is the CPU "
    "time of Gatehouse. What each caller is shown comes from a snapshot that is built when something changes, so that "
    "a call looks one name up, however many there are."
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


@dataclass(frozen=True)
class Size:
    """One organisation, and how its agent comes in."""

    servers: int
    tools: int
    target: dict[str, Any]


def make(ours: Any, upstream: str) -> list[Size]:
    """Organisations of all sizes, all of whose servers are the one upstream."""
    return [Size(servers, servers * tools, _organization(ours, upstream, servers, tools)) for servers, tools in SIZES]


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


def measure(sizes: list[Size], *, reps: int, seconds: float, protocol: str) -> list[tuple[Size, float]]:
    """The CPU milliseconds of a call for each size: the median of the repetitions."""
    found: dict[int, list[float]] = {index: [] for index in range(len(sizes))}
    for rep in range(reps + 1):
        for index, size in enumerate(sizes):
            cpu = _cpu_ms(size, seconds if rep else WARM_SECONDS, protocol)
            if rep:
                found[index].append(cpu)
    return [(size, bench_run.med(found[index]) or 0.0) for index, size in enumerate(sizes)]


def _cpu_ms(size: Size, seconds: float, protocol: str) -> float:
    before = bench_run.cpu_s(size.target["pids"])
    row = asyncio.run(
        mcp_load.measure(
            size.target["url"], size.target["headers"], seconds=seconds, warmup=0, protocol=protocol, op="call",
            concurrency=CALLERS,
        )
    )  # fmt: skip
    spent = bench_run.cpu_s(size.target["pids"]) - before
    if row["errors"] or not row["completed_total"]:
        raise RuntimeError(f"{size.target['name']}: {row['error_samples']}")
    return 1000 * spent / row["completed_total"]


def table(measured: list[tuple[Size, float]]) -> str:
    """What was measured."""
    smallest = measured[0][1]
    lines = ["| servers | tools | CPU ms per call | x the smallest |", "|---|---|---|---|"]
    lines += [f"| {size.servers:,} | {size.tools:,} | {cpu:.2f} | {cpu / smallest:.2f} |" for size, cpu in measured]
    return "\n".join(lines)
