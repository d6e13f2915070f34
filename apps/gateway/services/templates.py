"""Tells whether a URI could have been made from a template (RFC 6570), in time that grows only with their lengths.

Templates come from servers and URIs from callers, so a regular expression that tries again and again would be a way to
stop the process. Here the places that the beginning of the template can reach in the URI are the bits of one number;
each part of the template moves all of them at once.
"""

import re
from dataclasses import dataclass
from typing import Self

LONGEST_URI = 2000
_EXPRESSION = re.compile(
    r"\{([+#./;?&]?)([A-Za-z0-9_.%]+(?:\*|:[0-9]{1,4})?(?:,[A-Za-z0-9_.%]+(?:\*|:[0-9]{1,4})?)*)\}"
)
_STOPS = {"": "/?#&,", "+": "", "#": "", ".": "./?#", "/": "/?#", ";": ";/?#", "?": "#", "&": "#"}
"""The characters that the value of one variable does not have, by the operator of its expression."""
_SEPARATORS = {"": ",", ".": ".", "/": "/", ";": ";"}


@dataclass(frozen=True, slots=True)
class _Run:
    """What an expression becomes: some characters that are none of the stops, after a leading one if it has any."""

    lead: str
    stops: frozenset[str]


@dataclass(frozen=True, slots=True)
class UriTemplate:
    """A template that URIs can be held against."""

    parts: tuple[str | _Run, ...]

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The template; None for a text that is none, or has no variable."""
        pieces: list[str | _Run] = []
        end = 0
        for found in _EXPRESSION.finditer(text):
            pieces += [text[end : found.start()], _run(found[1], found[2])]
            end = found.end()
        pieces.append(text[end:])
        if end == 0 or any("{" in piece or "}" in piece for piece in pieces if isinstance(piece, str)):
            return None
        return cls(tuple(piece for piece in pieces if piece != ""))

    def matches(self, uri: str) -> bool:
        """Whether values for the variables exist with which the template becomes this URI."""
        first, last = self.parts[0], self.parts[-1]
        if len(uri) > LONGEST_URI or (isinstance(first, str) and not uri.startswith(first)):
            return False
        if isinstance(last, str) and not uri.endswith(last):
            return False
        places = _Places(uri)
        reached = 1
        for part in self.parts:
            reached = places.after_text(reached, part) if isinstance(part, str) else places.after_run(reached, part)
            if not reached:
                return False
        return bool(reached >> len(uri) & 1)


def _run(operator: str, variables: str) -> _Run:
    has_several = "," in variables or "*" in variables
    stops = set(_STOPS[operator]) - ({_SEPARATORS.get(operator, "")} if has_several else set())
    return _Run("" if operator == "+" else operator, frozenset(stops))


class _Places:
    """Sets of places in a URI, as the bits of a number: bit n stands before its n-th character."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._ends: dict[str, int] = {}
        self._free: dict[frozenset[str], int] = {}

    def after_text(self, reached: int, text: str) -> int:
        """Where one is after this very text."""
        if text not in self._ends:
            self._ends[text] = self._starts_of(text)
        return (reached & self._ends[text]) << len(text)

    def after_run(self, reached: int, run: _Run) -> int:
        """Where one can be after an expression: one with a leading character may be left out as a whole."""
        if run.stops not in self._free:
            bits = ["0" if character in run.stops else "1" for character in reversed(self._uri)]
            self._free[run.stops] = int("".join(bits) or "0", 2)
        free = self._free[run.stops]
        if run.lead:
            return reached | _spread(self.after_text(reached, run.lead), free)
        return _spread((reached & free) << 1, free)

    def _starts_of(self, text: str) -> int:
        starts, place = 0, self._uri.find(text)
        while place >= 0:
            starts |= 1 << place
            place = self._uri.find(text, place + 1)
        return starts


def _spread(reached: int, free: int) -> int:
    """All places that can be come to over free characters only: the carry of one addition runs through each stretch."""
    return (((reached & free) + free) ^ free) | reached
