"""Takes our own secrets out of what a server says: many repeat in an error, or in a text, the credential they got."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from apps.core.logs import REDACTED, redact
from apps.registry.backends.base import ServerRoute

SHORTEST_SECRET = 8


def secrets_of(route: ServerRoute) -> list[str]:
    """What we give to the server and it must not give back, in every spelling in which it might; the longest first.

    Credentials, and those variables of a process whose name says that they are secret. What is shorter than eight
    characters is left out: it would be found in innocent texts. A route remembers them: each call asks.
    """
    if route.known_secrets is None:
        object.__setattr__(route, "known_secrets", _find_secrets(route))  # a route is frozen for everybody else
    return route.known_secrets or []


def _find_secrets(route: ServerRoute) -> list[str]:
    plain: set[str] = set()
    for value in route.headers.values():
        scheme, _, rest = value.partition(" ")
        plain.update((value, rest, *(_basic_parts(rest) if scheme == "Basic" else ())))
    plain.update(value for name, value in route.env.items() if redact(value, name) == REDACTED)
    spelt = {spelling for each in plain if len(each) >= SHORTEST_SECRET for spelling in _spellings(each)}
    return sorted(spelt, key=len, reverse=True)


def without_secrets(value: Any, secrets: Sequence[str]) -> Any:
    """The JSON value with the secrets masked, in its names too; lists and objects in it are changed in place."""
    if not secrets:
        return value
    whole = [value]
    pending: list[Any] = [whole]  # no recursion: what a server sends may be nested deeper than Python's stack
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            masked = {_masked(name, secrets): _shown(each, secrets) for name, each in node.items()}
            node.clear()
            node.update(masked)
            pending.extend(each for each in masked.values() if isinstance(each, dict | list))
        else:
            node[:] = [_shown(each, secrets) for each in node]
            pending.extend(each for each in node if isinstance(each, dict | list))
    return whole[0]


def _shown(value: Any, secrets: Sequence[str]) -> Any:
    return _masked(value, secrets) if isinstance(value, str) else value


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    return text


def _basic_parts(encoded: str) -> tuple[str, ...]:
    """User and password as the server reads them, and the password alone."""
    try:
        pair = base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ()
    return pair, pair.partition(":")[2]


def _spellings(secret: str) -> tuple[str, ...]:
    """As it is, within JSON inside a text (some writers escape slashes, some write JSON into JSON), in an address."""
    escaped = json.dumps(secret)[1:-1]
    return (
        secret,
        escaped,
        escaped.replace("/", "\\/"),
        json.dumps(escaped)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        quote(secret),
    )
