"""Finds tools among those that the caller may use, by the words of their names, titles and descriptions."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotFound
from apps.gateway.schemas import FetchOut, Found, SearchOut
from apps.gateway.services.catalogue import list_tools
from apps.gateway.services.offers import Tool

LARGEST_PAGE = 50
LONGEST_TEXT = 100_000
_WORD = re.compile(r"[^\W_]+")
_IN_NAME, _IN_TITLE, _IN_DESCRIPTION = 4, 2, 1


def search_tools(actor: Actor, *, query: str, limit: int, cursor: str | None = None) -> SearchOut:
    """A page of the actor's tools that have every word of the query somewhere, best first; without words, all."""
    first = _position(cursor)
    words = [word.casefold() for word in _WORD.findall(query)]
    scored = [(_score(tool, words), tool) for tool in list_tools(actor).tools.values()]
    hits = sorted(((score, tool) for score, tool in scored if score), key=lambda hit: (-hit[0], hit[1].name))
    last = first + min(limit, LARGEST_PAGE)
    return SearchOut(
        results=[Found(id=tool.name, title=_title(tool), url=_url(tool)) for _, tool in hits[first:last]],
        next_cursor=str(last) if last < len(hits) else None,
    )


def fetch_tool(actor: Actor, *, name: str) -> FetchOut:
    """One of the actor's tools in full; raises NotFound for any other name."""
    tool = list_tools(actor).tools.get(name)
    if tool is None:
        raise NotFound(f"There is no tool {name[:100]} here. Search for it first.")
    text = orjson.dumps(tool.definition, option=orjson.OPT_INDENT_2).decode()
    about = tool.resource
    metadata: dict[str, Any] = {
        "kind": "tool",
        "server": tool.server,
        "risk": about.risk,
        "environment": about.environment,
        "tags": sorted(about.tags),
    }
    if len(text) > LONGEST_TEXT:
        text, metadata["is_cut"] = text[:LONGEST_TEXT], True
    return FetchOut(id=tool.name, title=_title(tool), text=text, url=_url(tool), metadata=metadata)


def _score(tool: Tool, words: list[str]) -> int:
    definition: Mapping[str, Any] = tool.definition
    places = (
        (tool.name.casefold(), _IN_NAME),
        (_title(tool).casefold(), _IN_TITLE),
        (str(definition.get("description") or "").casefold(), _IN_DESCRIPTION),
    )
    scores = [sum(weight for text, weight in places if word in text) for word in words]
    return (sum(scores) if all(scores) else 0) if words else 1


def _title(tool: Tool) -> str:
    return str(tool.definition.get("title") or tool.name)


def _url(tool: Tool) -> str:
    return f"gatehouse://tools/{tool.name}"


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > len(str(LONGEST_TEXT)):
        raise InvalidInput.for_field("cursor", "This cursor is not one of ours. Start without one.")
    return int(cursor)
