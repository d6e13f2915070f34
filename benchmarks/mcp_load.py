"""Neutral MCP load generator: raw streamable HTTP over aiohttp, no MCP SDK on the client side.

  python mcp_load.py --url http://127.0.0.1:9101/mcp --protocol 2025-11-25 --seconds 5
  python mcp_load.py --url ... --protocol 2026-07-28 --ops list,call --concurrency 1,16,64
  python mcp_load.py --url ... --header 'Authorization: Bearer X'

Every worker is one client: with 2025-* it does its own initialize handshake and keeps its own
session header; with 2026-07-28 it is stateless (no handshake, _meta + Mcp-* headers).
Every answer is checked (echo must return this request's own nonce, add the right sum, tools/list
must contain the expected tools); a wrong answer counts as an error. Prints one JSON document.
Importable: `await measure(...)`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable

import aiohttp

MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"
READ_BYTES = 2**20  # aiohttp accepts lines of eight times as much: an event with a thousand tools is one line
INFO = {"name": "mcp-load", "version": "1"}


class Wrong(Exception):
    """The server answered, but not with what was asked."""


def pct(sorted_values: list[float], q: float) -> float | None:
    if not sorted_values:
        return None
    i = min(len(sorted_values) - 1, max(0, round(q * (len(sorted_values) - 1))))
    return sorted_values[i]


class Client:
    """One MCP client connection over raw HTTP."""

    _seq = 0

    def __init__(self, http: aiohttp.ClientSession, url: str, headers: dict, protocol: str):
        self.http, self.url, self.protocol = http, url, protocol
        self.modern = protocol >= MODERN
        self.base = {**headers, "Accept": ACCEPT, "Content-Type": "application/json"}
        self.session_id: str | None = None
        self.bytes_in = 0

    def _headers(self, method: str, params: dict) -> dict:
        h = dict(self.base)
        if self.modern:
            h["MCP-Protocol-Version"] = self.protocol
            h["Mcp-Method"] = method
            name = params.get("name") or params.get("uri")
            if name and method in ("tools/call", "prompts/get", "resources/read"):
                h["Mcp-Name"] = name
        else:
            if method != "initialize":
                h["MCP-Protocol-Version"] = self.protocol
            if self.session_id:
                h["Mcp-Session-Id"] = self.session_id
        return h

    async def request(self, method: str, params: dict | None = None) -> dict:
        Client._seq += 1
        rid = Client._seq
        params = dict(params or {})
        if self.modern:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": self.protocol,
                "io.modelcontextprotocol/clientInfo": INFO,
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        body = json.dumps({"jsonrpc": "2.0", "id": rid, "method": method, "params": params})
        async with self.http.post(self.url, data=body, headers=self._headers(method, params)) as r:
            ctype = r.headers.get("Content-Type", "")
            if method == "initialize":
                self.session_id = r.headers.get("Mcp-Session-Id") or self.session_id
            if r.status != 200:
                text = (await r.text())[:300]
                raise Wrong(f"HTTP {r.status}: {text}")
            message = None
            if ctype.startswith("text/event-stream"):
                async for line in r.content:
                    self.bytes_in += len(line)
                    if not line.startswith(b"data:"):
                        continue
                    payload = line[5:].strip()
                    if not payload:
                        continue
                    m = json.loads(payload)
                    if m.get("id") == rid and ("result" in m or "error" in m):
                        message = m
                # drain to EOF so that the connection is reused
            else:
                raw = await r.read()
                self.bytes_in += len(raw)
                message = json.loads(raw)
        if message is None:
            raise Wrong("stream ended without the response")
        if message.get("id") != rid:
            raise Wrong(f"id mismatch {message.get('id')!r} != {rid}: {str(message)[:200]}")
        if "error" in message:
            raise Wrong(f"JSON-RPC error {message['error'].get('code')}: {str(message['error'].get('message'))[:200]}")
        return message["result"]

    async def notify(self, method: str) -> None:
        body = json.dumps({"jsonrpc": "2.0", "method": method})
        async with self.http.post(self.url, data=body, headers=self._headers(method, {})) as r:
            await r.read()
            if r.status >= 400:
                raise Wrong(f"{method}: HTTP {r.status}")

    async def open(self) -> dict:
        if self.modern:
            return {}
        result = await self.request(
            "initialize",
            {"protocolVersion": self.protocol, "capabilities": {}, "clientInfo": INFO},
        )
        negotiated = result.get("protocolVersion")
        if negotiated:
            self.protocol = negotiated
        await self.notify("notifications/initialized")
        return result

    async def close(self) -> None:
        if self.modern or not self.session_id:
            return
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self.http.delete(self.url, headers=self._headers("", {})) as r:
                await r.read()


def find_tool(names: list[str], short: str, override: str | None) -> str:
    if override:
        return override
    if short in names:
        return short
    for n in sorted(names, key=len):
        if n.endswith(("-" + short, "_" + short, "." + short, "/" + short, ":" + short)):
            return n
    raise Wrong(f"no tool like {short!r} among {names[:20]}")


def call_text(result: dict) -> str:
    if result.get("isError"):
        raise Wrong(f"isError: {str(result)[:200]}")
    for c in result.get("content") or []:
        if c.get("type") == "text":
            return c["text"]
    raise Wrong(f"no text content: {str(result)[:200]}")


async def op_list(c: Client, tools: dict) -> None:
    result = await c.request("tools/list")
    names = {t["name"] for t in result.get("tools", [])}
    if not {tools["echo"], tools["add"]} <= names:
        raise Wrong(f"tools/list lacks the expected tools: {sorted(names)[:20]}")


async def op_call(c: Client, tools: dict) -> None:
    nonce = f"n{random.getrandbits(60):x}"
    got = call_text(await c.request("tools/call", {"name": tools["echo"], "arguments": {"text": nonce}}))
    if got != nonce:
        raise Wrong(f"echo returned {got[:80]!r}, wanted {nonce!r}")


async def op_add(c: Client, tools: dict) -> None:
    a, b = random.randrange(10**6), random.randrange(10**6)
    got = call_text(await c.request("tools/call", {"name": tools["add"], "arguments": {"a": a, "b": b}}))
    if got.strip() != str(a + b):
        raise Wrong(f"add({a},{b}) returned {got[:80]!r}")


async def op_cycle(c: Client, tools: dict) -> None:
    """A whole short-lived client: (initialize,) list, call, delete the session."""
    one = Client(c.http, c.url, {k: v for k, v in c.base.items() if k not in ("Accept", "Content-Type")}, c.protocol)
    await one.open()
    await op_list(one, tools)
    await op_call(one, tools)
    await one.close()


OPS = {"list": op_list, "call": op_call, "add": op_add, "cycle": op_cycle}


async def measure(
    url: str,
    headers: dict | None = None,
    *,
    protocol: str = "2025-11-25",
    op: str = "call",
    concurrency: int = 1,
    seconds: float = 5.0,
    warmup: float = 0.5,
    timeout: float = 15.0,  # noqa: ASYNC109 - of one request, not of this function
    echo_tool: str | None = None,
    add_tool: str | None = None,
    edge: Callable[[], None] = lambda: None,
) -> dict:
    """Closed loop: `concurrency` workers, each sends the next request when the last was answered.

    `edge` is called when the first request is about to be sent, the clients being open, and when the last is answered.
    """
    fn = OPS[op]
    lat: list[float] = []
    every: list[float] = []  # also what finished while draining after the window: fair to slow targets
    errors: collections.Counter = collections.Counter()
    samples: list[str] = []
    conn = aiohttp.TCPConnector(limit=0, force_close=False)
    to = aiohttp.ClientTimeout(total=timeout)
    cpu0 = time.process_time()
    async with aiohttp.ClientSession(connector=conn, timeout=to, read_bufsize=READ_BYTES) as http:
        probe = Client(http, url, headers or {}, protocol)
        t0 = time.perf_counter()
        init = await probe.open()
        names = [t["name"] for t in (await probe.request("tools/list")).get("tools", [])]
        open_s = time.perf_counter() - t0
        tools = {"echo": find_tool(names, "echo", echo_tool), "add": find_tool(names, "add", add_tool)}
        await op_call(probe, tools)
        await op_add(probe, tools)

        clients = [Client(http, url, headers or {}, protocol) for _ in range(concurrency)]
        sem = asyncio.Semaphore(8)

        async def opened(c: Client) -> bool:
            async with sem:
                try:
                    await c.open()
                    return True
                except Exception as e:
                    errors["open:" + type(e).__name__] += 1
                    if len(samples) < 5:
                        samples.append(f"open: {e!r}"[:300])
                    return False

        ok = await asyncio.gather(*(opened(c) for c in clients))
        clients = [c for c, good in zip(clients, ok, strict=True) if good]
        start = time.perf_counter() + warmup
        stop = start + seconds

        async def worker(c: Client) -> None:
            while True:
                t = time.perf_counter()
                if t >= stop:
                    return
                try:
                    await fn(c, tools)
                    done = time.perf_counter()
                    every.append(done - t)
                    if start <= done <= stop:
                        lat.append(done - t)
                except Exception as e:
                    if start <= time.perf_counter():
                        errors[type(e).__name__] += 1
                        if len(samples) < 5:
                            samples.append(f"{e!r}"[:300])
                    await asyncio.sleep(0.005)

        edge()
        begun = time.perf_counter()
        await asyncio.gather(*(worker(c) for c in clients))
        edge()
        elapsed = time.perf_counter() - begun
        closers = [c.close() for c in clients] + [probe.close()]
        await asyncio.gather(*closers)
    lat.sort()
    every.sort()
    n, nerr = len(lat), sum(errors.values())

    def ms(v: float | None) -> float | None:
        return None if v is None else round(v * 1000, 3)

    return {
        "op": op,
        "protocol": protocol,
        "negotiated": init.get("protocolVersion", protocol),
        "concurrency": concurrency,
        "seconds": seconds,
        "ok": n,
        "errors": nerr,
        "error_kinds": dict(errors),
        "error_samples": samples,
        "rps": round(n / seconds, 2),
        "p50_ms": ms(pct(lat, 0.50)),
        "p95_ms": ms(pct(lat, 0.95)),
        "p99_ms": ms(pct(lat, 0.99)),
        "completed_total": len(every),
        "rps_with_drain": round(len(every) / elapsed, 2),
        "p50_with_drain_ms": ms(pct(every, 0.50)),
        "max_ms": ms(lat[-1] if lat else None),
        "open_and_first_list_ms": ms(open_s),
        "client_cpu_s": round(time.process_time() - cpu0, 3),
    }


def parse_headers(items: list[str]) -> dict:
    out = {}
    for h in items:
        k, _, v = h.partition(":")
        out[k.strip()] = v.strip()
    return out


async def amain(a: argparse.Namespace) -> dict:
    headers = parse_headers(a.header)
    for spec in a.header_env:  # e.g. Authorization=TOKEN_ENV -> "Bearer $TOKEN_ENV"
        k, _, env = spec.partition("=")
        headers[k] = "Bearer " + os.environ[env]
    results = []
    for op in a.ops.split(","):
        for c in (int(x) for x in a.concurrency.split(",")):
            try:
                cell = await asyncio.wait_for(
                    measure(
                        a.url,
                        headers,
                        protocol=a.protocol,
                        op=op,
                        concurrency=c,
                        seconds=a.seconds,
                        warmup=a.warmup,
                        timeout=a.timeout,
                        echo_tool=a.echo_tool,
                        add_tool=a.add_tool,
                    ),
                    a.seconds + a.warmup + 3 * a.timeout,
                )
            except Exception as e:
                cell = {"op": op, "protocol": a.protocol, "concurrency": c, "failed": f"{type(e).__name__}: {e}"[:400]}
            results.append(cell)
    return {"url": a.url, "results": results, "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", required=True)
    ap.add_argument("--header", action="append", default=[], help="'Name: value', repeatable")
    ap.add_argument("--header-env", action="append", default=[], help="Authorization=ENVNAME sends 'Bearer $ENVNAME'")
    ap.add_argument("--protocol", default="2025-11-25")
    ap.add_argument("--ops", default="list,call", help="of " + ",".join(OPS))
    ap.add_argument("--concurrency", default="1,16,64")
    ap.add_argument("--seconds", type=float, default=5)
    ap.add_argument("--warmup", type=float, default=0.5)
    ap.add_argument("--timeout", type=float, default=15)
    ap.add_argument("--echo-tool")
    ap.add_argument("--add-tool")
    a = ap.parse_args()
    json.dump(asyncio.run(amain(a)), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
