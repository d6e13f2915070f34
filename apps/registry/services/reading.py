"""Asking a server for everything it offers: all pages of all lists that it declares."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from django.conf import settings

from apps.core import egress
from apps.core.errors import BackendError, BackendTimeout
from apps.registry.backends.base import Hello, ServerRoute, Upstream, UpstreamError
from apps.registry.backends.wire import METHOD_NOT_FOUND
from apps.registry.models import CapabilityKind
from apps.registry.services.routes import connect

T = TypeVar("T")

MOST_PAGES = 200
MOST_ITEMS = 5000
MOST_BYTES = 16 * 1024 * 1024
"""How long one list may be, all pages together: it is held in memory until it is stored."""
LONGEST_SECONDS = 120.0
MOST_CAPABLE: Mapping[str, Any] = {"roots": {}, "sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}}
"""What a client may be able to do: many a server hides the tools for which a client lacks something.

Nobody is asked anything while the lists are read; who calls such a tool later has declared what they can do themselves.
"""
LISTS = (
    (CapabilityKind.TOOL, "tools", "tools/list", "tools"),
    (CapabilityKind.RESOURCE, "resources", "resources/list", "resources"),
    (CapabilityKind.RESOURCE_TEMPLATE, "resources", "resources/templates/list", "resourceTemplates"),
    (CapabilityKind.PROMPT, "prompts", "prompts/list", "prompts"),
)


@dataclass(slots=True)
class Reading:
    """What a server says it offers. A kind that it refused to list is missing, and `refused` says why."""

    hello: Hello
    items: dict[str, list[Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def run_short(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run async work to its end in a loop of its own, with a pool of connections that ends with it."""

    async def run() -> T:
        try:
            return await work()
        finally:
            await egress.close_shared_session()

    return asyncio.run(run())


async def read_all(route: ServerRoute) -> Reading:
    """Open the server, read every list, close it; raises BackendError, BackendTimeout or BackendDown."""
    upstream = connect(route, capabilities=MOST_CAPABLE)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            reading = Reading(await upstream.open())
            for kind, declared, method, key in LISTS:
                await _read_kind(upstream, route, reading, (kind, declared, method, key))
            return reading
    except TimeoutError as error:
        raise BackendTimeout(f"{route.slug} did not tell all that it offers within {LONGEST_SECONDS:g} s.") from error
    finally:
        await upstream.aclose()


async def _read_kind(upstream: Upstream, route: ServerRoute, reading: Reading, what: tuple[str, str, str, str]) -> None:
    kind, declared, method, key = what
    if declared not in reading.hello.capabilities:
        reading.items[kind] = []
        return
    try:
        reading.items[kind] = await read_list(upstream, method, key, timeout_seconds=route.timeout_seconds)
    except UpstreamError as error:
        if kind == CapabilityKind.RESOURCE_TEMPLATE and error.rpc_code == METHOD_NOT_FOUND:
            reading.items[kind] = []
        else:
            reading.refused[kind] = f"{method} failed: {error.message}"


async def read_list(upstream: Upstream, method: str, key: str, *, timeout_seconds: float) -> list[Any]:
    """All pages of one list; raises BackendError for a list that has no end, or is too long to be held."""
    items: list[Any] = []
    held = 0
    cursor: str | None = None
    seen: set[str] = set()
    for _ in range(MOST_PAGES):
        params = {"cursor": cursor} if cursor else {}
        result = await upstream.request(method, params, timeout_seconds=timeout_seconds, capabilities=MOST_CAPABLE)
        page = result.get(key)
        if not isinstance(page, list):
            raise BackendError(f"The server's answer to {method} has no list of {key}.")
        held += _size_of(page)
        if held > MOST_BYTES:
            raise BackendError(f"The server's answer to {method} is too long; {MOST_BYTES} bytes are the most.")
        items.extend(page)
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or not cursor:
            return items
        if cursor in seen or len(items) > MOST_ITEMS:
            break
        seen.add(cursor)
    raise BackendError(f"The server's answer to {method} has no end; {MOST_ITEMS} entries are the most.")


def _size_of(page: list[Any]) -> int:
    with suppress(TypeError):  # integers of more than 64 bits, or too deep
        return len(orjson.dumps(page))
    try:
        return len(json.dumps(page))
    except RecursionError:  # too deep for us too: it counts as the longest answer that there can be
        return int(settings.UPSTREAM_MAX_RESULT_BYTES)
