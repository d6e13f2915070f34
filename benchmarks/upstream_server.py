"""Tiny deterministic MCP upstream (FastMCP): tools echo/add/slow, one resource, one prompt.

python upstream_server.py --port 9101                 # streamable HTTP at /mcp
python upstream_server.py --stdio                     # stdio
python upstream_server.py --port 9101 --stateless     # legacy protocol without sessions
python upstream_server.py --port 9101 --json          # JSON bodies instead of SSE frames
"""

import argparse
import asyncio
from typing import Annotated

from fastmcp import FastMCP
from pydantic import Field

mcp = FastMCP("bench-upstream")


@mcp.tool
async def echo(text: str) -> str:
    """Return the text unchanged."""
    return text


@mcp.tool
async def add(a: int, b: int) -> int:
    """Return a + b."""
    return a + b


@mcp.tool
async def slow(ms: int = 100) -> str:
    """Sleep for ms milliseconds, then answer."""
    await asyncio.sleep(ms / 1000)
    return f"slept {ms}"


@mcp.resource("bench://greeting")
async def greeting() -> str:
    """A static text resource."""
    return "hello"


@mcp.prompt
async def ask(topic: str) -> str:
    """A one-argument prompt."""
    return f"Tell me about {topic}."


async def look_up(
    query: Annotated[str, Field(description="What to look for; words are joined by and.", max_length=200)],
    limit: Annotated[int, Field(description="How many to return at most.", ge=1, le=100)] = 10,
    since: Annotated[str | None, Field(description="Only what changed after this time, ISO 8601.")] = None,
) -> str:
    """Look something up."""
    return f"{query} {limit} {since}"


def add_tools(count: int) -> None:
    """Fill the list up to so many tools, alike but for name and description."""
    for number in range(count - 3):
        description = f"Look up records of kind {number}. Use it when the user asks for them by name."
        mcp.tool(look_up, name=f"look_up_{number}", description=description)


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--host", default="127.0.0.1")
    ap.add_argument("--port", type=int, default=9101)
    ap.add_argument("--stdio", action="store_true")
    ap.add_argument("--stateless", action="store_true")
    ap.add_argument("--json", action="store_true")
    ap.add_argument("--tools", type=int, default=3)
    a = ap.parse_args()
    add_tools(a.tools)
    if a.stdio:
        mcp.run(transport="stdio", show_banner=False)
        return
    import uvicorn

    app = mcp.http_app(path="/mcp", stateless_http=a.stateless, json_response=a.json)
    uvicorn.run(app, host=a.host, port=a.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
