"""What one caller sees at one endpoint: lists that are ready to be sent, and what a name or a URI in them leads to."""

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal
from uuid import UUID

from apps.gateway.services.offers import Offer, Tool, UnknownPrompt, UnknownResource, UnknownTool, prefixed

ListKind = Literal["tools", "prompts", "resources", "templates"]

KEPT_LIST_BYTES = 16 * 1024 * 1024
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Found:
    """What a URI leads to: the offer, and the URI that its server knows."""

    offer: Offer
    uri: str


@dataclass(slots=True, eq=False)
class View:
    """What everybody with the same rights sees at one endpoint, at one revision."""

    tools: Mapping[str, Tool]
    prompts: Mapping[str, Offer]
    resources: Mapping[str, Offer]
    templates: tuple[Offer, ...]
    unavailable: list[dict[str, Any]]
    revision: int
    withheld: frozenset[tuple[UUID, str]] = frozenset()
    """Resources to which no template leads, by their servers' ids and the URIs that these know."""
    bundle: str = ""
    name: str = ""
    title: str = ""
    instructions: str = ""
    _number: int = field(default_factory=lambda: next(_numbers))
    _fingerprints: dict[str, str] = field(default_factory=dict)
    _prefixed: dict[UUID, list[Offer]] | None = None
    _tools_by_id: dict[UUID, Tool] | None = None

    def encoded(self, kind: ListKind, *, is_modern: bool) -> bytes:
        """The definitions as a JSON list, for revision 2026-07-28 or for the earlier ones."""
        is_modern = is_modern or kind != "tools"
        key = (self._number, kind, is_modern)
        found = _kept_lists.get(key)
        if found is None:
            found = b"[" + b",".join(self._pieces(kind, is_modern=is_modern)) + b"]"
            _kept_lists.keep(key, found)
        return found

    def fingerprint(self, kind: ListKind) -> str:
        """A text that is another one exactly when the list is another one."""
        found = self._fingerprints.get(kind)
        if found is None:
            # The pieces are JSON objects, so that no two lists have the same bytes one after another.
            digest = hashlib.blake2b(digest_size=16)
            for piece in self._pieces(kind, is_modern=True):
                digest.update(piece)
            found = self._fingerprints[kind] = digest.hexdigest()
        return found

    def find_tool(self, name: str) -> Tool:
        """The tool of this name; raises UnknownTool."""
        tool = self.tools.get(name)
        if tool is None:
            raise UnknownTool.named(name)
        return tool

    def find_tool_of(self, item_id: UUID) -> Tool | None:
        """The tool that is offered for this capability of a server, by whatever name."""
        if self._tools_by_id is None:
            self._tools_by_id = {tool.upstream.id: tool for tool in self.tools.values() if tool.upstream is not None}
        return self._tools_by_id.get(item_id)

    @property
    def takes_tasks(self) -> bool:
        """Whether some tool here may be called as a task of 2025-11-25."""
        return any(tool.upstream is not None and tool.upstream.task_support for tool in self.tools.values())

    def find_prompt(self, name: str) -> Offer:
        """The prompt of this name; raises UnknownPrompt."""
        prompt = self.prompts.get(name)
        if prompt is None:
            raise UnknownPrompt.named(name)
        return prompt

    def find_resource(self, uri: str) -> Found:
        """The resource that is listed with this URI, else the first template that fits it; raises UnknownResource."""
        listed = self.resources.get(uri)
        if listed is not None:
            return Found(listed, listed.upstream.name)
        for offer in self.templates:
            if offer.template is not None and uri.startswith(offer.prefix):
                asked = uri[len(offer.prefix) :]
                if (offer.upstream.server_id, asked) not in self.withheld and offer.template.matches(asked):
                    return Found(offer, asked)
        raise UnknownResource.at(uri)

    def find_template(self, uri_template: str) -> Offer:
        """The template that is listed so, for the completion of its variables; raises UnknownResource."""
        found = next((offer for offer in self.templates if offer.name == uri_template), None)
        if found is None:
            raise UnknownResource.at(uri_template)
        return found

    def shares_uris(self, server_id: UUID) -> bool:
        """Whether something of a server has another URI here than there, for another server offers the same."""
        return bool(self._prefixed_of(server_id))

    def listed_uri(self, server_id: UUID, uri: str) -> str:
        """The URI that leads here to what a server calls so; the same one where nothing that is listed does."""
        offers = self._prefixed_of(server_id)
        with suppress(UnknownResource):
            if not offers or self.find_resource(uri).offer.upstream.server_id == server_id:
                return uri
        found = (each for each in offers if each.upstream.name == uri or (each.template and each.template.matches(uri)))
        return next((each.prefix + uri for each in found), uri)

    def _prefixed_of(self, server_id: UUID) -> list[Offer]:
        if self._prefixed is None:
            self._prefixed = {}
            for each in (*self.resources.values(), *self.templates):
                if each.prefix:
                    self._prefixed.setdefault(each.upstream.server_id, []).append(each)
        return self._prefixed.get(server_id, [])

    def _pieces(self, kind: ListKind, *, is_modern: bool) -> list[bytes]:
        if kind == "tools":
            tools = self.tools.values()
            return [tool.encoded for tool in tools] if is_modern else [tool.legacy_encoded for tool in tools]
        offers: Mapping[str, Iterable[Offer]] = {
            "prompts": self.prompts.values(), "resources": self.resources.values(), "templates": self.templates,
        }  # fmt: skip
        return [offer.encoded for offer in offers[kind]]


class _KeptLists:
    """Lists as bytes, the most used ones: to join a thousand definitions takes as long as all the rest of an answer."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, str, bool], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: tuple[int, str, bool]) -> bytes | None:
        """The list, if it is still kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: tuple[int, str, bool], encoded: bytes) -> None:
        """Keep a list, and let the least used ones go; those of views that are gone are among them soon."""
        if len(encoded) > KEPT_LIST_BYTES:
            return
        with self._lock:
            self._bytes += len(encoded) - len(self._kept.pop(key, b""))
            self._kept[key] = encoded
            while self._bytes > KEPT_LIST_BYTES:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= len(oldest)


_kept_lists = _KeptLists()


def told_apart(offers: Sequence[Offer]) -> dict[str, Offer]:
    """Resources or templates by the URI that they are listed with, in the order of their servers' slugs.

    Where several servers offer the same URI, the first has it and the others are listed as `slug+URI`. The slug then
    stands where a URI has its scheme, which begins with a letter.
    """
    ordered = sorted(offers, key=lambda offer: (offer.server, offer.upstream.name))
    found: dict[str, Offer] = {}
    later = []
    for offer in ordered:
        if offer.upstream.name in found:
            later.append(offer)
        else:
            found[offer.upstream.name] = offer
    for offer in later:
        slug = offer.server if offer.server[:1].isalpha() else f"s-{offer.server}"
        # Some server may really offer what looks like another's URI with its slug: then the slug stands there twice.
        prefixes = (f"{slug}+" * times for times in itertools.count(1))
        prefix = next(each for each in prefixes if each + offer.upstream.name not in found)
        found[prefix + offer.upstream.name] = prefixed(offer, prefix)
    return found
