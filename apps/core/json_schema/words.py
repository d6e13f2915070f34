"""The checks of single words, and of several schemas at one place."""

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from apps.core.json_schema.bounds import Check, Fault, NotEnforced, Steps
from apps.core.json_schema.patterns import Pattern
from apps.core.json_schema.values import frozen, is_integer, is_number, number_of

INEXACT = 1e-9
"""How far a fraction may be from a multiple: binary fractions are rarely exact."""

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: type(value) is str, "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list, "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None, "number": is_number, "integer": is_integer,
}  # fmt: skip
_PYTHON_TYPES: Mapping[str, type] = {"string": str, "object": dict, "array": list, "boolean": bool}


_BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"), "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "more than"), "exclusiveMaximum": (operator.lt, "less than"),
}  # fmt: skip


def plain_checks(schema: dict[str, Any]) -> Iterator[Check]:
    if "type" in schema:
        yield _type_check(schema["type"])
    if "enum" in schema:
        if not isinstance(schema["enum"], list):
            raise NotEnforced("its enum is no list")
        yield partial(_enum, frozenset(frozen(each, Steps()) for each in schema["enum"]))
    if "const" in schema:
        yield partial(_enum, frozenset({frozen(schema["const"], Steps())}))
    if "minLength" in schema or "maxLength" in schema:
        yield partial(_length, number_of(schema, "minLength", 0), number_of(schema, "maxLength", None))
    for word, bound in _BOUNDS.items():
        if word in schema:
            yield partial(_bound, *bound, number_of(schema, word, None))
    if "multipleOf" in schema:
        of = number_of(schema, "multipleOf", None)
        if of is None or of <= 0:
            raise NotEnforced("its multipleOf is not above 0")
        yield partial(_multiple, of)


def _type_check(said: Any) -> Check:
    names = [said] if isinstance(said, str) else said
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise NotEnforced("its type is none")
    fault = ("", f"must be {' or '.join(names)}")
    if len(names) == 1 and names[0] in _PYTHON_TYPES:
        return partial(_python_type, _PYTHON_TYPES[names[0]], fault)
    return partial(_type, [_TYPES[name] for name in names], fault)


def anything(value: Any, steps: Steps) -> Fault | None:
    return None


def nothing(value: Any, steps: Steps) -> Fault | None:
    return ("", "must not be there")


def _python_type(wanted: type, fault: Fault, value: Any, steps: Steps) -> Fault | None:
    return None if type(value) is wanted else fault


def _type(tests: list[Callable[[Any], bool]], fault: Fault, value: Any, steps: Steps) -> Fault | None:
    return None if any(test(value) for test in tests) else fault


def _enum(allowed: frozenset[Any], value: Any, steps: Steps) -> Fault | None:
    return None if frozen(value, steps) in allowed else ("", "must be one of the values that the schema names")


def _length(least: Any, most: Any, value: Any, steps: Steps) -> Fault | None:
    if type(value) is not str:
        return None
    if len(value) < least:
        return ("", f"must have {least} characters at least")
    return ("", f"must have {most} characters at most") if most is not None and len(value) > most else None


def _bound(is_kept: Callable[[Any, Any], bool], words: str, bound: Any, value: Any, steps: Steps) -> Fault | None:
    return None if not is_number(value) or is_kept(value, bound) else ("", f"must be {words} {bound}")


def _multiple(of: Any, value: Any, steps: Steps) -> Fault | None:
    if not is_number(value):
        return None
    if type(of) is int and type(value) is int:
        is_multiple = value % of == 0
    else:
        try:
            quotient = value / of
            is_multiple = abs(quotient - round(quotient)) < INEXACT
        except (OverflowError, ValueError):
            is_multiple = True
    return None if is_multiple else ("", f"must be a multiple of {of}")


def fits_pattern(pattern: Pattern, value: Any, steps: Steps) -> Fault | None:
    if type(value) is not str:
        return None
    steps.take(1 + len(value) // 100)
    return None if pattern.matches(value) else ("", "must match its pattern")


# Several at one place -----------------------------------------------------------------------------------------------


def referred(slot: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    return slot[0](value, steps)


def all_of(checks: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    for check in checks:
        fault = check(value, steps)
        if fault is not None:
            return fault
    return None


def any_of(checks: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(len(checks))
    fault: Fault | None = None
    for check in checks:
        fault = check(value, steps)
        if fault is None:
            return None
    return fault if len(checks) == 1 else ("", "must be one of the forms that the schema names")


def one_of(checks: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(len(checks))
    fits = sum(check(value, steps) is None for check in checks)
    return None if fits == 1 else ("", f"must be exactly one of the forms that the schema names, and is {fits}")


def none_of(check: Check, value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    return ("", "must not have the form that the schema rules out") if check(value, steps) is None else None


def if_then(condition: Check, then: Check, otherwise: Check, value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    return (then if condition(value, steps) is None else otherwise)(value, steps)
