"""What every door does with bytes before anything else happens: refuse the ones that would hurt further in."""

import json
import math
import re
from functools import cache
from typing import Any

from django.http import HttpRequest

from apps.core.actor import Actor
from apps.core.errors import Malformed

MAX_DEPTH = 64
MAX_INTEGER = 2**63
MAX_NUMBER_LENGTH = 400
MAX_VALUES = 50_000
_CONTROL = re.compile(r"[\x00\ud800-\udfff]")


class ActorRequest(HttpRequest):
    """A request whose actor has been found: what the views of every router are given."""

    actor: Actor


def read_json(body: bytes) -> Any:
    """Parse one JSON document strictly.

    Raises Malformed for bytes that are not UTF-8, for NaN and infinities, for integers beyond 64 bits, for NUL and
    lone surrogates, for names given twice in one object, for nesting deeper than 64, and for more than 50,000 values:
    parsing stops everything else in the process, and a million small values take seconds.
    """
    if has_too_many_values(body, most=MAX_VALUES):
        raise Malformed(f"The JSON holds more than {MAX_VALUES} values.")
    try:
        text = body.decode("utf-8")
        parsed = _STRICT.decode(text)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed("The body is not valid JSON in UTF-8.") from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and is_deeper_than(parsed, MAX_DEPTH):
        raise Malformed(f"The JSON is nested more than {MAX_DEPTH} deep.")
    if b"\\u" in body or b"\x00" in body:
        check_text(parsed)
    return parsed


def check_text(value: Any) -> None:
    """Refuse NUL and lone surrogates anywhere in a JSON value, names included; raises Malformed."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and _CONTROL.search(item):
            raise Malformed("Text must not contain NUL or half a surrogate pair.")
        if isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)


def storable_text(text: str) -> str:
    """A text that every database stores: what `check_text` refuses is replaced, for texts that have to be kept."""
    return _CONTROL.sub("\ufffd", text)


def has_too_many_values(body: bytes, *, most: int) -> bool:
    """Whether JSON has too many commas outside of its strings; most bodies have fewer bytes than that."""
    return body.count(b",") >= most and _commas(most).match(body) is not None


@cache
def _commas(number: int) -> re.Pattern[bytes]:
    """So many commas outside of strings. Nothing in it ever goes back, and a string may lack its end: it is linear."""
    return re.compile(rb'(?:(?:[^",]++|"(?:[^"\\]++|\\.)*+"?)*+,){%d}+' % number, re.DOTALL)


def is_deeper_than(value: Any, limit: int) -> bool:
    """Whether lists and objects lie in each other more often than this."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_LENGTH or not -MAX_INTEGER <= (number := int(text)) < MAX_INTEGER:
        raise Malformed("The JSON holds an integer of more than 64 bits.")
    return number


def _number(text: str) -> float:
    number = float(text) if len(text) <= MAX_NUMBER_LENGTH else math.inf
    if not math.isfinite(number):
        raise Malformed("The JSON holds a number that is too large.")
    return number


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("The JSON names something twice in one object.")
    return result


_STRICT = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant, object_pairs_hook=_object
)
