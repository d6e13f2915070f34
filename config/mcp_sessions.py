"""Which sessions of the 2025 era are open, so that nobody holds all of them.

The SDK keeps a session for half an hour after its last request, takes ten thousand and then refuses everybody. Many
clients never end theirs. So a key, and an organisation, has a share of its own: one more ends the one that was left
alone for longest.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from apps.core.actor import Actor

RELAYED = "gatehouse.relayed"
"""Marks in a scope a request that another web process has passed on, and that answers whoever asks."""
MOST_OF_ONE_CALLER = 500
MOST_OF_ONE_ORGANIZATION = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """Whose a session is; `user` is what the SDK compares with that of a request."""

    caller: str
    user: Any


@dataclass(slots=True)
class Sessions:
    """The open sessions of each organisation, the one that was used last at the end."""

    _held: dict[Any, OrderedDict[str, Held]] = field(default_factory=dict)

    def note_use(self, actor: Actor, session_id: str) -> None:
        """It was asked something: it is not the next one to end."""
        mine = self._held.get(actor.organization_id)
        if mine and session_id in mine:
            mine.move_to_end(session_id)

    def note_open(self, actor: Actor, session_id: str, user: Any) -> Iterator[tuple[str, Any]]:
        """It was opened; yields the sessions that are to be ended for it, with their users."""
        mine = self._held.setdefault(actor.organization_id, OrderedDict())
        mine[session_id] = Held(_caller(actor), user)
        of_caller = [name for name, held in mine.items() if held.caller == _caller(actor)]
        too_many = of_caller[:-MOST_OF_ONE_CALLER] or list(mine)[:-MOST_OF_ONE_ORGANIZATION]
        for name in too_many:
            yield name, mine.pop(name).user

    def note_end(self, actor: Actor, session_id: str) -> None:
        """It is over, if it was this caller's: nobody else is told the truth about it."""
        mine = self._held.get(actor.organization_id, OrderedDict())
        if session_id in mine and mine[session_id].caller == _caller(actor):
            del mine[session_id]
        if not mine:
            self._held.pop(actor.organization_id, None)

    def count(self, organization_id: UUID | None) -> int:
        """How many are open in an organisation, or in all of them; any thread may ask."""
        if organization_id is not None:
            return len(self._held.get(organization_id, ()))
        return sum(len(mine) for mine in list(self._held.values()))


def _caller(actor: Actor) -> str:
    return str(actor.key_id or actor.id)
