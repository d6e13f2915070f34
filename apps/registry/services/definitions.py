"""What a server says about its capabilities, read with suspicion: what is refused, what is flagged, what has changed.

A definition is kept verbatim. It is refused, with the reason, where it would break the list of every agent or harm
whoever works with it; it is flagged where its text looks like an attempt to steer a model.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from apps.core.doors import is_deeper_than
from apps.core.json_schema import Checker, NotEnforced
from apps.registry.backends.base import ParamHeaders
from apps.registry.models import CapabilityKind
from apps.registry.services.names import refusal_of_name

LARGEST_BYTES = 262_144
DEEPEST = 64
LONG_TEXT = 10_000
MOST_CHANGES = 50
LONGEST_SHOWN = 200
HEADER_KEY = "x-mcp-header"
FORBIDDEN, OPTIONAL, REQUIRED = "forbidden", "optional", "required"
"""Whether a call of a tool may be, or has to be, a task of 2025-11-25."""
NAME_KEYS = {
    CapabilityKind.TOOL: "name",
    CapabilityKind.PROMPT: "name",
    CapabilityKind.RESOURCE: "uri",
    CapabilityKind.RESOURCE_TEMPLATE: "uriTemplate",
}
_TASK_SUPPORT = (FORBIDDEN, OPTIONAL, REQUIRED)
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}\Z", re.ASCII)
_HEADER_TYPES = ("string", "integer", "boolean")
_SUSPICIONS = (
    ("invisible", "It has characters that nobody sees: zero-width, tags or the like.",
     re.compile("[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0f"
                "\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]")),
    ("direction", "It changes the direction of writing, so that it reads otherwise than it is.",
     re.compile("[\u202a-\u202e\u2066-\u2069]")),
    ("control", "It has control characters, such as those that colour a terminal.",
     re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")),
    ("instructions", "It speaks to the model as if it were its user.",
     re.compile(r"<\s*(?:/\s*)?(?:important|system|instructions?|secret)\s*>"
                r"|(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+|your\s+)?(?:previous|prior|above|earlier)"
                r"|do\s+not\s+(?:tell|mention|inform|reveal)[^.]{0,40}user"
                r"|without\s+(?:telling|informing)[^.]{0,20}user", re.I)),
)  # fmt: skip


def digest_of(definition: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON: the order of names does not count, every character of the text does."""
    return hashlib.sha256(canonical(definition)).hexdigest()


def canonical(definition: Any) -> bytes:
    """JSON with sorted names and no spaces."""
    return json.dumps(definition, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def refusal_of(kind: str, definition: Any) -> str:
    """Why this definition is not taken; empty where it is."""
    if not isinstance(definition, dict):
        return "Its definition is not a JSON object."
    reason = refusal_of_name(kind, definition.get(NAME_KEYS[CapabilityKind(kind)]))
    if reason:
        return reason
    if is_deeper_than(definition, DEEPEST):
        return f"Its definition is nested more than {DEEPEST} deep."
    written = canonical(definition)
    if len(written) > LARGEST_BYTES:
        return f"Its definition has {len(written)} bytes; {LARGEST_BYTES} are the most."
    if b"\\u0000" in written:
        return "Its definition contains NUL."
    return _refusal_of_shape(kind, definition)


def _refusal_of_shape(kind: str, definition: dict[str, Any]) -> str:
    wrong = next((key for key in ("title", "description", "mimeType") if not _is_text(definition.get(key))), "")
    wrong = wrong or next((key for key in ("annotations", "_meta") if not _is_object(definition.get(key))), "")
    wrong = wrong or ("icons" if not _are_objects(definition.get("icons")) else "")
    if kind in (CapabilityKind.RESOURCE, CapabilityKind.RESOURCE_TEMPLATE) and not isinstance(
        definition.get("name"), str
    ):
        wrong = "name"
    if kind == CapabilityKind.PROMPT and not _are_objects(definition.get("arguments")):
        wrong = "arguments"
    if wrong:
        return f"Its {wrong} has not the form that the protocol asks for."
    return _refusal_of_tool(definition) if kind == CapabilityKind.TOOL else ""


def _refusal_of_tool(definition: dict[str, Any]) -> str:
    schema = definition.get("inputSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return "Its inputSchema must be a JSON schema of type object."
    if not isinstance(schema.get("properties", {}), dict) or not isinstance(schema.get("required", []), list):
        return "Its inputSchema is not a JSON schema."
    if not _is_object(definition.get("outputSchema")):
        return "Its outputSchema is not a JSON schema."
    execution = definition.get("execution")
    if not _is_object(execution) or (execution or {}).get("taskSupport", FORBIDDEN) not in _TASK_SUPPORT:
        return "Its execution has not the form that the protocol asks for."
    for part in (schema, definition.get("outputSchema")):
        remote = next(_remote_references(part), None)
        if remote is not None:
            return f"Its schema refers to something outside itself: {shown(remote)}"
    return _refusal_of_headers(schema)


def warnings_of(definition: Mapping[str, Any], *, until: float = math.inf) -> list[dict[str, str]]:
    """What looks wrong in a definition, for people to judge: its texts, and schemas that nobody can hold it to.

    After `until`, of the clock of this thread's work, no schema is tried any more, which is said.
    """
    found: dict[str, dict[str, str]] = {}
    for path, text in _texts(definition):
        for code, message, pattern in _SUSPICIONS:
            if code not in found and pattern.search(text):
                found[code] = {"code": code, "message": message, "where": path}
        if "long" not in found and len(text) > LONG_TEXT:
            found["long"] = {"code": "long", "message": f"A text has {len(text)} characters.", "where": path}
    return [*found.values(), *_unenforced(definition, until)]


def _unenforced(definition: Mapping[str, Any], until: float) -> Iterator[dict[str, str]]:
    for key in ("inputSchema", "outputSchema"):
        if key in definition and time.thread_time() > until:
            message = f"Whether its {key} can be enforced was not tried: the server's other schemas took too long."
            yield {"code": "not_tried", "message": message, "where": key}
            continue
        try:
            Checker(definition.get(key, True))
        except NotEnforced as why:
            message = f"What passes is not checked against its {key}: {why}."
            yield {"code": "not_enforced", "message": message, "where": key}


def shown(text: Any) -> str:
    """A server's text, safe to put into a message: short, on one line, hidden characters named."""
    return ascii(str(text)[:LONGEST_SHOWN])


def task_support_of(definition: Mapping[str, Any]) -> str:
    """Whether a tool's call may be (`optional`) or has to be (`required`) a task of 2025-11-25; empty where neither."""
    execution = definition.get("execution")
    support = execution.get("taskSupport") if isinstance(execution, Mapping) else None
    return support if support in (OPTIONAL, REQUIRED) else ""


# What has changed ------------------------------------------------------------------------------------------------


def changes_between(before: Any, after: Any, place: str = "") -> list[str]:
    """What differs, one line a place: `description: 'Adds.' became 'Adds, and mails.'`; at most fifty lines."""
    return list(_changes(before, after, place))[:MOST_CHANGES]


def _changes(before: Any, after: Any, place: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            inner = f"{place}.{key}" if place else str(key)
            if key not in after:
                yield f"{inner}: {_short(before[key])} was removed"
            elif key not in before:
                yield f"{inner}: {_short(after[key])} was added"
            else:
                yield from _changes(before[key], after[key], inner)
    elif canonical(before) != canonical(after):
        yield f"{place or 'definition'}: {_short(before)} became {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text)} characters)"


# Headers of the 2026 era -----------------------------------------------------------------------------------------


def param_headers_of(definition: Mapping[str, Any]) -> ParamHeaders:
    """Which arguments a call repeats in headers (`x-mcp-header` in the schema of an accepted tool)."""
    schema = definition.get("inputSchema")
    return tuple((path, node[HEADER_KEY]) for path, node in _positions(schema) if path and HEADER_KEY in node)


def _refusal_of_headers(schema: dict[str, Any]) -> str:
    seen: set[str] = set()
    for path, node in _positions(schema):
        if HEADER_KEY not in node:
            continue
        name = node[HEADER_KEY]
        if not path:
            return f"Its {HEADER_KEY} stands where only properties of the arguments may have one."
        if not isinstance(name, str) or not _HEADER_NAME.match(name):
            return f"Its {HEADER_KEY} {shown(name)} cannot be the name of a header."
        if node.get("type") not in _HEADER_TYPES:
            return f"Its {HEADER_KEY} {shown(name)} stands at a property that is no string, integer or boolean."
        if name.lower() in seen:
            return f"Its {HEADER_KEY} {shown(name)} stands at two properties."
        seen.add(name.lower())
    return ""


def _positions(schema: Any) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every object of a schema with the path of properties that leads to it; None where anything else lies between."""
    pending: list[tuple[tuple[str, ...] | None, Any]] = [((), schema)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, list):
            pending.extend((None, item) for item in node)
        if not isinstance(node, dict):
            continue
        yield path, node
        for key, value in node.items():
            if key == "properties" and isinstance(value, dict):
                pending.extend((None if path is None else (*path, name), part) for name, part in value.items())
            elif isinstance(value, dict | list) and key not in ("default", "examples", "const", "enum"):
                pending.append((None, value))


# Walking ---------------------------------------------------------------------------------------------------------


def _remote_references(schema: Any) -> Iterator[str]:
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield from (
                node[key] for key in _REFERENCES if isinstance(node.get(key), str) and not node[key].startswith("#")
            )
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield place, key
            yield from _texts(part, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, place)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _are_objects(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))
