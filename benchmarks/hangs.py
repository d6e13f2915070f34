"""What fifty calls that hang take from everybody else: the rate of another server's calls, with them and without.

    python benchmarks/hangs.py

The two are measured in turns on one Gatehouse with embedded defaults, by one key. What is found is written between two
marks in docs/benchmarks.md. The machine should have nothing else to do.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import bench_run
import mcp_load
import run

from tests.fixtures.servers import evil_upstream, free_port

HANGING = 50
CALLERS = 8
SETTLE_SECONDS = 1.0
LEAST_SHARE = 0.95
BEGIN, END = "<!-- hangs: from here -->", "<!-- hangs: to here -->"
ADD = """
import hashlib
from django.utils import timezone
from apps.auth import services as auth
from apps.auth.models import Organization
from apps.registry.models import Capability, Server
org = Organization.objects.get(slug="bench")
server = Server(organization=org, name="Hangs", slug="hangs", url={url!r}, approved_at=timezone.now(), health="healthy",
                protocol_version="2025-11-25").store()
definition = {{"name": "hang", "description": "Hangs.", "inputSchema": {{"type": "object"}}}}
digest = hashlib.sha256(b"hang").hexdigest()
Capability(organization=org, server=server, kind="tool", name="hang", public_name="hangs__hang", definition=definition,
           digest=digest, approved_digest=digest, approved_definition=definition).store()
auth.raise_revision(org.id)
"""


async def hang(url: str, headers: dict[str, str]) -> None:
    """One call that gets no answer."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": run.MODERN, "io.modelcontextprotocol/clientCapabilities": {},
    }  # fmt: skip
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "hangs__hang", "arguments": {}, "_meta": meta}}  # fmt: skip
    sent = {
        **headers, "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": run.MODERN,
        "Mcp-Method": "tools/call", "Mcp-Name": "hangs__hang",
    }  # fmt: skip
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=sent) as answer:
        await answer.read()


async def rate(target: dict[str, Any], seconds: float, *, hanging: int) -> float:
    """Calls a second of the good server."""
    calls = [asyncio.ensure_future(hang(target["url"], target["headers"])) for _ in range(hanging)]
    try:
        if calls:
            await asyncio.sleep(SETTLE_SECONDS)
        row = await mcp_load.measure(
            target["url"], target["headers"], seconds=seconds, warmup=0.5, protocol=run.LEGACY, op="call",
            concurrency=CALLERS,
        )  # fmt: skip
        if row["errors"] or any(call.done() for call in calls):
            raise RuntimeError(f"Not what was to be measured: {row['error_samples']}")
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    found: float = row["rps"]
    return found


@contextlib.contextmanager
def started() -> Iterator[dict[str, Any]]:
    """Gatehouse with a good server and one that hangs."""
    port = free_port()
    evil = f"http://127.0.0.1:{port}/mcp"
    with evil_upstream(port), run.script("upstream_server.py") as (direct, _), run.gatehouse(direct, evil) as ours:
        target = ours.connect("bench", direct)
        command = [sys.executable, "manage.py", "shell", "--command", ADD.format(url=evil)]
        subprocess.run(command, cwd=run.PROJECT, env=ours.env, check=True, capture_output=True)
        yield target


def report(target: dict[str, Any], reps: int, seconds: float) -> str:
    """Measure in turns, and write it down."""
    alone, beside = [], []
    for _ in range(reps):
        alone.append(asyncio.run(rate(target, seconds, hanging=0)))
        beside.append(asyncio.run(rate(target, seconds, hanging=HANGING)))
    share = bench_run.med(with_them / without for with_them, without in zip(beside, alone, strict=True))
    about = (
        f"`benchmarks/hangs.py`: {CALLERS} callers of a good server, alone and while {HANGING} calls of the same key "
        "hang at another server, in turns; calls a second, the medians."
    )
    lines = [
        "| alone | beside the hanging ones | share | promised | holds |", "|---|---|---|---|---|",
        f"| {bench_run.med(alone):.0f} | {bench_run.med(beside):.0f} | {share:.3f} | at least {LEAST_SHARE} |"
        f" {'yes' if share and share >= LEAST_SHARE else '**no**'} |",
    ]  # fmt: skip
    return "\n\n".join(["## Beside a server that hangs", about, "\n".join(run.machine()), "\n".join(lines)])


def main() -> None:
    """Start, measure, write."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--reps", type=int, default=5)
    ap.add_argument("--seconds", type=float, default=4)
    ap.add_argument("--out", type=Path, default=run.PROJECT / "docs" / "benchmarks.md")
    a = ap.parse_args()
    with started() as target:
        found = report(target, a.reps, a.seconds)
    run.write(a.out, found, marks=(BEGIN, END))
    print(found)


if __name__ == "__main__":
    main()
