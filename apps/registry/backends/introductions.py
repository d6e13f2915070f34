"""How we introduce a client to a server: what it is and what it can do, as far as that has the protocol's form.

What has not is left out. A server refuses it with the whole connection: one client with a wrong description would end
the process that was started for it, which looks like a crash to everybody who wants another.
"""

from collections.abc import Mapping
from typing import Any

_ROOTS = "roots"
_OF_OBJECTS = frozenset({"sampling", "elicitation", "experimental", "extensions", "tasks"})


def well_formed_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a client says it is; nothing where it has no name or no version."""
    if not (isinstance(info.get("name"), str) and isinstance(info.get("version"), str)):
        return {}
    return {
        name: value for name, value in info.items() if isinstance(value, str) or (name == "icons" and _are_icons(value))
    }


def _are_icons(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) and _is_icon(each) for each in value)


def _is_icon(icon: Mapping[str, Any]) -> bool:
    sizes = icon.get("sizes", [])
    texts = all(isinstance(value, str) for name, value in icon.items() if name != "sizes")
    return "src" in icon and texts and isinstance(sizes, list) and all(isinstance(size, str) for size in sizes)


def well_formed_capabilities(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a client says it can do; what only it and its server know stays as it is."""
    return {
        name: _well_formed(name, about)
        for name, about in declared.items()
        if isinstance(about, Mapping) or not (name == _ROOTS or name in _OF_OBJECTS)
    }


def _well_formed(name: str, about: Any) -> Any:
    if name == _ROOTS:
        return {key: value for key, value in about.items() if isinstance(value, bool)}
    if name in _OF_OBJECTS:
        return {key: value for key, value in about.items() if isinstance(value, Mapping)}
    return about
