"""One web process and two, on PostgreSQL and Redis: how many calls a second, and what a call costs.

    python benchmarks/webs.py --database postgres://postgres@127.0.0.1:5432 --redis redis://127.0.0.1:6379/15

Two load generators with eight callers each ask one process, or one each of two. The upstream is a bare echo, so that
the processes measured are not waiting for it. They share the machine's cores with all this, which on a small machine is
what limits them; therefore it is measured once more with each web process held to a share of a core, by stopping it for
the rest of every fiftieth of a second. What is found is written between two marks in docs/benchmarks.md.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import bench_run
import psycopg
import run
import sizes
from psycopg import sql

from tests.fixtures.servers import Process, evil_upstream, free_port

NAME = "gatehouse_webs"
ORGANIZATION = "webs"
CALLERS = 8
SHARE = 0.25
TURN_SECONDS = 0.02
BEGIN, END = "<!-- webs: from here -->", "<!-- webs: to here -->"


@contextlib.contextmanager
def database(server: str) -> Iterator[str]:
    """A database that is thrown away."""
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(NAME))
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
        yield f"{server}/{NAME}"
        connection.execute(drop)


@contextlib.contextmanager
def webs(env: dict[str, str], number: int) -> Iterator[list[Process]]:
    """So many web processes."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(number):
            port = free_port()
            command = [sys.executable, "manage.py", "up", "--role", "web", "--port", str(port)]
            ready = f"http://127.0.0.1:{port}/ready"
            found.append(stack.enter_context(Process(command, env=env, ready=ready, start_seconds=run.START_SECONDS)))
        yield found


@contextlib.contextmanager
def held_to(share: float | None, processes: list[Process]) -> Iterator[None]:
    """Let each process run for this share of the time, one after the other; all of the time with None."""
    if share is None:
        yield
        return
    done = Event()

    def hold(process: Process, turn: int) -> None:
        began = time.perf_counter() + TURN_SECONDS * turn / len(processes)
        while not done.is_set():
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(max(0.0, began + TURN_SECONDS * (1 - share) - time.perf_counter()))
            os.kill(process.pid, signal.SIGCONT)
            began += TURN_SECONDS
            time.sleep(max(0.0, began - time.perf_counter()))

    threads = [Thread(target=hold, args=(process, turn)) for turn, process in enumerate(processes)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


LOAD = """
import asyncio, json, sys, mcp_load
url, key, seconds, callers, protocol = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}"}
options = {"seconds": float(seconds), "concurrency": int(callers), "protocol": protocol, "op": "call", "warmup": 0}
print(json.dumps(asyncio.run(mcp_load.measure(url, headers, **options))))
"""


def load(url: str, key: str, seconds: float) -> dict[str, Any]:
    """What one load generator, a process of its own, found."""
    command = [sys.executable, "-c", LOAD, url, key, str(seconds), str(CALLERS), run.LEGACY]
    done = subprocess.run(command, cwd=run.HERE, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(processes: list[Process], key: str, seconds: float) -> tuple[float, float]:
    """Calls a second, and the CPU milliseconds of one, of both load generators together."""
    urls = [str(process.ready).replace("/ready", "/mcp") for process in processes]
    pids = [process.pid for process in processes]
    before = bench_run.cpu_s(pids)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda url: load(url, key, seconds), [urls[0], urls[-1]]))
    calls = sum(row["completed_total"] for row in rows)
    if any(row["errors"] for row in rows):
        raise RuntimeError(str([row["error_samples"] for row in rows]))
    return sum(row["rps"] for row in rows), 1000 * (bench_run.cpu_s(pids) - before) / calls


def prepare(env: dict[str, str], upstream: str) -> str:
    """The tables, an organisation with the upstream, and its agent's key."""

    def manage(*command: str) -> str:
        full = [sys.executable, "manage.py", *command]
        return subprocess.run(full, cwd=run.PROJECT, env=env, check=True, capture_output=True, text=True).stdout

    manage("migrate")
    made = json.loads(manage("provision", "--org", ORGANIZATION, "--json"))
    manage("shell", "--command", sizes.FILL.format(slug=ORGANIZATION, url=upstream, servers=1, tools=10))
    key: str = made["keys"]["developer"]
    return key


def report(reps: int, seconds: float, env: dict[str, str], key: str) -> str:
    """Measure in turns, and write it down."""
    found: dict[tuple[float | None, int], list[tuple[float, float]]]
    found = {(share, number): [] for share in (SHARE, None) for number in (1, 2)}
    for _ in range(reps):
        for (share, number), rows in found.items():
            with webs(env, number) as processes:
                measure(processes, key, 1.0)
                with held_to(share, processes):
                    rows.append(measure(processes, key, seconds))
    lines = ["| each may use | web processes | calls/s | x one | CPU ms per call |", "|---|---|---|---|---|"]
    for (share, number), rows in found.items():
        base = bench_run.med(rps for rps, _ in found[share, 1]) or 1.0
        rps, cpu = bench_run.med(each for each, _ in rows) or 0.0, bench_run.med(each for _, each in rows) or 0.0
        may_use = f"{share:.0%} of a core" if share else "what is there"
        lines.append(f"| {may_use} | {number} | {rps:.0f} | {rps / base:.2f} | {cpu:.2f} |")
    about = (
        f"`benchmarks/webs.py`: PostgreSQL and Redis, {2 * CALLERS} callers in two load generators, a bare echo as the "
        f"upstream, everything on the same {os.cpu_count()} cores. Load and upstream need about as much of a core as "
        "one web process: two can be faster only as far as there are cores left. The first rows leave cores: there "
        f"each web process is stopped for the rest of every {TURN_SECONDS * 1000:.0f} ms."
    )
    return "\n\n".join(["## Several web processes", about, "\n".join(run.machine()), "\n".join(lines)])


def main() -> None:
    """Start, measure, write."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--database", required=True)
    ap.add_argument("--redis", required=True)
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--seconds", type=float, default=4)
    ap.add_argument("--out", type=Path, default=run.PROJECT / "docs" / "benchmarks.md")
    a = ap.parse_args()
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="gatehouse-webs-") as data,
        database(a.database) as url,
        evil_upstream(port),
    ):
        env = {
            **run.without_settings(os.environ), "GATEHOUSE_DATA": data, "DATABASE_URL": url,
            "REDIS_URL": a.redis, "BROKER_URL": a.redis,
            "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{port}", "GATEHOUSE_PUBLIC_URL": "http://127.0.0.1:8000",
        }  # fmt: skip
        found = report(a.reps, a.seconds, env, prepare(env, f"http://127.0.0.1:{port}/mcp"))
    run.write(a.out, found, marks=(BEGIN, END))
    print(found)


if __name__ == "__main__":
    main()
