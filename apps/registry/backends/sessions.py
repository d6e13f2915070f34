"""One session with a server over streamable HTTP: how we speak there, what it was told, how far a stream was read."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apps.registry.backends import wire
from apps.registry.backends.hearing import Hearing

MAX_KEPT = 1000
SHORTEST_RESUME_SECONDS = 0.1
VISIBLE = re.compile(r"[\x21-\x7e]{1,1024}\Z", re.ASCII)
_MILLISECONDS = re.compile(r"[0-9]{1,6}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Voice:
    """How we speak to the server: the revision, the session, and the headers that all requests of both share."""

    version: str
    session_id: str
    meta: dict[str, Any] | None
    headers: dict[str, str]
    hearing: Hearing

    def meta_for(self, capabilities: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What a request says of its caller, in the era in which each request does."""
        if capabilities is None or self.meta is None:
            return self.meta
        return {**self.meta, wire.CAPABILITIES: dict(capabilities)}


@dataclass(slots=True)
class Place:
    """How far an event stream was read, and when it may be resumed."""

    last_id: str = ""
    retry_seconds: float = 1.0

    @property
    def can_be_resumed(self) -> bool:
        """Whether the server has given the place a name that a header can carry."""
        return VISIBLE.match(self.last_id) is not None

    def move(self, event_id: str | None, retry: str | None) -> None:
        """An event has been read."""
        if event_id is not None:
            self.last_id = event_id
        if retry is not None and _MILLISECONDS.match(retry):
            self.retry_seconds = max(int(retry) / 1000, SHORTEST_RESUME_SECONDS)


class Standing:
    """What was set up in a session and holds until it ends; one that begins anew has to be told again."""

    METHODS = frozenset({"resources/subscribe", "resources/unsubscribe", "logging/setLevel"})

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Mapping[str, Any]] = {}

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return iter([(method, params) for (method, _), params in self._kept.items()])

    def keep(self, method: str, params: Mapping[str, Any]) -> None:
        """Remember what the server has just agreed to."""
        about = str(params.get("uri", ""))
        if method == "resources/unsubscribe":
            self._kept.pop(("resources/subscribe", about), None)
        elif len(self._kept) < MAX_KEPT:
            self._kept[method, about] = params
