"""Values as JSON has them, and the values of a schema's own words."""

from typing import Any

from apps.core.json_schema.bounds import NotEnforced, Steps

LONGEST_SHOWN = 60


def is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def frozen(value: Any, steps: Steps) -> Any:
    """A value that is equal and hashable: 1 equals 1.0 and not True, the order of names does not count."""
    if type(value) is bool:
        return ("bool", value)
    if type(value) is list:
        steps.take(1 + len(value))
        return ("list", *(frozen(each, steps) for each in value))
    if type(value) is dict:
        steps.take(1 + len(value))
        return ("dict", frozenset((name, frozen(each, steps)) for name, each in value.items()))
    return value


def mapping_of(schema: dict[str, Any], word: str) -> dict[str, Any]:
    found = schema.get(word, {})
    if not isinstance(found, dict):
        raise NotEnforced(f"its {word} are no object")
    return found


def texts_of(said: Any) -> list[str]:
    if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
        raise NotEnforced("a list of names in it is none")
    return said


def number_of(schema: dict[str, Any], word: str, otherwise: Any) -> Any:
    found = schema.get(word, otherwise)
    if found is not otherwise and not is_number(found):
        raise NotEnforced(f"its {word} is no number")
    return found


def shown(name: str) -> str:
    return name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…"
