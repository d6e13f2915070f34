"""A deliberately thin gateway: bearer check + per-tool allowlist + one shared keep-alive pool, bytes
passed through. Not a product: the measured floor of what a Python/ASGI hop in front of an MCP
upstream costs when no SDK client is built per call.

  python floor_proxy.py --target http://127.0.0.1:9101/mcp --port 9104 --token TOKEN
"""

import argparse
import contextlib
import hmac
import json

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PASS_UP = (
    "content-type",
    "accept",
    "mcp-session-id",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "last-event-id",
)
PASS_DOWN = ("content-type", "mcp-session-id", "cache-control")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--target", required=True)
    ap.add_argument("--port", type=int, default=9104)
    ap.add_argument("--token", required=True)
    ap.add_argument("--allow", default="echo,add,slow")
    a = ap.parse_args()
    want, allow = ("Bearer " + a.token).encode(), set(a.allow.split(","))
    box = {}

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
        ) as s:
            box["s"] = s
            yield

    async def mcp(request):
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), want):
            return JSONResponse({"error": "unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})
        body = await request.body()
        if body:
            m = json.loads(body)
            if m.get("method") == "tools/call" and m["params"].get("name") not in allow:
                return JSONResponse(
                    {"jsonrpc": "2.0", "id": m.get("id"), "error": {"code": -32602, "message": "tool not allowed"}}
                )
        headers = {k: request.headers[k] for k in PASS_UP if k in request.headers}
        r = await box["s"].request(request.method, a.target, data=body or None, headers=headers)
        down = {k: r.headers[k] for k in PASS_DOWN if k in r.headers}
        if r.headers.get("content-type", "").startswith("text/event-stream"):

            async def gen():
                try:
                    async for chunk in r.content.iter_any():
                        yield chunk
                finally:
                    r.release()

            return StreamingResponse(gen(), r.status, down)
        return Response(await r.read(), r.status, down)

    app = Starlette(routes=[Route("/mcp", mcp, methods=["GET", "POST", "DELETE"])], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=a.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
