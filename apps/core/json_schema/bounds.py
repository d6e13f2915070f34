"""What a check says, and how long it may take."""

from collections.abc import Callable
from typing import Any

MOST_STEPS = 1_000_000
"""How many steps one check may take; a step is well below a microsecond."""


class NotEnforced(Exception):
    """A schema of which no checker is made; the text says why."""


class Exhausted(Exception):
    """A check took more steps than it may."""


class Steps:
    """How many steps a check may still take."""

    __slots__ = ("left",)

    def __init__(self, most: int = MOST_STEPS) -> None:
        self.left = most

    def take(self, count: int) -> None:
        """Take some steps; raises Exhausted."""
        self.left -= count
        if self.left < 0:
            raise Exhausted


Fault = tuple[str, str]
"""The place in the value, and what is wrong there; never the value itself."""
Check = Callable[[Any, Steps], Fault | None]
