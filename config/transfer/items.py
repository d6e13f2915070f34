"""What a configuration file holds, item by item, read from our own format or from a client's `mcp.json`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from apps.auth.models import Role
from apps.core.doors import read_json
from apps.core.errors import Malformed, TooLarge
from apps.core.logs import REDACTED, redact
from apps.core.schemas import In
from apps.gateway.schemas import MOST_ITEMS as MOST_SELECTED
from apps.registry.models import CapabilityKind, Transport
from apps.registry.schemas import Argument, CapabilityPatch, ServerLimits

VERSION = 1
LARGEST_BYTES = 1024 * 1024
MOST_ITEMS = 5_000
LONGEST_NAME = 200
_PLACEHOLDER = re.compile(r"\$\{|\{\{")
_SECRET_IN_QUERY = re.compile(r"([?&;][^=&;#]*(?:key|token|secret|sig|auth|pass|code)[^=&;#]*=)[^&;#]+", re.IGNORECASE)
_TRANSPORTS = {
    "http": Transport.STREAMABLE_HTTP, "streamable-http": Transport.STREAMABLE_HTTP,
    "streamable_http": Transport.STREAMABLE_HTTP, "streamablehttp": Transport.STREAMABLE_HTTP,
    "sse": Transport.SSE, "stdio": Transport.STDIO,
}  # fmt: skip
_NEITHER = (
    'This is neither a configuration of Gatehouse ("gatehouse": 1) nor one of a client ("mcpServers", or "servers"'
    " by name)."
)

Kind = Literal["server", "capability", "bundle", "member"]


class CapabilityItem(CapabilityPatch):
    """What staff decided about one thing that a server offers."""

    kind: CapabilityKind
    name: str = Field(min_length=1, max_length=1024)


class ServerItem(ServerLimits):
    """A server without its secrets: of variables the names, of credentials how they travel."""

    name: str = Field("", min_length=1, max_length=100)
    slug: str = Field(min_length=1, max_length=20)
    transport: Transport = Transport.STREAMABLE_HTTP
    url: str = Field("", max_length=2048)
    command: list[Argument] = Field(default_factory=list, max_length=64)
    is_enabled: bool = True
    missing: list[str] = Field(default_factory=list, max_length=200)


class SelectedItem(In):
    """What a bundle takes in, by names that hold elsewhere: all of a server, one thing of it, or a platform's tool."""

    server: str = Field("", max_length=20, description="The slug of a server: all of it, or the thing named here.")
    kind: CapabilityKind | None = None
    name: str = Field("", max_length=1024, description="What its server calls it; of a resource its URI.")
    native: str = Field("", max_length=100)
    alias: str = Field("", max_length=44)
    description_override: str = Field("", max_length=4000)

    @model_validator(mode="after")
    def _is_one_thing(self) -> "SelectedItem":
        if bool(self.server) == bool(self.native) or (self.native and (self.kind or self.name)):
            raise PydanticCustomError(
                "one_thing", "Name a server, with a kind and a name for one thing of it; or a native tool."
            )
        if bool(self.kind) != bool(self.name):
            raise PydanticCustomError("one_thing", "One thing of a server is named by its kind and its name.")
        return self


class BundleItem(In):
    """A bundle; `items` are all that it has."""

    slug: str = Field(min_length=1, max_length=20)
    name: str = Field("", min_length=1, max_length=100)
    description: str = Field("", max_length=2000)
    instructions: str = Field("", max_length=10_000)
    is_enabled: bool = True
    names_verbatim: bool = False
    missing: list[str] = Field(default_factory=list, max_length=MOST_SELECTED)
    items: list[SelectedItem] = Field(default_factory=list, max_length=MOST_SELECTED)


class MemberItem(In):
    """A person's role in the organisation."""

    email: str = Field(min_length=3, max_length=254)
    role: Role
    name: str = Field("", max_length=100)


_SHAPES: Mapping[str, type[In]] = {
    "server": ServerItem, "capability": CapabilityItem, "bundle": BundleItem, "member": MemberItem,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an import: a thing and what is given of it, or why it is refused before anything is asked."""

    kind: Kind
    name: str
    given: dict[str, Any]
    why: str = ""
    server: str = ""

    @property
    def weight(self) -> int:
        """How many things it is: what is in a bundle counts."""
        return 1 + (len(self.given.get("items", ())) if self.kind == "bundle" else 0)


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds, and of which organisation it says that it comes."""

    items: Sequence[Item]
    source: str = ""


def read_document(content: bytes) -> Document:
    """The items of a file.

    Raises Malformed where it cannot be read, TooLarge where it holds too much. Secrets end here: variables and headers
    are known by name only from now on, and an item that holds anything else which looks like a secret is refused.
    """
    if len(content) > LARGEST_BYTES:
        raise TooLarge(f"A configuration may have at most {LARGEST_BYTES:,} bytes. Import it in parts.")
    found = read_json(content.removeprefix(b"\xef\xbb\xbf").strip())
    if not isinstance(found, dict):
        raise Malformed(_NEITHER)
    document = _ours(found) if "gatehouse" in found else _clients(found)
    _check_size(document)
    return document


def _check_size(document: Document) -> None:
    held = sum(item.weight for item in document.items)
    if held > MOST_ITEMS:
        raise TooLarge(f"This holds {held:,} items; at most {MOST_ITEMS:,} go at once. Divide it.")


def carry(document: Document) -> str:
    """The document as text for the page that asks for confirmation; no secret is in it."""
    return json.dumps({"source": document.source, "items": [asdict(item) for item in document.items]})


def carried(text: str) -> Document:
    """The document that a page carried, checked as if it were new: whoever sends it may have written it."""
    found = read_json(text.encode("utf-8", "replace"))
    items = found.get("items") if isinstance(found, dict) else None
    if not isinstance(items, list) or len(items) > MOST_ITEMS:
        raise Malformed("This page was changed on its way. Begin again.")
    document = Document([_again(each) for each in items], source=_text(found.get("source")))
    _check_size(document)
    return document


def _again(carried_item: Any) -> Item:
    fields = carried_item if isinstance(carried_item, dict) else {}
    kind: Any = fields.get("kind")
    if kind not in _SHAPES or not isinstance(fields.get("given"), dict):
        raise Malformed("This page was changed on its way. Begin again.")
    item = _item(kind, fields["given"], server=_text(fields.get("server")))
    why = _text(fields.get("why"))
    return Item(item.kind, _text(fields.get("name")), {}, why, item.server) if why else item


# Our own format


def _ours(found: dict[str, Any]) -> Document:
    if found["gatehouse"] != VERSION or isinstance(found["gatehouse"], bool):
        raise Malformed(
            f"This is a configuration of version {_text(found['gatehouse'])}; this platform reads {VERSION}."
        )
    unknown = sorted(set(found) - {"gatehouse", "organization", "exported_at", "servers", "bundles", "members"})
    if unknown:
        raise Malformed(f"A configuration has no part called {_text(unknown[0])}.")
    # Bundles after the servers, wherever they stand: what they take in may be made by the same file.
    items = [
        *_each(found, "servers", _server_and_more),
        *_each(found, "bundles", lambda one: [_item("bundle", one)]),
        *_each(found, "members", lambda one: [_item("member", one)]),
    ]
    return Document(items, source=_text(found.get("organization", "")))


def _each(found: dict[str, Any], part: str, read: Any) -> Iterator[Item]:
    listed = found.get(part, [])
    if not isinstance(listed, list):
        raise Malformed(f"The part {part} is a list.")
    for one in listed:
        yield from read(one)


def _server_and_more(one: Any) -> Iterator[Item]:
    if not isinstance(one, dict):
        yield _item("server", one)
        return
    capabilities = one.get("capabilities", [])
    server = {name: value for name, value in one.items() if name != "capabilities"}
    yield _item("server", server)
    for each in capabilities if isinstance(capabilities, list) else [capabilities]:
        yield _item("capability", each, server=_text(one.get("slug")))


# The configuration of a client


def _clients(found: dict[str, Any]) -> Document:
    servers = found.get("mcpServers", found.get("servers"))
    if not isinstance(servers, dict):
        raise Malformed(_NEITHER)
    return Document([_item("server", _of_client(name, entry)) for name, entry in servers.items()])


def _of_client(name: str, entry: Any) -> Any:
    """A client's entry as a server of ours. What clients add for themselves, such as what they allow, is left out."""
    if not isinstance(entry, dict):
        return {"slug": _slug(name), "name": name[:100], "entry": "?"}
    url = entry.get("httpUrl") or entry.get("url") or entry.get("serverUrl") or ""
    said = entry.get("type") or entry.get("transport") or ("http" if url else "stdio")
    server = {"name": name.strip()[:100], "slug": _slug(name), "transport": _TRANSPORTS.get(str(said).lower(), said)}
    if url:
        server["url"] = url
    else:
        arguments = entry.get("args", [])
        server["command"] = [entry.get("command", ""), *(arguments if isinstance(arguments, list) else [arguments])]
    if entry.get("disabled") is True:
        server["is_enabled"] = False
    missing = [f"variable {_text(each)}" for each in _names(entry.get("env"))]
    missing += [f"credential: header {_text(each)}" for each in _names(entry.get("headers"))]
    return {**server, **({"missing": missing} if missing else {})}


def _names(pairs: Any) -> list[str]:
    return sorted(pairs) if isinstance(pairs, dict) else []


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:20].strip("-")


# Every item


def _item(kind: Kind, one: Any, *, server: str = "") -> Item:
    if not isinstance(one, dict):
        return Item(kind, "?", {}, "This is not an object.", server)
    name = _text(one.get("slug") or one.get("email") or one.get("name") or "?")
    try:
        given = _SHAPES[kind].model_validate(one).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        return Item(kind, name, {}, _refusal(error), server)
    why = _looks_wrong(given)
    return Item(kind, name, {} if why else given, why, server)


def _refusal(error: ValidationError) -> str:
    said = [f"{_text('.'.join(map(str, part['loc'])))}: {part['msg']}" for part in error.errors(include_url=False)[:3]]
    return "; ".join(said)


def _looks_wrong(given: dict[str, Any]) -> str:
    if any(open_url(each.get("name", "")) != each.get("name", "") for each in given.get("items", ())):
        return "Something in it is named by an address that holds what looks like a secret. Leave it out here."
    url, command = given.get("url", ""), given.get("command", [])
    if any(_PLACEHOLDER.search(each) for each in (url, *command)):
        return "It holds a placeholder that only the client fills in. Write what it stands for, without secrets."
    if _is_masked(url, *command) or url != open_url(url) or command != open_command(command):
        return "Its address or command holds what looks like a secret. Leave it out here, and add it as a credential."
    return ""


def _is_masked(*words: str) -> bool:
    return any(REDACTED in word for word in words)


def open_url(url: str) -> str:
    """The address with everything masked that looks like a secret."""
    return _SECRET_IN_QUERY.sub(rf"\1{REDACTED}", str(redact(url)))


def open_command(command: list[str]) -> list[str]:
    """The command with everything masked that looks like a secret, also where its name is the argument before."""
    shown = []
    for before, word in zip(["", *command], command, strict=False):
        flag = before.lstrip("-") if before.startswith("-") and "=" not in before else ""
        shown.append(str(redact(word, flag)))
    return shown


def _text(value: Any) -> str:
    return str(redact(value if isinstance(value, str) else json.dumps(value)))[:LONGEST_NAME]
