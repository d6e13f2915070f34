"""What Gatehouse costs, beside the upstream itself, a thin hop, FastMCP's proxy and ContextForge.

    make bench                                       everything, about fifteen minutes
    make bench ARGS="--reps 1 --seconds 1"           a quick look
    make bench ARGS="--skip contextforge --out /dev/null"

It starts all of them on free ports of the loopback, Gatehouse on its embedded defaults with a data folder that is
thrown away, measures them in turns, then the pages of Gatehouse and the parts of a call, and stops them. What it finds
is written between two marks in docs/benchmarks.md. ContextForge and py-spy are installed into environments of their
own. The machine should have nothing else to do.
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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench_run
import contextforge
import pages
import parts
import psutil
import sizes

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
MAX_P50_RATIO = 2.0
MIN_RPS_RATIO = {16: 0.7, 64: 0.9}
MAX_CALL_CPU_MS = 1.0
MIN_X_CONTEXTFORGE = 20.0
MAX_MEMORY_MIB = 250.0
MAX_LIST_CPU_MS = 3.0
SERVERS_LISTED = 25
TARGETS = ("floor", "fastmcp", "contextforge", "gatehouse")
MEASURES = ("calls", "sizes", "pages", "parts")
BEGIN, END = "<!-- measured: from here -->", "<!-- measured: to here -->"

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
    people: dict[str, Any] = field(default_factory=dict)

    def provision(self, slug: str) -> dict[str, Any]:
        """Make an organisation with a member and a key for every role."""
        command = [sys.executable, "manage.py", "provision", "--org", slug, "--json"]
        done = subprocess.run(command, cwd=PROJECT, env=self.env, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def connect(self, slug: str, upstream: str) -> Target:
        """Make an organisation with this upstream, approved, and say how its agent reaches it."""
        org = self.people[slug] = self.provision(slug)
        developer, admin = (Rest(self.base, org["users"][role]) for role in ("developer", "admin"))
        described = {"name": slug.title(), "slug": slug, "transport": "streamable_http", "url": upstream}
        server = developer.post("/mcp/servers", described)
        job = developer.post(f"/mcp/servers/{server['id']}/discover")
        wait_for_job(developer, job.get("job_id") or job["id"])
        admin.post(f"/mcp/servers/{server['id']}/approve")
        headers = {"Authorization": f"Bearer {org['keys']['developer']}"}
        return {"name": "gatehouse", "url": f"{self.base}/mcp", "headers": headers, "pids": [self.pid]}

    def fill(self, slug: str, upstream: str) -> None:
        """Register servers until a list of them fills its first page; nobody has to approve them."""
        developer = Rest(self.base, self.people[slug]["users"]["developer"])
        for number in range(1, SERVERS_LISTED):
            described = {"name": f"Listed {number}", "slug": f"listed-{number}", "url": upstream}
            developer.post("/mcp/servers", {**described, "transport": "streamable_http"})

    def measure_pages(self, slug: str, seconds: float) -> list[bench_run.Row]:
        """What its pages cost, seen by the owner."""
        owner = self.people[slug]["users"]["owner"]
        bearer = Rest(self.base, owner).headers["Authorization"].partition(" ")[2]
        return asyncio.run(pages.measure(self.base, owner, bearer, self.pid, seconds))


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


@dataclass
class Stack:
    """Everything that was started: the endpoints with three tools, those with a thousand, and ours."""

    few: list[Target]
    many: list[Target]
    ours: Gatehouse | None = None


def start(running: contextlib.ExitStack, skipped: list[str]) -> Stack:
    """Start everything."""
    direct, direct_pid = running.enter_context(script("upstream_server.py"))
    wide, wide_pid = running.enter_context(script("upstream_server.py", "--tools", str(WIDE_TOOLS)))
    found = Stack(
        few=[{"name": "direct", "url": direct, "pids": [direct_pid]}],
        many=[{"name": "direct", "url": wide, "pids": [wide_pid]}],
    )
    found.few += others(running, direct, skipped)
    if "gatehouse" not in skipped:
        found.ours = running.enter_context(gatehouse(direct, wide))
        found.few.append(found.ours.connect("bench", direct))
        found.many.append(found.ours.connect("wide", wide))
        if "pages" not in skipped:
            found.ours.fill("bench", direct)
    return found


def others(running: contextlib.ExitStack, direct: str, skipped: list[str]) -> Iterator[Target]:
    """Start what stands between agent and upstream elsewhere."""
    if "floor" not in skipped:
        url, pid = running.enter_context(script("floor_proxy.py", "--target", direct, "--token", FLOOR_TOKEN))
        headers = {"Authorization": f"Bearer {FLOOR_TOKEN}"}
        yield {"name": "floor", "url": url, "headers": headers, "pids": [pid]}
    if "fastmcp" not in skipped:
        url, pid = running.enter_context(script("fastmcp_proxy.py", "--target", direct))
        yield {"name": "fastmcp", "url": url, "pids": [pid]}
    if "contextforge" not in skipped:
        yield running.enter_context(contextforge.contextforge(direct))


def measure(a: argparse.Namespace, found: list[Target], cells: str, protocol: str) -> bench_run.Row:
    """Measure some endpoints in turns."""
    with tempfile.NamedTemporaryFile(suffix=".json") as raw:
        options = ["--reps", str(a.reps), "--protocol", protocol, "--cells", cells, "--out", raw.name]
        return asyncio.run(bench_run.run(bench_run.arguments(options), found))


def pick(data: bench_run.Row, **wanted: Any) -> list[bench_run.Row]:
    """The measured cells with these values."""
    return [row for row in data["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def ratio(data: bench_run.Row, figure: str, callers: int, *, base: str = "direct") -> float | None:
    """How a call through Gatehouse compares with a direct one: the median of the repetitions' own ratios."""
    others = {row["rep"]: row.get(figure) for row in pick(data, target=base, op="call", concurrency=callers)}
    ours = pick(data, target="gatehouse", op="call", concurrency=callers)
    return bench_run.med(row[figure] / other for row in ours if (other := others.get(row["rep"])) and row.get(figure))


def call_cpu_ms(data: bench_run.Row, callers: int) -> float | None:
    """The CPU milliseconds of Gatehouse per call."""
    ours = pick(data, target="gatehouse", op="call", concurrency=callers)
    return bench_run.med(
        1000 * row["server_cpu_s"] / row["completed_total"]
        for row in ours
        if row.get("completed_total") and "server_cpu_s" in row
    )


def memory(*measured: bench_run.Row) -> float | None:
    """The most that Gatehouse was seen to hold, in MiB."""
    return max((row["rss_mb"] for data in measured for row in pick(data, target="gatehouse")), default=None)


def list_cpu_ms(data: bench_run.Row, protocol: str) -> float | None:
    """The CPU milliseconds of Gatehouse per list of a thousand tools."""
    ours = pick(data, target="gatehouse", protocol=protocol)
    return bench_run.med(
        1000 * row["server_cpu_s"] / row["completed_total"]
        for row in ours
        if row.get("completed_total") and "server_cpu_s" in row
    )


def promises(few: bench_run.Row, many: bench_run.Row) -> list[str]:
    """What we promise, and what was measured."""
    crowd = pick(few, target="gatehouse", op="call", concurrency=64)
    errors = sum(row.get("errors", 1) for row in crowd) if crowd else None
    latency = ratio(few, "p50_ms", 1)
    legacy, modern = list_cpu_ms(many, LEGACY), list_cpu_ms(many, MODERN)
    list_of = f"CPU per list of {WIDE_TOOLS} tools"
    return [
        "| promise | measured | holds |",
        "|---|---|---|",
        promise(f"p50 of a call, one caller: at most {MAX_P50_RATIO:g} x direct", latency, "x", most=MAX_P50_RATIO),
        *(
            promise(
                f"requests/s with {callers} callers: at least {least:g} x direct",
                ratio(few, "rps", callers),
                "x",
                least=least,
            )
            for callers, least in MIN_RPS_RATIO.items()
        ),
        promise(
            f"requests/s with 16 callers: at least {MIN_X_CONTEXTFORGE:g} x ContextForge",
            ratio(few, "rps", 16, base="contextforge"),
            "x",
            least=MIN_X_CONTEXTFORGE,
        ),
        promise(
            f"CPU per call, 16 callers: at most {MAX_CALL_CPU_MS:g} ms",
            call_cpu_ms(few, 16),
            "ms",
            most=MAX_CALL_CPU_MS,
        ),
        promise("errors with 64 callers: none", errors, "", most=0),
        promise(
            f"memory after the load: at most {MAX_MEMORY_MIB:g} MiB", memory(few, many), "MiB", most=MAX_MEMORY_MIB
        ),
        promise(f"{list_of}, {LEGACY}: at most {MAX_LIST_CPU_MS:g} ms", legacy, "ms", most=MAX_LIST_CPU_MS),
        promise(f"{list_of}, {MODERN}: at most {MAX_LIST_CPU_MS:g} ms", modern, "ms", most=MAX_LIST_CPU_MS),
    ]


def promise(
    text: str, value: float | None, unit: str, *, most: float = float("inf"), least: float = float("-inf")
) -> str:
    """One line of the promises."""
    if value is None:
        return f"| {text} | not measured | - |"
    return f"| {text} | {value:.3g} {unit} | {'yes' if least <= value <= most else '**no**'} |"


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


def report(a: argparse.Namespace, stack: Stack) -> str:
    """Measure everything and write it down."""
    found = ["\n".join([*machine(), *others_versions(a.skip)])]
    if "calls" not in a.skip:
        found += report_on_all(a, stack)
    if stack.ours is not None and "sizes" not in a.skip:
        found += report_on_sizes(a, stack.few[0]["url"])
    if stack.ours is not None and "pages" not in a.skip:
        found += report_on_pages(a, stack.ours)
    if stack.ours is not None and "parts" not in a.skip:
        found += report_on_parts(a, stack.few[-1])
    return "\n\n".join(found)


def report_on_all(a: argparse.Namespace, stack: Stack) -> list[str]:
    """All targets in turns: calls, short lists and long ones."""
    seconds = a.seconds
    cells = f"call:1:{seconds},call:16:{seconds},call:64:{2 * seconds},list:1:{seconds}"
    few = measure(a, stack.few, cells, LEGACY)
    ends = [target for target in stack.few if target["name"] in ("direct", "gatehouse")]
    modern = measure(a, ends, f"call:1:{seconds},call:16:{seconds}", MODERN)
    many = measure(a, stack.many, f"list:1:{seconds}", f"{LEGACY},{MODERN}")
    return [
        "## Promises",
        "\n".join(promises(few, many)),
        "## Calls and short lists",
        bench_run.table(few).strip(),
        bench_run.table(modern).strip(),
        f"## Lists of {WIDE_TOOLS} tools",
        "*direct* is the same FastMCP server, which builds the list anew for every request.",
        bench_run.table(many).strip(),
    ]


def report_on_sizes(a: argparse.Namespace, upstream: str) -> Iterator[str]:
    """A call in organisations of different size."""
    yield "## Small and large organisations"
    yield sizes.ABOUT
    with contextlib.ExitStack() as running:
        made = sizes.start(running, gatehouse, upstream)
        for protocol in (LEGACY, MODERN):
            measured = sizes.measure(made, rounds=max(5, round(a.reps * a.seconds)), protocol=protocol)
            yield f"**{protocol}**: {sizes.MAX_X_SMALLEST:g} x the smallest is promised."
            yield sizes.table(measured)


def report_on_pages(a: argparse.Namespace, ours: Gatehouse) -> list[str]:
    """What only Gatehouse has: its pages."""
    return [
        "## Login, lists and pages",
        f"After the calls above, whose events are in the lists; {SERVERS_LISTED} servers. A login costs what hashing a "
        "password costs, on purpose.",
        pages.table(ours.measure_pages("bench", a.seconds)),
        f"Memory of the process after all this: {bench_run.rss_mb([ours.pid])} MiB.",
    ]


def report_on_parts(a: argparse.Namespace, target: Target) -> Iterator[str]:
    """Where the time of a call goes."""
    yield "## A call, part by part"
    yield parts.ABOUT
    for callers in (1, 16):
        found = parts.measure(target, seconds=max(2, 3 * a.seconds), protocol=LEGACY, callers=callers)
        times = "One caller" if callers == 1 else f"{callers} callers"
        yield f"**{times}**: {found.calls} calls, {found.cpu_ms:.2f} ms of CPU each, {found.looks} looks."
        yield parts.table(found)


def others_versions(skipped: list[str]) -> list[str]:
    """What else was measured, in which version."""
    return [] if "contextforge" in skipped or "calls" in skipped else [f"- ContextForge: {contextforge.PACKAGE}"]


def write(path: Path, found: str, *, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put what was found between the marks; a file without marks is written anew."""
    text = path.read_text() if path.is_file() else ""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    new = f"{marks[0]}\n\n{found}\n\n{marks[1]}"
    path.write_text(f"{before}{new}{after}" if begin and end else f"{new}\n")


def main() -> None:
    """Start, measure, write."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--seconds", type=float, default=4, help="of one cell; with 64 callers twice as long")
    ap.add_argument("--skip", action="append", default=[], choices=(*TARGETS, *MEASURES))
    ap.add_argument("--out", type=Path, default=PROJECT / "docs" / "benchmarks.md")
    a = ap.parse_args()
    with contextlib.ExitStack() as running:
        found = report(a, start(running, a.skip))
    write(a.out, found)
    print(found)


if __name__ == "__main__":
    main()
