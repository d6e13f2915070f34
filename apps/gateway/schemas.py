"""Shapes of bundles, of how programs are connected to them, and of what search and fetch answer."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from apps.core.schemas import In, Out, show_no_defaults
from apps.gateway.models import ItemKind

MOST_ITEMS = 200


class BundleItemIn(In):
    """One thing that a bundle takes in: a capability, a server or a tool of the platform; exactly one of them."""

    capability_id: UUID | None = Field(None, description="One tool, prompt, resource or template of a server.")
    server_id: UUID | None = Field(None, description="All that agents may use of a server, now and later.")
    native: str = Field("", max_length=100, description="The name of a tool of the platform's own.")
    alias: str = Field("", max_length=44, description="Another name in this bundle, for a tool or a prompt.")
    description_override: str = Field("", max_length=4000, description="Another description in this bundle.")


BundleItems = Annotated[list[BundleItemIn], Field(max_length=MOST_ITEMS)]


class BundleItemsIn(In):
    """All that a bundle has, in its order."""

    items: BundleItems


class BundleItemPatch(In):
    """How a bundle shows one of its items."""

    model_config = ConfigDict(json_schema_extra=show_no_defaults)

    alias: str = Field("", max_length=44)
    description_override: str = Field("", max_length=4000)


class BundleItemOut(Out):
    """One thing in a bundle."""

    id: UUID
    kind: ItemKind
    capability_id: UUID | None
    server_id: UUID | None
    native: str
    takes_in: str = Field(description="Its name in the catalogue; of a server its slug.")
    shows: str = Field(description="What agents see of it: tool, prompt, resource, resource_template or server.")
    alias: str
    description_override: str
    is_usable: bool = Field(description="Whether agents may use it now, if their rights let them.")
    unusable_because: str = Field(description="Why they may not; empty where they may.")


class BundleIn(In):
    """A new bundle."""

    name: str = Field(min_length=1, max_length=100)
    slug: str = Field(min_length=1, max_length=20, description="The last part of its endpoint; it never changes.")
    description: str = Field("", max_length=2000, description="For people: what it is for.")
    instructions: str = Field("", max_length=10_000, description="What its agents are told at the start.")
    is_enabled: bool = True
    names_verbatim: bool = Field(False, description="Keep the names of the one server that all items are of.")
    items: BundleItems = Field(default_factory=list)


class BundlePatch(In):
    """What to change about a bundle; `items` replaces all of them."""

    model_config = ConfigDict(json_schema_extra=show_no_defaults)

    name: str = Field("", min_length=1, max_length=100)
    description: str = Field("", max_length=2000)
    instructions: str = Field("", max_length=10_000)
    is_enabled: bool = True
    names_verbatim: bool = False
    items: BundleItems = Field(default_factory=list)


class BundleFilters(In):
    """Which bundles to list; all given conditions must hold."""

    q: str | None = Field(None, max_length=100, description="Letters in the name, slug or description.")
    is_enabled: bool | None = None


class BundleShortOut(Out):
    """A bundle, without what is in it."""

    id: UUID
    name: str
    slug: str
    url: str = Field(description="Where agents find it.")
    description: str
    instructions: str
    is_enabled: bool
    names_verbatim: bool
    created_at: datetime
    updated_at: datetime


class BundleOut(BundleShortOut):
    """A bundle with what is in it."""

    items: list[BundleItemOut]


ClientName = Literal["claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini-cli"]


class ConnectionQuery(In):
    """Which program is to be connected."""

    client: ClientName = "claude-code"


class EndpointConnectionOut(Out):
    """What a client's program wants to be told."""

    client: ClientName
    url: str
    place: str = Field(description="Where it goes.")
    configuration: str = Field(description="What is put there; gate_YOUR_KEY stands for an API key.")


class Found(BaseModel):
    """One hit of a search."""

    id: str = Field(description="What `fetch` takes.")
    title: str
    url: str = Field(description="A name for it that no other thing has.")


class SearchOut(BaseModel):
    """The hits, best first."""

    results: list[Found]
    next_cursor: str | None = Field(None, description="Give it as `cursor` for the next page; none on the last.")


class FetchOut(BaseModel):
    """One thing in full."""

    id: str
    title: str
    text: str = Field(description="Its definition as JSON: description, input and output schema.")
    url: str
    metadata: dict[str, Any]
