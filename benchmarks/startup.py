"""Start a command, time it until the first good MCP answer, note RSS, stop it; repeat.

    python startup.py --url http://127.0.0.1:9101/mcp --reps 3 [--cwd D] [--target-json t.json] \
        -- python upstream_server.py --port 9101

Counts as ready: an HTTP answer to --health (if given), then tools/list answered over MCP.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import bench_run
import mcp_load


async def mcp_ok(url: str, headers: dict[str, str], proto: str) -> int:
    """How many tools a fresh client is shown."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        client = mcp_load.Client(http, url, headers, proto)
        await client.open()
        got = await client.request("tools/list")
        await client.close()
        return len(got.get("tools", []))


def health_ok(url: str) -> bool:
    """Whether the health address answers 200."""
    with urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)


def wait_ready(a: argparse.Namespace, process: subprocess.Popen[bytes], headers: dict[str, str]) -> dict[str, Any]:
    """Ask until everything answers; the seconds it took, or the last failure."""
    started = time.perf_counter()
    row: dict[str, Any] = {}
    last = None
    while time.perf_counter() - started < a.limit and process.poll() is None:
        try:
            if a.health and "health_s" not in row and health_ok(a.health):
                row["health_s"] = round(time.perf_counter() - started, 2)
            if tools := asyncio.run(mcp_ok(a.url, headers, a.protocol)):
                return {**row, "mcp_s": round(time.perf_counter() - started, 2), "tools": tools}
        except Exception as e:
            last = repr(e)[:200]
        time.sleep(0.05)
    return {**row, "failed": last}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def once(a: argparse.Namespace, command: list[str], headers: dict[str, str]) -> dict[str, Any]:
    """One start, measured."""
    with Path(a.log).open("ab") as log:
        process = subprocess.Popen(command, cwd=a.cwd, stdout=log, stderr=log, start_new_session=True)
    row = wait_ready(a, process, headers)
    time.sleep(1)
    row["rss_mb"] = bench_run.rss_mb([process.pid])
    row["cpu_s"] = round(bench_run.cpu_s([process.pid]), 2)  # robust against a busy machine
    stop(process)
    return row


def main() -> None:
    """Repeat, and print the median."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", required=True)
    ap.add_argument("--health")
    ap.add_argument("--target-json")
    ap.add_argument("--protocol", default="2025-11-25")
    ap.add_argument("--cwd")
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--limit", type=float, default=120)
    ap.add_argument("--log", default="startup.log")
    ap.add_argument("cmd", nargs=argparse.REMAINDER)
    a = ap.parse_args()
    command = a.cmd[1:] if a.cmd and a.cmd[0] == "--" else a.cmd
    headers = json.loads(Path(a.target_json).read_text()).get("headers", {}) if a.target_json else {}
    out = [once(a, command, headers) for _ in range(a.reps)]
    good = [row["mcp_s"] for row in out if "mcp_s" in row]
    print(json.dumps({"median_mcp_s": statistics.median(good) if good else None, "runs": out}))


if __name__ == "__main__":
    main()
