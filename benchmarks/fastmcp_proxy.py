"""FastMCP's own proxy in front of an upstream (no auth, no policy): the floor for a Python gateway.

python fastmcp_proxy.py --target http://127.0.0.1:9101/mcp --port 9102
"""

import argparse
import asyncio
from typing import Any

import uvicorn
from fastmcp import Client
from fastmcp.server import create_proxy


def config(proxy: Any, a: argparse.Namespace) -> uvicorn.Config:
    """How the proxy is served."""
    app = proxy.http_app(path="/mcp", host_origin_protection=True)
    return uvicorn.Config(app, host=a.host, port=a.port, log_level="warning", access_log=False)


async def serve_one_client(a: argparse.Namespace) -> None:
    """Serve with one connected upstream client for everybody."""
    async with Client(a.target) as client:
        await uvicorn.Server(config(create_proxy(client, name="bench-proxy"), a)).serve()


def main() -> None:
    """Serve until stopped."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--target", required=True)
    ap.add_argument("--host", default="127.0.0.1")
    ap.add_argument("--port", type=int, default=9102)
    ap.add_argument("--mode", default=None, help="pin the backend era, e.g. auto or 2026-07-28")
    ap.add_argument(
        "--reuse",
        action="store_true",
        help="one connected upstream client for all requests (fast, but mixes every caller into one upstream session)",
    )
    a = ap.parse_args()
    if a.reuse:
        asyncio.run(serve_one_client(a))
    else:
        uvicorn.Server(config(create_proxy(a.target, mode=a.mode, name="bench-proxy"), a)).run()


if __name__ == "__main__":
    main()
