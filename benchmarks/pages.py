"""What login, lists and pages of the control room cost: requests a second, latency, CPU, and memory afterwards.

`run.py` starts the platform, fills an organisation and calls `measure`. Each answer is checked for its status.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import bench_run
import mcp_load

Row = dict[str, Any]
Visit = Callable[[aiohttp.ClientSession], Awaitable[int]]

LOGINS = 50
"""At one time: 300 in a minute are let through from one address."""
CALLERS = (1, 8)
OK = 200
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def visits(base: str, account: dict[str, str], bearer: str) -> dict[str, Visit]:
    """What is asked, by the name that the table shows."""
    api = {"Authorization": f"Bearer {bearer}"}
    return {
        "login": _post(f"{base}/api/v1/auth/login", account),
        "REST: servers, 25 rows": _get(f"{base}/api/v1/mcp/servers?page_size=25", api),
        "REST: calls, 25 rows": _get(f"{base}/api/v1/metrics/events?page_size=25", api),
        "control room: dashboard": _get(f"{base}/admin/", {}),
        "control room: servers": _get(f"{base}/admin/registry/server/", {}),
        "control room: calls": _get(f"{base}/admin/usage/usageevent/", {}),
    }


def _get(url: str, headers: dict[str, str]) -> Visit:
    async def visit(http: aiohttp.ClientSession) -> int:
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            await answer.read()
            return answer.status

    return visit


def _post(url: str, content: dict[str, str]) -> Visit:
    async def visit(http: aiohttp.ClientSession) -> int:
        async with http.post(url, json=content) as answer:
            await answer.read()
            return answer.status

    return visit


async def enter(http: aiohttp.ClientSession, base: str, account: dict[str, str]) -> None:
    """Sign in to the control room; the session's cookie stays with the client."""
    address = f"{base}/admin/login/"
    async with http.get(address) as page:
        token = _TOKEN.search(await page.text())
    if token is None:
        raise RuntimeError("The page for signing in has no form.")
    form = {"username": account["email"], "password": account["password"], "csrfmiddlewaretoken": token[1]}
    async with http.post(address, data={**form, "next": "/admin/"}, headers={"Referer": address}) as answer:
        if answer.status != OK or "/login/" in str(answer.url):
            raise RuntimeError(f"Signing in to the control room failed: {answer.status} {answer.url}")


async def measure(base: str, account: dict[str, str], bearer: str, pid: int, seconds: float) -> list[Row]:
    """Every visit with one caller and with several."""
    rows = []
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        await enter(http, base, account)
        for name, visit in visits(base, account, bearer).items():
            for callers in CALLERS:
                await visit(http)
                cell = Cell(lambda visit=visit: visit(http), callers, seconds, LOGINS if name == "login" else None)
                rows.append({"page": name, "callers": callers, **await cell.run(pid)})
    return rows


@dataclass
class Cell:
    """So many callers who come again as soon as they are answered, for so long or so often."""

    visit: Callable[[], Awaitable[int]]
    callers: int
    seconds: float
    visits_left: int | None
    taken: list[float] = field(default_factory=list)
    wrong: int = 0

    async def run(self, pid: int) -> Row:
        """What they saw, and what it cost the process."""
        started, cpu = time.perf_counter(), bench_run.cpu_s([pid])
        await asyncio.gather(*(self._call(started + self.seconds) for _ in range(self.callers)))
        elapsed, cpu = time.perf_counter() - started, bench_run.cpu_s([pid]) - cpu
        self.taken.sort()
        return {
            "rps": len(self.taken) / elapsed,
            "p50_ms": 1000 * (mcp_load.pct(self.taken, 0.5) or 0),
            "p95_ms": 1000 * (mcp_load.pct(self.taken, 0.95) or 0),
            "errors": self.wrong,
            "cpu_ms": 1000 * cpu / max(1, len(self.taken)),
        }

    async def _call(self, until: float) -> None:
        while (begun := time.perf_counter()) < until and self.visits_left != 0:
            if self.visits_left is not None:
                self.visits_left -= 1
            status = await self.visit()
            self.taken.append(time.perf_counter() - begun)
            self.wrong += status != OK


def table(rows: list[Row]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| page | callers | requests/s | p50 ms | p95 ms | errors | CPU ms per request |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [bench_run.fmt(row[name]) for name in ("rps", "p50_ms", "p95_ms")]
        lines.append(
            f"| {row['page']} | {row['callers']} | {' | '.join(figures)} | {row['errors']} "
            f"| {bench_run.fmt(row['cpu_ms'])} |"
        )
    return "\n".join(lines)
