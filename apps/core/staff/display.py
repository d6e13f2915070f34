"""How values look on staff pages: badges, times, and text from strangers with nothing hidden in it."""

import json
import unicodedata
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Literal, TypeVar

from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

Method = TypeVar("Method", bound=Callable[..., Any])
Tone = Literal["good", "warn", "bad", "info", "quiet"]

NOTHING = SafeString("-")
_LONGEST_SHOWN = 20_000
_MINUTE_SECONDS = 60
_SHOWN_CONTROLS = "\n\t"
# Format, control, private, unassigned and separator characters draw nothing, or draw the line in another order.
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def column(title: str, *, ordering: str = "", header: bool = False) -> Callable[[Method], Method]:
    """Make a method of a staff page a column or a field; with `ordering` it can be sorted, `header` shows two lines."""

    def mark(method: Method) -> Method:
        method.short_description = title  # type: ignore[attr-defined]
        method.header = header  # type: ignore[attr-defined]
        if ordering:
            method.admin_order_field = ordering  # type: ignore[attr-defined]
        return method

    return mark


def badge(text: object, tone: Tone = "quiet", *, icon: str = "", title: str = "") -> SafeString:
    """A small coloured word."""
    symbol = format_html('<span class="material-symbols-outlined" aria-hidden="true">{}</span>', icon) if icon else ""
    words = '<span class="gh-badge gh-{}" title="{}">{}{}</span>'
    return format_html(words, tone, spelled_out(title), symbol, _shown(text))


def badges(shown: Iterable[SafeString]) -> SafeString:
    """Several badges beside each other."""
    return format_html('<span class="gh-badges">{}</span>', SafeString("".join(shown)))


def words(values: object) -> SafeString:
    """A list of free words, each in a quiet badge."""
    listed = values if isinstance(values, list | tuple) else []
    return badges(badge(reveal(str(value))) for value in listed) if listed else NOTHING


def code(text: object) -> SafeString:
    """A name or address in fixed width, invisible characters made visible."""
    return format_html('<code class="gh-code">{}</code>', reveal(str(text))) if text else NOTHING


def ago(at: datetime | None) -> SafeString:
    """How long ago, with the exact time as its title; a time to come reads "in 2 days"."""
    if at is None:
        return NOTHING
    now = timezone.now()
    if abs((now - at).total_seconds()) < _MINUTE_SECONDS:
        said = "just now" if at <= now else "in a moment"
    else:
        said = f"{timesince(at, now, depth=1)} ago" if at < now else f"in {timesince(now, at, depth=1)}"
    return format_html(
        '<time class="gh-time" datetime="{}" title="{}">{}</time>', at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S} UTC", said
    )


def exact(at: datetime | None) -> SafeString:
    """The moment to the second, and how long ago that is."""
    return format_html("{} UTC ({})", f"{at:%Y-%m-%d %H:%M:%S}", ago(at)) if at else NOTHING


def milliseconds(value: float | None) -> str:
    """A latency with its unit."""
    if value is None:
        return str(NOTHING)
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"  # noqa: PLR2004 - below ten a digit more


def link(model: str, key: object, text: object) -> SafeString:
    """A link to the page of a row, `model` being app_label_model; only the text where there is no such page."""
    shown = _shown(text)
    try:
        return format_html('<a class="gh-link" href="{}">{}</a>', reverse(f"admin:{model}_change", args=[key]), shown)
    except NoReverseMatch:
        return shown


def reveal(text: str) -> SafeString:
    """Escaped text in which every character that draws nothing, or reorders the line, is named instead."""
    if text.isascii() and text.isprintable():
        return format_html("{}", text)
    return format_html_join(
        "", "{}", ((_named(character) if _is_hidden(character) else character,) for character in text)
    )


def spelled_out(text: str) -> str:
    """The same for where only text can stand."""
    return "".join(f"[U+{ord(character):04X}]" if _is_hidden(character) else character for character in text)


def text_block(text: str) -> SafeString:
    """A long text with its line breaks, nothing hidden in it."""
    return format_html('<div class="gh-text" tabindex="0">{}</div>', reveal(_cut(text))) if text else NOTHING


def json_block(value: Any) -> SafeString:
    """JSON, indented; characters beyond ASCII that draw nothing stay named."""
    if value in (None, {}, [], ""):
        return NOTHING
    return format_html(
        '<pre class="gh-json" tabindex="0">{}</pre>', reveal(_cut(json.dumps(value, indent=2, ensure_ascii=False)))
    )


def _shown(text: object) -> SafeString:
    return text if isinstance(text, SafeString) else reveal(str(text))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text):,} characters in all)"


def _is_hidden(character: str) -> bool:
    if character in _SHOWN_CONTROLS:
        return False
    is_variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0000" <= character <= "\U000e01ef"
    return is_variation or character in _BLANK_LETTERS or unicodedata.category(character) in _INVISIBLE


def _named(character: str) -> SafeString:
    name = unicodedata.name(character, "no name")
    return format_html('<mark class="gh-hidden" title="{}">U+{}</mark>', name, f"{ord(character):04X}")
