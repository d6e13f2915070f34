"""What a server's result must look like before an agent sees it, and the results that are kept for a while."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from apps.core.errors import BackendError
from apps.core.logs import REDACTED
from apps.registry import services as registry

KEPT_BYTES = 16 * 1024 * 1024
LARGEST_KEPT = 256 * 1024
MOST_LINKS = 200
"""How many URIs in one result are held against the lists: each may have to be tried with many templates."""
INPUT_REQUIRED = "input_required"
_OURS_TO_SAY = frozenset({"_meta", "cacheScope"})
_OURS = ("io.modelcontextprotocol/", "gatehouse/")


def passed_on(result: Mapping[str, Any], route: registry.ServerRoute) -> tuple[dict[str, Any], int]:
    """The result of a tool with only the parts that pass, and its size in bytes.

    Credentials that we sent to the server are masked where it repeats them. Raises BackendError naming the server when
    the result is not one of a tool.
    """
    if result.get("resultType", "complete") == INPUT_REQUIRED:
        return masked(dict(result), route)
    content = result.get("content", [])
    if not isinstance(content, list) or not all(isinstance(each, dict) and "type" in each for each in content):
        raise wrong(route, "its content is not a list of content blocks")
    passed: dict[str, Any] = {"content": content}
    structured = result.get("structuredContent")
    if structured is not None or (route.is_modern and "structuredContent" in result):
        if not (route.is_modern or isinstance(structured, dict)):
            raise wrong(route, "its structuredContent is not an object")
        passed["structuredContent"] = structured
    if result.get("isError") is True:
        passed["isError"] = True
    meta = passed_meta(result.get("_meta"))
    if meta:
        passed["_meta"] = meta
    return masked(passed, route)


def passed_whole(result: Mapping[str, Any], route: registry.ServerRoute, *, needs: str) -> tuple[dict[str, Any], int]:
    """The result of any other request, as the server gave it but for what is ours to say, and its size in bytes.

    `needs` names the part without which it is no result. Raises BackendError naming the server.
    """
    if result.get("resultType", "complete") != INPUT_REQUIRED and not isinstance(result.get(needs), dict | list):
        raise wrong(route, f"its result has no {needs}")
    passed = {name: value for name, value in result.items() if name not in _OURS_TO_SAY}
    meta = passed_meta(result.get("_meta"))
    return masked({**passed, "_meta": meta} if meta else passed, route)


def under_listed_uris(result: dict[str, Any], listed: Callable[[str], str]) -> dict[str, Any]:
    """The result of a tool or a prompt whose links and resources have the URIs that its caller can read them by."""
    known: dict[str, str] = {}

    def renamed(block: Any) -> Any:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "resource" and "resource" in block:
            return {**block, "resource": with_uri(block["resource"])}
        return with_uri(block) if kind == "resource_link" else block

    def with_uri(named: Any) -> Any:
        uri = named.get("uri") if isinstance(named, dict) else None
        if not isinstance(uri, str) or (uri not in known and len(known) >= MOST_LINKS):
            return named
        if uri not in known:
            known[uri] = listed(uri)
        return {**named, "uri": known[uri]}

    def said(message: Any) -> Any:
        return {**message, "content": renamed(message.get("content"))} if isinstance(message, dict) else message

    content, messages = result.get("content"), result.get("messages")
    if isinstance(content, list):
        return {**result, "content": [renamed(block) for block in content]}
    return {**result, "messages": [said(each) for each in messages]} if isinstance(messages, list) else result


def size_of(value: Any) -> int:
    """How long a JSON value is, in bytes."""
    return len(orjson.dumps(value))


def passed_meta(meta: Any) -> dict[str, Any]:
    """What a server says beside its result, without what is ours or the protocol's to say."""
    if not isinstance(meta, dict):
        return {}
    return {name: value for name, value in meta.items() if not name.startswith(_OURS)}


def masked(passed: dict[str, Any], route: registry.ServerRoute) -> tuple[dict[str, Any], int]:
    """The result without the credentials that we sent to the server, and its size; raises BackendError."""
    try:
        encoded = orjson.dumps(passed)
    except TypeError as error:
        raise wrong(route, "it holds text or numbers that JSON does not allow") from error
    leaked = [orjson.dumps(secret)[1:-1] for secret in registry.secrets_of(route)]
    for secret in leaked:
        if secret in encoded:
            encoded = encoded.replace(secret, REDACTED.encode())
            passed = orjson.loads(encoded)
    return passed, len(encoded)


def wrong(route: registry.ServerRoute, why: str) -> BackendError:
    """The failure of a server that breaks the protocol."""
    return BackendError(
        f"The server {route.slug} answered wrongly: {why}. Ask an admin to look at it under Servers.",
        details={"server": route.slug},
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    result: dict[str, Any]
    size: int
    until: float


class ResultCache:
    """Results of tools that only read, for as long as staff allow; bounded, the least used go first."""

    def __init__(self, *, most_bytes: int = KEPT_BYTES) -> None:
        self._kept: OrderedDict[tuple[Any, ...], _Kept] = OrderedDict()
        self._bytes = 0
        self._most_bytes = most_bytes

    def get(self, key: tuple[Any, ...]) -> tuple[dict[str, Any], int] | None:
        """The result and its size, if it is kept and still fresh."""
        found = self._kept.get(key)
        if found is None or found.until < time.monotonic():
            return None
        self._kept.move_to_end(key)
        return found.result, found.size

    def keep(self, key: tuple[Any, ...], result: dict[str, Any], size: int, *, seconds: float) -> None:
        """Keep a result for some seconds, unless it is an error or very large."""
        if result.get("isError") or size > LARGEST_KEPT:
            return
        self._drop(key)
        self._kept[key] = _Kept(result, size, time.monotonic() + seconds)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: tuple[Any, ...]) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._bytes -= old.size


def canonical(arguments: Mapping[str, Any]) -> bytes:
    """The arguments as bytes that are equal when the arguments are."""
    return orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
