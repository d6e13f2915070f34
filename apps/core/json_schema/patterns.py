"""Regular expressions: what it costs to compile one is counted beforehand, so that each machine judges it alike.

The engine takes linear time for a text, however a pattern is written. To compile a pattern takes as long as the pattern
is with all its repetitions written out, and a class like `\\w` has hundreds of ranges. What is counted is about
microseconds of one core.
"""

import re
from collections.abc import Callable

from pydantic_core import SchemaError, SchemaValidator, core_schema

from apps.core.json_schema.bounds import NotEnforced

LONGEST_PATTERN = 1_000
MOST_PATTERN_WORK = 500_000
"""What all patterns of a schema together may cost."""
TOO_COSTLY = "its patterns are too costly"

_PLAIN, _RANGE, _ANY = 2, 10, 10
_CLASSES = {"w": 400, "p": 400, "d": 100, "b": 100, "s": 20}
_FOLDING = 4
"""How much more everything costs that is to be compared without regard to case."""
_TOKEN = re.compile(
    r"(?P<class>\\[pP](?:\{[^}]*\}|.)|\\[wWdDbBsS])|\\[xuU]\{[^}]*\}|\\."
    r"|\{\s*(?P<least>\d+)\s*(?:,\s*(?P<most>\d*)\s*)?\}"
    r"|\(\?(?P<flags>[A-Za-z-]*)(?P<end>[:)])|(?P<sign>.)",
    re.DOTALL,
)


class Pattern:
    """A pattern of a schema, which is compiled once it is known what all of them cost."""

    __slots__ = ("matches", "text")
    matches: Callable[[str], bool]
    """Whether a text has a part that matches."""

    def __init__(self, text: str) -> None:
        self.text = text

    def compile(self) -> None:
        """Make it ready; raises NotEnforced where the engine refuses it."""
        try:
            self.matches = SchemaValidator(core_schema.str_schema(pattern=self.text, strict=True)).isinstance_python
        except SchemaError as error:
            raise NotEnforced("a pattern of it cannot be checked in bounded time") from error


def work_of(pattern: str) -> int:
    """About how much work it is to compile a pattern, and never much less; raises NotEnforced."""
    if len(pattern) > LONGEST_PATTERN:
        raise NotEnforced("a pattern of it is too long")
    return _Counting().of(pattern)


class _Counting:
    """Reads a pattern once. `_sums` has what the open groups cost so far, `_last` what a repetition is about."""

    def __init__(self) -> None:
        self._sums = [0]
        self._last = 0
        self._folds = 1
        self._depth = 0
        """How many brackets are open."""
        self._may_close = False

    def of(self, pattern: str) -> int:
        for token in _TOKEN.finditer(pattern):
            if self._depth:
                self._in_brackets(token)
            else:
                self._outside(token)
        while len(self._sums) > 1:
            self._close()
        return self._sums[0] * self._folds

    def _outside(self, token: "re.Match[str]") -> None:
        if token["least"]:
            self._repeat(max(1, int(token["least"]), int(token["most"] or 0)))
        elif token["flags"] is not None:
            self._flag(token["flags"])
            if token["end"] == ":":
                self._sums.append(0)
        elif token["sign"] == "(":
            self._sums.append(0)
        elif token["sign"] == ")":
            self._close()
        elif token["sign"] == "[":
            self._open_bracket()
        elif token["sign"] not in ("?", "*", "+"):
            self._add(_cost(token))

    def _in_brackets(self, token: "re.Match[str]") -> None:
        """Everything between brackets is one class, and costs what its parts cost."""
        sign = token["sign"]
        if sign == "]" and self._may_close:
            self._depth -= 1
            if not self._depth:
                self._close()
            return
        if sign == "[":
            self._depth += 1
        # A closing bracket that comes first stands for itself.
        self._may_close = sign not in ("[", "^") or (self._may_close and sign == "^")
        self._sums[-1] += _RANGE * len(token[0]) if not token["class"] else _cost(token)

    def _open_bracket(self) -> None:
        self._depth, self._may_close = 1, False
        self._sums.append(0)

    def _flag(self, flags: str) -> None:
        if "x" in flags:  # then spaces mean nothing, and what a repetition is about is not what stands before it
            raise NotEnforced("a pattern of it is written with spaces that mean nothing")
        if "i" in flags:
            self._folds = _FOLDING

    def _add(self, cost: int) -> None:
        self._last = cost
        self._sums[-1] += cost

    def _close(self) -> None:
        if len(self._sums) > 1:
            self._last = self._sums.pop()
            self._sums[-1] += self._last

    def _repeat(self, times: int) -> None:
        self._sums[-1] += self._last * (times - 1)
        self._last *= times


def _cost(token: "re.Match[str]") -> int:
    if token["class"]:
        return _CLASSES[token["class"][1].lower()]
    return _ANY if token["sign"] == "." else _PLAIN
