"""What Gatehouse costs, beside the upstream itself, a thin hop and FastMCP's proxy; writes docs/benchmarks.md.

    make bench                                       everything, about ten minutes
    make bench ARGS="--reps 1 --seconds 1"           a quick look
    make bench ARGS="--skip gatehouse --out /dev/null"

It starts all of them on free ports of the loopback, Gatehouse on its embedded defaults with a data folder that is
thrown away, measures them in turns with bench_run.py, and stops them.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_run
import psutil

HERE = Path(__file__).parent
PROJECT = HERE.parent
sys.path.append(str(PROJECT))

from tests.fixtures.servers import Process, free_port  # noqa: E402 - found through the line above

LEGACY, MODERN = "2025-11-25", "2026-07-28"
FLOOR_TOKEN = "bench-token"  # noqa: S105 - of a proxy on the loopback that lives for minutes
WIDE_TOOLS = 1000
PACKAGES = ("django", "mcp", "fastmcp", "uvicorn", "uvloop", "httptools", "aiohttp", "pydantic", "orjson")
SETTINGS = ("GATEHOUSE_", "DATABASE_URL", "REDIS_URL", "BROKER_URL", "VECTOR_URL")

START_SECONDS = 60
JOB_SECONDS = 60
MAX_P50_RATIO = 5.0
MAX_LIST_CPU_MS = 20.0

Target = dict[str, Any]


class Rest:
    """REST of one Gatehouse for one member, logged in with e-mail and password."""

    def __init__(self, base: str, credentials: dict[str, str]) -> None:
        self.base = base
        self.headers = {"Content-Type": "application/json"}
        tokens = self.post("/auth/login", credentials)
        self.headers["Authorization"] = f"Bearer {tokens.get('access') or tokens['access_token']}"

    def post(self, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send JSON."""
        return self._send("POST", path, json.dumps(content or {}).encode())

    def get(self, path: str) -> dict[str, Any]:
        """Read JSON."""
        return self._send("GET", path, None)

    def _send(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.base}/api/v1{path}", data=body, headers=self.headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found: dict[str, Any] = json.loads(answer.read() or b"{}")
                return found
        except urllib.error.HTTPError as refusal:
            raise RuntimeError(f"{method} {path}: {refusal.code} {refusal.read().decode()[:500]}") from refusal


@dataclass
class Gatehouse:
    """A running Gatehouse and its data folder."""

    base: str
    env: dict[str, str]
    pid: int

    def provision(self, slug: str) -> dict[str, Any]:
        """Make an organisation with a member and a key for every role."""
        command = [sys.executable, "manage.py", "provision", "--org", slug, "--json"]
        done = subprocess.run(command, cwd=PROJECT, env=self.env, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def connect(self, slug: str, upstream: str) -> Target:
        """Make an organisation with this upstream, approved, and say how its agent reaches it."""
        org = self.provision(slug)
        developer, admin = (Rest(self.base, org["users"][role]) for role in ("developer", "admin"))
        described = {"name": slug.title(), "slug": slug, "transport": "streamable_http", "url": upstream}
        server = developer.post("/mcp/servers", described)
        job = developer.post(f"/mcp/servers/{server['id']}/discover")
        wait_for_job(developer, job.get("job_id") or job["id"])
        admin.post(f"/mcp/servers/{server['id']}/approve")
        headers = {"Authorization": f"Bearer {org['keys']['developer']}"}
        return {"name": "gatehouse", "url": f"{self.base}/mcp", "headers": headers, "pids": [self.pid]}


def wait_for_job(rest: Rest, job_id: str) -> None:
    """Wait until a job is completed."""
    deadline = time.monotonic() + JOB_SECONDS
    while (state := rest.get(f"/jobs/{job_id}")["state"]) != "completed":
        if state in ("failed", "cancelled") or time.monotonic() > deadline:
            raise RuntimeError(f"The discovery is {state}: {rest.get(f'/jobs/{job_id}')}")
        time.sleep(0.1)


@contextlib.contextmanager
def script(name: str, *options: str) -> Iterator[tuple[str, int]]:
    """One of the scripts beside this one, as an MCP endpoint; gives its address and process id."""
    port = free_port()
    command = [sys.executable, HERE / name, "--port", str(port), *options]
    with Process(command, ready=port, start_seconds=START_SECONDS) as process:
        yield f"http://127.0.0.1:{port}/mcp", process.pid


def without_settings(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of a platform: embedded defaults are measured."""
    return {name: value for name, value in env.items() if not name.startswith(SETTINGS)}


@contextlib.contextmanager
def gatehouse(*upstreams: str) -> Iterator[Gatehouse]:
    """Gatehouse on its embedded defaults, allowed to call these upstreams."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as data:
        allowed = ",".join(url.split("/")[2] for url in upstreams)
        env = {**without_settings(os.environ), "GATEHOUSE_DATA": data, "GATEHOUSE_EGRESS_ALLOW": allowed}
        command = [sys.executable, "manage.py", "up", "--no-demo", "--port", str(port), "--data", data]
        base = f"http://127.0.0.1:{port}"
        with Process(command, env=env, ready=f"{base}/ready", start_seconds=START_SECONDS) as process:
            yield Gatehouse(base, env, process.pid)


def targets(stack: contextlib.ExitStack, skipped: list[str]) -> tuple[list[Target], list[Target]]:
    """Start everything; the endpoints with three tools, and those with a thousand."""
    direct, direct_pid = stack.enter_context(script("upstream_server.py"))
    wide, wide_pid = stack.enter_context(script("upstream_server.py", "--tools", str(WIDE_TOOLS)))
    few: list[Target] = [{"name": "direct", "url": direct, "pids": [direct_pid]}]
    many: list[Target] = [{"name": "direct", "url": wide, "pids": [wide_pid]}]
    if "floor" not in skipped:
        url, pid = stack.enter_context(script("floor_proxy.py", "--target", direct, "--token", FLOOR_TOKEN))
        headers = {"Authorization": f"Bearer {FLOOR_TOKEN}"}
        few.append({"name": "floor", "url": url, "headers": headers, "pids": [pid]})
    if "fastmcp" not in skipped:
        url, pid = stack.enter_context(script("fastmcp_proxy.py", "--target", direct))
        few.append({"name": "fastmcp", "url": url, "pids": [pid]})
    if "gatehouse" not in skipped:
        ours = stack.enter_context(gatehouse(direct, wide))
        few.append(ours.connect("bench", direct))
        many.append(ours.connect("wide", wide))
    return few, many


def measure(a: argparse.Namespace, found: list[Target], cells: str, protocol: str) -> bench_run.Row:
    """Measure some endpoints in turns."""
    with tempfile.NamedTemporaryFile(suffix=".json") as raw:
        options = ["--reps", str(a.reps), "--protocol", protocol, "--cells", cells, "--out", raw.name]
        return asyncio.run(bench_run.run(bench_run.arguments(options), found))


def pick(data: bench_run.Row, **wanted: Any) -> list[bench_run.Row]:
    """The measured cells with these values."""
    return [row for row in data["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def p50_ratio(data: bench_run.Row) -> float | None:
    """How many times the direct p50 a call through Gatehouse takes, one caller."""
    direct = {row["rep"]: row.get("p50_ms") for row in pick(data, target="direct", op="call", concurrency=1)}
    ours = pick(data, target="gatehouse", op="call", concurrency=1)
    return bench_run.med(row["p50_ms"] / base for row in ours if (base := direct.get(row["rep"])) and row.get("p50_ms"))


def list_cpu_ms(data: bench_run.Row, protocol: str) -> float | None:
    """The CPU milliseconds of Gatehouse per list of a thousand tools."""
    ours = pick(data, target="gatehouse", protocol=protocol)
    return bench_run.med(
        1000 * row["server_cpu_s"] / row["completed_total"] for row in ours if row.get("completed_total")
    )


def promises(few: bench_run.Row, many: bench_run.Row) -> list[str]:
    """What we promise, and what was measured."""
    crowd = pick(few, target="gatehouse", op="call", concurrency=64)
    errors = sum(row.get("errors", 1) for row in crowd) if crowd else None
    ratio, legacy, modern = p50_ratio(few), list_cpu_ms(many, LEGACY), list_cpu_ms(many, MODERN)
    return [
        "| promise | measured | holds |",
        "|---|---|---|",
        promise(f"p50 of a call, one caller: at most {MAX_P50_RATIO:g} x direct", ratio, MAX_P50_RATIO, "x"),
        promise("errors with 64 callers: none", errors, 0, ""),
        promise(f"CPU per list of {WIDE_TOOLS} tools, {LEGACY}: at most 20 ms", legacy, MAX_LIST_CPU_MS, "ms"),
        promise(f"CPU per list of {WIDE_TOOLS} tools, {MODERN}: at most 20 ms", modern, MAX_LIST_CPU_MS, "ms"),
    ]


def promise(text: str, value: float | None, limit: float, unit: str) -> str:
    """One line of the promises."""
    if value is None:
        return f"| {text} | not measured | - |"
    return f"| {text} | {value:.3g} {unit} | {'yes' if value <= limit else '**no**'} |"


def machine() -> list[str]:
    """What it ran on, for whoever compares."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((text.partition(":")[2].strip() for text in lines if text.startswith("model name")), "unknown CPU")
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return [
        f"- {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({model}), {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}",
        f"- Python {platform.python_version()}, {versions}",
    ]


def document(few: bench_run.Row, many: bench_run.Row) -> str:
    """docs/benchmarks.md."""
    parts = [
        "# What a call through Gatehouse costs",
        "Written by `make bench`, which repeats it on your machine. The load generator shares the cores with what it "
        "measures, and every answer is checked. *direct* is an echo server by FastMCP, *floor* a thin hop in front "
        "of it that does nothing but check a token and a name, *fastmcp* is `create_proxy` of FastMCP, *gatehouse* is "
        "`manage.py up` on embedded defaults with an approved upstream and an agent's key.",
        "\n".join(machine()),
        "## Promises",
        "\n".join(promises(few, many)),
        "## Calls and short lists",
        bench_run.table(few).strip(),
        f"## Lists of {WIDE_TOOLS} tools",
        "*direct* is the same FastMCP server, which builds the list anew for every request.",
        bench_run.table(many).strip(),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Start, measure, write."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--seconds", type=float, default=4, help="of one cell; with 64 callers twice as long")
    ap.add_argument("--skip", action="append", default=[], choices=("floor", "fastmcp", "gatehouse"))
    ap.add_argument("--out", type=Path, default=PROJECT / "docs" / "benchmarks.md")
    a = ap.parse_args()
    seconds = a.seconds
    cells = f"call:1:{seconds},call:16:{seconds},call:64:{2 * seconds},list:1:{seconds}"
    with contextlib.ExitStack() as stack:
        few_targets, many_targets = targets(stack, a.skip)
        few = measure(a, few_targets, cells, LEGACY)
        many = measure(a, many_targets, f"list:1:{seconds}", f"{LEGACY},{MODERN}")
    text = document(few, many)
    a.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
