"""What was found about a credential a moment ago, so that most requests need no query."""

import hashlib
import threading
import time
from collections import OrderedDict
from uuid import UUID

from django.db import transaction

from apps.audit import services as audit
from apps.auth.models import Organization
from apps.core.actor import Actor
from apps.core.errors import NotFound

FRESH_SECONDS = 0.9
"""How long an answer holds: a revocation is promised within a second, and re-reading takes a part of it."""
LARGEST_MEMORY = 10_000

Key = tuple[bytes, str, str, str]


class ActorMemory:
    """Actors by the SHA-256 of their credential, never by the credential; the oldest make room for new ones."""

    def __init__(self, *, limit: int = LARGEST_MEMORY) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._actors: OrderedDict[Key, tuple[float, Actor]] = OrderedDict()
        self.clearings = 0

    def recall(self, key: Key) -> Actor | None:
        """The actor, if it was found within the last moment."""
        with self._lock:
            until, actor = self._actors.get(key, (0.0, None))
        return actor if time.monotonic() < until else None

    def keep(self, key: Key, actor: Actor, *, until: float, clearings: int) -> None:
        """Remember the actor until a moment of the monotonic clock, unless all was forgotten since they were read."""
        with self._lock:
            if clearings != self.clearings:
                return
            self._actors[key] = (until, actor)
            self._actors.move_to_end(key)
            while len(self._actors) > self._limit:
                self._actors.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the next request of each caller asks the database."""
        with self._lock:
            self.clearings += 1
            self._actors.clear()

    def __len__(self) -> int:
        return len(self._actors)


memory = ActorMemory()


def memory_key(credential: str, audience: str, organization: str | None, address: str) -> Key:
    """The key under which an actor is remembered: what opened from one address was not asked from another."""
    return hashlib.sha256(credential.encode()).digest(), audience, organization or "", address


def raise_revision(organization_id: UUID | None) -> None:
    """Note that something changed which lists or rights depend on, in the caller's transaction."""
    if organization_id:
        with transaction.atomic():
            # The journal's chain comes before the organisation's row, whichever of the two a service asks for first.
            audit.hold_chain(organization_id)
            Organization.objects.raise_revision(organization_id)
    forget_actors()


def forget_actors() -> None:
    """Let this process see a change at once; other processes see it when their answers are a second old."""
    # Now, for callers in this very transaction, and again when others can see the change.
    memory.clear()
    transaction.on_commit(memory.clear)


def read_revision(organization_id: UUID) -> int:
    """The organisation's revision as the database has it now."""
    revision = Organization.objects.filter(pk=organization_id).values_list("revision", flat=True).first()
    if revision is None:
        raise NotFound
    return revision
