"""How a change looks: before and after, with the words that differ marked."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from apps.core.staff.display import reveal

_WORDS = re.compile(r"\s+|[^\s,;:/?&=.]+|[,;:/?&=.]")
_MOST_WORDS = 1_500
"""Comparing takes the square of this in the worst case; longer texts are shown whole, without marks."""
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field before and after."""

    field: str
    before: SafeString
    after: SafeString


def differences(changes: Any) -> list[Difference]:
    """What the journal keeps of a change, ready to be shown; nothing where it keeps none."""
    if not isinstance(changes, Mapping):
        return []
    # Sorted here: databases keep the names of JSON in orders of their own.
    return [
        _difference(str(field).replace("_", " "), told)
        for field, told in sorted(changes.items())
        if isinstance(told, Mapping)
    ]


def plain_text(value: Any) -> str:
    """A value as a person reads it: one item of a list in each line, a mapping as JSON."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(not isinstance(item, dict | list) for item in value):
        return "\n".join(map(plain_text, value))
    if isinstance(value, dict | list):
        return json.dumps(value, indent=2, ensure_ascii=False)
    return str(value)


def _difference(field: str, told: Mapping[str, Any]) -> Difference:
    before, after = plain_text(told.get("from")), plain_text(told.get("to"))
    if "from" not in told:
        return Difference(field, SafeString(""), _shown(after))
    if not before or not after:
        return Difference(field, _shown(before), _shown(after))
    return Difference(field, *_marked(before, after))


def _shown(text: str) -> SafeString:
    return reveal(text) if text else format_html('<span class="gh-note">{}</span>', _NOTHING)


def _marked(before: str, after: str) -> tuple[SafeString, SafeString]:
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) + len(new) > _MOST_WORDS:
        return reveal(before), reveal(after)
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    removed = [("".join(old[a:b]), tag != "equal") for tag, a, b, _, _ in steps]
    added = [("".join(new[c:d]), tag != "equal") for tag, _, _, c, d in steps]
    return _joined(removed, "del"), _joined(added, "ins")


def _joined(parts: list[tuple[str, bool]], tag: str) -> SafeString:
    return mark_safe("".join(_pieces(parts, tag)))  # noqa: S308 - each piece has been escaped


def _pieces(parts: list[tuple[str, bool]], tag: str) -> Iterator[str]:
    for text, is_marked in parts:
        if text:
            yield f'<{tag} class="gh-{tag}">{reveal(text)}</{tag}>' if is_marked else reveal(text)
