"""Interleaved comparison of several MCP endpoints with mcp_load.measure.

    python bench_run.py --targets targets.json --out raw.json --md table.md --reps 3 \
        --protocol 2025-11-25 --cells list:1:3,call:1:3,list:16:5,call:16:5,call:64:8

targets.json: [{"name","url","headers":{},"pids":[...],"protocols":["2025-11-25",...]}, ...]
The first target is the baseline ("direct"). Inside every repetition the cells go round all targets,
and the order of the targets rotates, so a noisy neighbour hits all of them alike. Ratios are taken
per repetition and then the median of the repetitions is reported.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mcp_load
import psutil

Row = dict[str, Any]


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and all their descendants."""
    seen = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                seen[process.pid] = process
    return list(seen.values())


def rss_mb(pids: Iterable[int]) -> float:
    """The resident memory of the trees, in MiB."""
    total = 0
    for process in tree(pids):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return round(total / 2**20, 1)


def cpu_s(pids: Iterable[int]) -> float:
    """The CPU seconds that the trees have used."""
    total = 0.0
    for process in tree(pids):
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            total += used.user + used.system
    return total


def parse_cells(text: str) -> list[tuple[str, int, float]]:
    """The cells of a run from op:concurrency:seconds,…"""
    cells = [cell.split(":") for cell in text.split(",")]
    return [(op, int(concurrency), float(seconds)) for op, concurrency, seconds in cells]


async def measure_cell(a: argparse.Namespace, target: Row, proto: str, rep: int, cell: tuple[str, int, float]) -> Row:
    """One cell on one target, with what it cost the target's processes."""
    op, concurrency, seconds = cell
    pids = target.get("pids", [])
    cpu_before = cpu_s(pids)
    try:
        row = await asyncio.wait_for(
            mcp_load.measure(
                target["url"],
                target.get("headers"),
                protocol=proto,
                op=op,
                concurrency=concurrency,
                seconds=seconds,
                warmup=a.warmup,
                timeout=a.timeout,
            ),
            seconds + 3 * a.timeout,
        )
    except Exception as e:
        row = {"op": op, "protocol": proto, "concurrency": concurrency, "failed": f"{type(e).__name__}: {e}"[:300]}
    row.update(
        target=target["name"],
        rep=rep,
        server_cpu_s=round(cpu_s(pids) - cpu_before, 3),
        rss_mb=rss_mb(pids),
        load1=os.getloadavg()[0],
    )
    return row


def line(row: Row) -> str:
    """A measured cell for the terminal."""
    text = (
        f"{row['protocol']} rep{row['rep']} {row['op']} c={row['concurrency']} {row['target']}: rps={row.get('rps')} "
        f"p50={row.get('p50_ms')} p99={row.get('p99_ms')} err={row.get('errors')} "
        f"{row.get('failed', '')} {row.get('error_samples') or ''}"
    )
    return text[:400]


async def run(a: argparse.Namespace, targets: list[Row]) -> Row:
    """All cells of all repetitions, round and round the targets."""
    data: Row = {
        "rows": [],
        "rss_idle_mb": {t["name"]: rss_mb(t.get("pids", [])) for t in targets},
        "targets": [t["name"] for t in targets],
    }
    t_end = time.time() + a.max_minutes * 60
    for proto in a.protocol.split(","):
        chosen = [t for t in targets if proto in t.get("protocols", [proto])]
        for rep in range(a.reps):
            first = rep % max(1, len(chosen))
            for cell in parse_cells(a.cells):
                for target in chosen[first:] + chosen[:first]:
                    if time.time() > t_end:
                        print("time is up", flush=True)
                        return data
                    row = await measure_cell(a, target, proto, rep, cell)
                    data["rows"].append(row)
                    print(line(row), flush=True)
                    Path(a.out).write_text(json.dumps(data, indent=1))  # noqa: ASYNC240 - between two measurements
    return data


def med(values: Iterable[float | None]) -> float | None:
    """The median of what was measured."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def fmt(value: float | None, digits: int = 1) -> str:
    """A number for a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def table_line(name: str, mine: list[Row], ref: dict[int, Row]) -> str:
    """One target in the table of one cell; ref is the baseline by repetition."""
    good = [r for r in mine if r.get("rps") is not None]
    if not good:
        return f"| {name} | FAILED | {mine[0].get('failed', '')[:120]} | | | | | | | |"
    latency = [r["p50_ms"] / base for r in good if r["p50_ms"] and (base := ref.get(r["rep"], {}).get("p50_ms"))]
    throughput = [r["rps"] / base for r in good if (base := ref.get(r["rep"], {}).get("rps"))]
    cpu = [1000 * r["server_cpu_s"] / done for r in good if (done := r.get("completed_total") or r["ok"])]
    cells = [
        name,
        fmt(med(r["rps"] for r in good)),
        fmt(med(r.get("rps_with_drain") for r in good)),
        *(fmt(med(r[key] for r in good), 2) for key in ("p50_ms", "p95_ms", "p99_ms")),
        str(sum(r["errors"] for r in good)),
        fmt(med(latency), 2),
        fmt(med(throughput), 3),
        fmt(med(cpu), 2),
    ]
    return f"| {' | '.join(cells)} |"


def cell_table(proto: str, op: str, concurrency: int, rows: list[Row], names: list[str]) -> list[str]:
    """The table of one cell."""
    base = names[0]
    ref = {r["rep"]: r for r in rows if r["target"] == base}
    repetitions = 1 + max(r["rep"] for r in rows)
    out = [
        f"\n**{proto} · tools/{op} · concurrency {concurrency}** (median of {repetitions} repetitions)\n",
        f"| target | RPS | RPS incl. drain | p50 ms | p95 ms | p99 ms | errors | p50 x {base} | RPS / {base} "
        "| server CPU ms per call |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    by_target = {name: [r for r in rows if r["target"] == name] for name in names}
    out += [table_line(name, mine, ref) for name, mine in by_target.items() if mine]
    return out


def table(data: Row) -> str:
    """Everything that was measured, as Markdown."""
    rows, names = data["rows"], data["targets"]
    out: list[str] = []
    for proto, op, concurrency in dict.fromkeys((r["protocol"], r["op"], r["concurrency"]) for r in rows):
        cell = [r for r in rows if (r["protocol"], r["op"], r["concurrency"]) == (proto, op, concurrency)]
        out += cell_table(proto, op, concurrency, cell, names)
    out += [
        "\n**Memory (RSS of the whole process tree, MiB)**\n",
        "| target | idle | after the load (max seen) |",
        "|---|---|---|",
    ]
    for name in names:
        seen = max((r["rss_mb"] for r in rows if r["target"] == name), default=None)
        out.append(f"| {name} | {data['rss_idle_mb'].get(name)} | {seen} |")
    return "\n".join(out) + "\n"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of another script that measures."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--targets", default="targets.json")
    ap.add_argument("--only", help="comma list of target names")
    ap.add_argument("--render", action="store_true", help="only make the table from --out")
    ap.add_argument("--out", default="raw.json")
    ap.add_argument("--md", default="table.md")
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--protocol", default="2025-11-25")
    ap.add_argument("--cells", default="list:1:3,call:1:3,list:16:5,call:16:5,call:64:8")
    ap.add_argument("--warmup", type=float, default=1.0)
    ap.add_argument("--timeout", type=float, default=30)
    ap.add_argument("--max-minutes", type=float, default=20)
    return ap.parse_args(given)


def main() -> None:
    """Measure, or render what was measured."""
    a = arguments()
    if a.render:
        data = json.loads(Path(a.out).read_text())
    else:
        targets = json.loads(Path(a.targets).read_text())
        chosen = [t for t in targets if not a.only or t["name"] in a.only.split(",")]
        data = asyncio.run(run(a, chosen))
        Path(a.out).write_text(json.dumps(data, indent=1))
    Path(a.md).write_text(table(data))
    print(table(data))


if __name__ == "__main__":
    main()
