"""Finds what the caller may use (tools, prompts, resources, templates) by words of names, titles and descriptions."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotFound
from apps.gateway.schemas import FetchOut, Found, SearchOut
from apps.gateway.services.catalogue import read_view
from apps.gateway.services.offers import Offer, Tool
from apps.gateway.services.views import View

LARGEST_PAGE = 50
LONGEST_TEXT = 100_000
_WORD = re.compile(r"[^\W_]+")
_IN_NAME, _IN_TITLE, _IN_DESCRIPTION = 4, 2, 1


@dataclass(frozen=True, slots=True)
class _Hit:
    """One thing that can be found, with the id that `fetch` takes: a tool's is its name, which has no colon."""

    id: str
    kind: str
    thing: Tool | Offer

    @property
    def title(self) -> str:
        definition = self.thing.definition
        return str(definition.get("title") or definition.get("name") or self.thing.name)

    @property
    def url(self) -> str:
        return f"gatehouse://{self.kind}s/{self.thing.name}"

    def score(self, words: list[str]) -> int:
        """How well it fits; 0 where a word is nowhere."""
        places = (
            (self.thing.name.casefold(), _IN_NAME),
            (self.title.casefold(), _IN_TITLE),
            (str(self.thing.definition.get("description") or "").casefold(), _IN_DESCRIPTION),
        )
        scores = [sum(weight for text, weight in places if word in text) for word in words]
        return (sum(scores) if all(scores) else 0) if words else 1


def search_offers(actor: Actor, *, query: str, limit: int, cursor: str | None = None) -> SearchOut:
    """A page of what the actor may use that has every word of the query somewhere, best first; without words, all."""
    first = _position(cursor)
    words = [word.casefold() for word in _WORD.findall(query)]
    scored = [(hit.score(words), hit) for hit in _all(read_view(actor))]
    hits = sorted(((score, hit) for score, hit in scored if score), key=lambda each: (-each[0], each[1].id))
    last = first + min(limit, LARGEST_PAGE)
    return SearchOut(
        results=[Found(id=hit.id, title=hit.title, url=hit.url) for _, hit in hits[first:last]],
        next_cursor=str(last) if last < len(hits) else None,
    )


def fetch_offer(actor: Actor, *, id: str) -> FetchOut:
    """One of the things that the actor may use, as it is defined; raises NotFound for any other id."""
    hit = next((hit for hit in _all(read_view(actor)) if hit.id == id), None)
    if hit is None:
        raise NotFound(f"There is nothing called {id[:100]} here. Search for it first.")
    definition: Mapping[str, Any] = hit.thing.definition
    text = orjson.dumps(definition, option=orjson.OPT_INDENT_2).decode()
    about = hit.thing.resource
    metadata: dict[str, Any] = {
        "kind": hit.kind,
        "server": hit.thing.server,
        "risk": about.risk,
        "environment": about.environment,
        "tags": sorted(about.tags),
    }
    if len(text) > LONGEST_TEXT:
        text, metadata["is_cut"] = text[:LONGEST_TEXT], True
    return FetchOut(id=hit.id, title=hit.title, text=text, url=hit.url, metadata=metadata)


def _all(view: View) -> Iterator[_Hit]:
    for tool in view.tools.values():
        yield _Hit(tool.name, "tool", tool)
    for kind, offers in (
        ("prompt", view.prompts.values()), ("resource", view.resources.values()), ("template", view.templates),
    ):  # fmt: skip
        for offer in offers:
            yield _Hit(f"{kind}:{offer.name}", kind, offer)


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > len(str(LONGEST_TEXT)):
        raise InvalidInput.for_field("cursor", "This cursor is not one of ours. Start without one.")
    return int(cursor)
