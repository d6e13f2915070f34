"""What is asked for, and what was decided."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Resource:
    """What an actor wants to use; the caller fills in what it knows, policies never look things up."""

    kind: Literal["tool", "resource", "prompt"]
    name: str
    server: str = ""
    tags: frozenset[str] = field(default_factory=frozenset)
    environment: str = ""
    risk: str = "medium"
    reads_only: bool = False
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, with the reason that a person can read."""

    allowed: bool
    reason: str
    rule: str = ""
