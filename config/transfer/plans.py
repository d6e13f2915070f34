"""What comes of an import: a line for each item, and a digest of all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["make", "change", "leave", "refuse"]


@dataclass(frozen=True, slots=True)
class Line:
    """What comes of one item: fields before and after, what follows from it, or why it is refused."""

    kind: str
    name: str
    outcome: Outcome
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Every line of an import, and a digest by which it is seen whether anything has changed since."""

    lines: list[Line]
    digest: str

    def count(self, outcome: Outcome) -> int:
        """How many lines have this outcome."""
        return sum(line.outcome == outcome for line in self.lines)

    @property
    def counts(self) -> dict[str, int]:
        """How many lines there are of each outcome."""
        return {each: self.count(each) for each in ("make", "change", "leave", "refuse")}

    @property
    def does_something(self) -> bool:
        """Whether confirming it would change anything."""
        return bool(self.count("make") or self.count("change"))
