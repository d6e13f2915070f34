"""What a call costs part by part: py-spy looks at the process a thousand times a second while calls go through.

py-spy is installed into an environment of its own and reads the process from outside: nothing in it runs slower or
differently.
"""

import asyncio
import collections
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_run
import environments
import mcp_load

PACKAGE = "py-spy==0.4.3"
LOOKS_PER_SECOND = 1000
START_SECONDS = 1.0
WARM_SECONDS = 2.0

ABOUT = (
    "py-spy looked at the process a thousand times a second while calls went through; the CPU time of the process is "
    "shared out by these looks. A look counts for the part whose code is nearest to what runs: a JSON parser that the "
    "door calls is the door's. What is called *event loop* is uvloop's own work: sockets, timers, switching tasks."
)
LOOP = "event loop and sockets (uvloop)"
WRITER = "usage event: written to the database, off the road"
ELSE = "not of calls: jobs, the schedule, other threads"
# The first place that fits, looked for from the innermost frame outwards.
PARTS = (
    ("usage event: put into the queue", ("apps/usage/",)),
    ("authentication", ("apps/auth/",)),
    ("decision", ("apps/policies/",)),
    ("limits", ("apps/core/limits.py",)),
    ("look-up: snapshot and name", ("apps/gateway/services/catalogue.py", "apps/gateway/services/views.py")),
    ("result: checked and masked", ("apps/gateway/services/results.py",)),
    ("meter and order of the steps", ("apps/gateway/services/calls.py",)),
    ("pool: way, breaker, slot, link", ("apps/gateway/",)),
    ("wire: request to the server, and its answer", (
        "apps/registry/", "apps/core/egress.py", "aiohttp/", "yarl/", "multidict/", "aiosignal/",
    )),
    ("strict JSON", ("apps/core/doors.py",)),
    ("door: address, headers, sessions", ("config/", "apps/core/")),
    ("MCP framework: SDK, FastMCP, Starlette, pydantic, anyio", (
        "/mcp/", "(mcp/", "mcp_types/", "fastmcp", "starlette/", "sse_starlette/", "pydantic", "anyio/",
    )),
    ("HTTP server (uvicorn, httptools)", ("uvicorn/", "httptools/")),
    (LOOP, ("asyncio/", "uvloop")),
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """How the CPU time of a call is shared out."""

    calls: int
    cpu_ms: float
    looks: int
    shares: dict[str, float]


def measure(target: dict[str, Any], *, seconds: float, protocol: str, callers: int) -> Profile:
    """Let calls through for so long, and look at the process meanwhile."""
    options = {"protocol": protocol, "op": "call", "concurrency": callers}

    def load(how_long: float) -> bench_run.Row:
        return asyncio.run(mcp_load.measure(target["url"], target["headers"], seconds=how_long, warmup=0, **options))

    load(WARM_SECONDS)
    with tempfile.TemporaryDirectory(prefix="parts-") as folder:
        stacks = Path(folder) / "stacks"
        cpu = bench_run.cpu_s(target["pids"])
        with subprocess.Popen(
            look(target["pids"][0], seconds, stacks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as looking:
            row = load(seconds + START_SECONDS)
            cpu = bench_run.cpu_s(target["pids"]) - cpu
            _, problem = looking.communicate()
        if not stacks.exists():
            raise RuntimeError(f"py-spy saw nothing: {problem.strip()[-500:]}")
        looks = share_out(stacks.read_text())
    total = sum(looks.values())
    shares = {part: number / total for part, number in looks.most_common()}
    return Profile(row["completed_total"], 1000 * cpu / row["completed_total"], total, shares)


def look(pid: int, seconds: float, stacks: Path) -> list[str]:
    """The command that looks at a process and writes down every stack that it saw at work."""
    spy = environments.environment(PACKAGE) / "py-spy"
    options = {"pid": pid, "rate": LOOKS_PER_SECOND, "duration": round(seconds), "format": "raw", "output": stacks}
    return [str(spy), "record", "--nonblocking", "--threads", *(f"--{name}={value}" for name, value in options.items())]


def share_out(stacks: str) -> collections.Counter[str]:
    """How many looks each part has; a line is frames by semicolons, outermost first, and how often it was seen."""
    looks: collections.Counter[str] = collections.Counter()
    for line in stacks.splitlines():
        frames, _, number = line.rpartition(" ")
        looks[part_of(frames.split(";"))] += int(number)
    return looks


def part_of(frames: list[str]) -> str:
    """The part that a stack belongs to; its first frame names the thread."""
    if "usage-writer" in frames[0]:
        return WRITER
    if "MainThread" not in frames[0]:
        return ELSE
    for frame in reversed(frames):
        for part, places in PARTS:
            if any(place in frame for place in places):
                return part
    return ELSE


def table(profile: Profile) -> str:
    """The shares and what they are in microseconds, as Markdown."""
    lines = ["| part | share | CPU us per call |", "|---|---|---|"]
    for part, share in profile.shares.items():
        lines.append(f"| {part} | {100 * share:.1f} % | {1000 * share * profile.cpu_ms:.0f} |")
    lines.append(f"| **all** | 100 % | {1000 * profile.cpu_ms:.0f} |")
    return "\n".join(lines)
