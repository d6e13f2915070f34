"""What agents are offered, one thing at a time: a tool, a prompt, a resource or a template, as it is listed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apps.core.actor import Actor
from apps.core.errors import NotFound
from apps.core.toolbox import NativeTool
from apps.gateway.services.templates import UriTemplate
from apps.policies.schemas import Resource
from apps.policies.services import decide
from apps.registry import services as registry

LONGEST_SHOWN = 200
_KINDS: Mapping[str, Any] = {
    "tool": "tool",
    "prompt": "prompt",
    "resource": "resource",
    "resource_template": "resource",
}
_ACTIONS = {"tool": "tool.call", "prompt": "prompt.get", "resource": "resource.read"}


class UnknownTool(NotFound):
    """There is no tool of this name for this organisation; one of another organisation looks the same."""

    @classmethod
    def named(cls, name: str) -> "UnknownTool":
        """The error for a name that somebody asked for."""
        shown = name[:LONGEST_SHOWN]
        return cls(f"Unknown tool: {shown}. List the tools again: it may have been renamed or withdrawn.")


class UnknownPrompt(NotFound):
    """There is no prompt of this name for this caller."""

    @classmethod
    def named(cls, name: str) -> "UnknownPrompt":
        """The error for a name that somebody asked for."""
        shown = name[:LONGEST_SHOWN]
        return cls(f"Unknown prompt: {shown}. List the prompts again: it may have been renamed or withdrawn.")


class UnknownResource(NotFound):
    """Nothing that this caller may use has this URI, and no template fits it."""

    @classmethod
    def at(cls, uri: str) -> "UnknownResource":
        """The error for a URI that somebody asked for."""
        shown = uri[:LONGEST_SHOWN]
        return cls(
            f"Unknown resource: {shown}. List the resources and templates again, and use a URI of theirs.",
            details={"uri": shown},
        )


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as an agent knows it, with what is behind it: a function of ours or a server.

    `resource` is what decisions are about: it keeps the tool's name in the catalogue wherever a bundle renames it.
    """

    name: str
    definition: dict[str, Any]
    resource: Resource
    encoded: bytes
    legacy_encoded: bytes
    native: NativeTool | None = None
    upstream: registry.CatalogueItem | None = None

    @property
    def server(self) -> str:
        """The slug of its server; empty for a native tool."""
        return self.upstream.server_slug if self.upstream else ""


@dataclass(frozen=True, slots=True)
class Offer:
    """One prompt, resource or template as an agent knows it, with the server behind it.

    `name` is a prompt's name, a resource's URI or a URI template, as it is listed. `prefix` stands before the server's
    own URI where another server offers the same one.
    """

    kind: str
    name: str
    definition: dict[str, Any]
    resource: Resource
    encoded: bytes
    upstream: registry.CatalogueItem
    prefix: str = ""
    template: UriTemplate | None = None

    @property
    def server(self) -> str:
        """The slug of its server."""
        return self.upstream.server_slug


def native_tool(tool: NativeTool) -> Tool:
    """A tool of ours."""
    risk = "low" if tool.reads_only else "medium"
    resource = Resource("tool", tool.name, risk=risk, reads_only=tool.reads_only, required=(tool.permission,))
    return Tool(tool.name, tool.definition, resource, *_encodings(tool.definition), native=tool)


def upstream_tool(item: registry.CatalogueItem) -> Tool:
    """A tool of a server."""
    definition = dict(item.definition)
    return Tool(item.public_name, definition, _resource_of(item), *_encodings(definition), upstream=item)


def upstream_offer(item: registry.CatalogueItem) -> Offer:
    """A prompt, resource or template of a server: prompts have names of ours, the others their server's URI."""
    definition = dict(item.definition)
    return Offer(
        kind=item.kind,
        name=item.public_name if item.kind == registry.CapabilityKind.PROMPT else item.name,
        definition=definition,
        resource=_resource_of(item),
        encoded=_encode(definition),
        upstream=item,
        template=UriTemplate.read(item.name) if item.kind == registry.CapabilityKind.RESOURCE_TEMPLATE else None,
    )


def shown_as(thing: "Tool | Offer", *, name: str = "", description: str = "") -> "Tool | Offer":
    """The same thing under another name, or with another description; what has a URI keeps it."""
    changes = {"description": description} if description else {}
    if name and name != thing.name and not is_addressed(thing):
        changes["name"] = name
    if not changes:
        return thing
    definition = {**thing.definition, **changes}
    name = changes.get("name", thing.name)
    if isinstance(thing, Tool):
        encoded, legacy = _encodings(definition)
        return replace(thing, name=name, definition=definition, encoded=encoded, legacy_encoded=legacy)
    return replace(thing, name=name, definition=definition, encoded=_encode(definition))


def prefixed(offer: Offer, prefix: str) -> Offer:
    """A resource or template whose URI begins with this, so that it is told from another server's of the same URI."""
    key = "uri" if offer.kind == registry.CapabilityKind.RESOURCE else "uriTemplate"
    name = prefix + offer.upstream.name
    definition = {**offer.definition, key: name}
    return replace(offer, name=name, definition=definition, encoded=_encode(definition), prefix=prefix)


def is_addressed(thing: "Tool | Offer") -> bool:
    """Whether it has a URI and no name."""
    return isinstance(thing, Offer) and thing.kind != registry.CapabilityKind.PROMPT


def is_allowed(actor: Actor, thing: "Tool | Offer") -> bool:
    """Whether the actor may use it."""
    return decide(actor, action_of(thing), thing.resource).allowed


def action_of(thing: "Tool | Offer") -> str:
    """What is decided about: `tool.call`, `prompt.get` or `resource.read`."""
    return _ACTIONS[thing.resource.kind]


def _resource_of(item: registry.CatalogueItem) -> Resource:
    return Resource(
        _KINDS[item.kind],
        item.public_name,
        server=item.server_slug,
        tags=frozenset(item.tags),
        environment=item.environment,
        risk=item.risk,
        reads_only=item.reads_only,
        required=tuple(item.required_scopes),
    )


def _encodings(definition: dict[str, Any]) -> tuple[bytes, bytes]:
    """The definition as JSON for revision 2026-07-28, and for the earlier ones; most are the same bytes, kept once."""
    modern, legacy = _modern(definition), _legacy(definition)
    encoded = _encode(modern)
    return encoded, encoded if legacy is modern else _encode(legacy)


def _encode(definition: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(definition)
    except TypeError:
        return json.dumps(definition).encode()  # integers of more than 64 bits


def _modern(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition as 2026-07-28 knows it: no client of it asks for a call to be a task."""
    execution = definition.get("execution")
    if not (isinstance(execution, dict) and execution.get("taskSupport") == registry.TASK_OPTIONAL):
        return definition
    return {name: value for name, value in definition.items() if name != "execution"}


def _legacy(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition as revisions before 2026-07-28 allow it: an output schema describes an object, or is left out."""
    schema = definition.get("outputSchema")
    if schema is None or (isinstance(schema, dict) and schema.get("type") == "object"):
        return definition
    return {name: value for name, value in definition.items() if name != "outputSchema"}
