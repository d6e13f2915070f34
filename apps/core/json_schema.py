"""JSON schemas as functions: compiled once, then cheap to ask, and bounded whoever wrote them.

A schema comes from a server that nobody here knows. So a checker is made only where its cost can be bounded: what a
schema may demand at one place of a value is weighed before, patterns run in an engine without backtracking, nothing is
fetched, and a check that takes too many steps ends. Annotations, `format` among them, demand nothing.
"""

import operator
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

from pydantic_core import SchemaError, SchemaValidator, core_schema

MOST_STEPS = 1_000_000
"""How many steps one check may take; a step is well below a microsecond."""
MOST_SCHEMAS = 5_000
HEAVIEST = 200
"""How many schemas may apply to one and the same place of a value."""
LONGEST_PATTERN = 1_000
PATTERN_SECONDS = 0.3
LONGEST_SHOWN = 60
INEXACT = 1e-9
"""How far a fraction may be from a multiple: binary fractions are rarely exact."""

DRAFTS = ("draft-06/", "draft-07/", "draft/2019-09/", "draft/2020-12/")
_UNKNOWN = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")


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


class Checker:
    """One schema, ready to be asked."""

    __slots__ = ("_check",)

    def __init__(self, schema: Any) -> None:
        """Compile a schema; raises NotEnforced."""
        try:
            self._check = _Compiler(schema).compiled()
        except RecursionError as error:
            raise NotEnforced("its parts refer to each other in too long a chain") from error

    def fault_of(self, value: Any, most_steps: int = MOST_STEPS) -> Fault | None:
        """What is wrong with a value as JSON has it; None where nothing is. Raises Exhausted."""
        try:
            return self._check(value, Steps(most_steps))
        except RecursionError as error:
            raise Exhausted from error


# Compiling ---------------------------------------------------------------------------------------------------------


class _Compiler:
    """Makes the checks of one document; what is referred to is made once, when it is first met."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._seen = 0
        self._referred: dict[str, list[Check]] = {}
        self._weights: dict[int, int] = {}
        self._until = time.monotonic() + PATTERN_SECONDS
        said = root.get("$schema") if isinstance(root, Mapping) else None
        dialect = said if isinstance(said, str) else DRAFTS[-1]
        if not any(draft in dialect for draft in DRAFTS):
            raise NotEnforced("it is written in a dialect that is not known here")
        self._refs_stand_alone = any(draft in dialect for draft in DRAFTS[:2])

    def compiled(self) -> Check:
        """The check of the whole."""
        check = self._make(self._root)
        if self._weigh(self._root, ()) > HEAVIEST:
            raise NotEnforced("it demands too much of one place")
        return check

    def _make(self, schema: Any) -> Check:
        self._seen += 1
        if self._seen > MOST_SCHEMAS:
            raise NotEnforced(f"it has more than {MOST_SCHEMAS} parts")
        if isinstance(schema, bool):
            return _anything if schema else _nothing
        if not isinstance(schema, dict):
            raise NotEnforced("a part of it is no schema")
        unknown = next((word for word in _UNKNOWN if word in schema), "")
        if unknown or ("$id" in schema and schema is not self._root):
            raise NotEnforced(f"it uses {unknown or '$id within it'}")
        if "$ref" in schema and self._refs_stand_alone:
            return self._refer(schema["$ref"])
        if self._weigh(schema, ()) > HEAVIEST:
            raise NotEnforced("it demands too much of one place")
        checks = [check for check in self._checks_of(schema) if check is not _anything]
        return _anything if not checks else checks[0] if len(checks) == 1 else partial(_all, checks)

    def _checks_of(self, schema: dict[str, Any]) -> Iterator[Check]:
        yield from _plain_checks(schema)
        if "$ref" in schema:
            yield self._refer(schema["$ref"])
        if "pattern" in schema:
            yield partial(_pattern, self._pattern(schema["pattern"]))
        yield from self._combined(schema)
        if any(word in schema for word in _OF_OBJECTS):
            yield self._object(schema)
        if any(word in schema for word in _OF_ARRAYS):
            yield self._array(schema)

    def _combined(self, schema: dict[str, Any]) -> Iterator[Check]:
        if "allOf" in schema:
            yield partial(_all, self._several(schema["allOf"]))
        if "anyOf" in schema:
            yield partial(_any, self._several(schema["anyOf"]))
        if "oneOf" in schema:
            yield partial(_one, self._several(schema["oneOf"]))
        if "not" in schema:
            yield partial(_not, self._make(schema["not"]))
        if "if" in schema:
            branches = self._make(schema.get("then", True)), self._make(schema.get("else", True))
            yield partial(_if, self._make(schema["if"]), *branches)

    def _object(self, schema: dict[str, Any]) -> Check:
        dependencies = _mapping(schema, "dependencies")
        needs = {**_mapping(schema, "dependentRequired"),
                 **{name: each for name, each in dependencies.items() if isinstance(each, list)}}  # fmt: skip
        nested = {**_mapping(schema, "dependentSchemas"),
                  **{name: each for name, each in dependencies.items() if not isinstance(each, list)}}  # fmt: skip
        others = schema.get("additionalProperties", True)
        return _Object(
            required=_texts(schema.get("required", [])),
            properties={name: self._make(each) for name, each in _mapping(schema, "properties").items()},
            patterns=[(self._pattern(each), self._make(inner))
                      for each, inner in _mapping(schema, "patternProperties").items()],
            others=self._make(others),
            names=self._make(schema.get("propertyNames", True)),
            needs={name: _texts(each) for name, each in needs.items()},
            nested={name: self._make(each) for name, each in nested.items()},
            least=_number(schema, "minProperties", 0),
            most=_number(schema, "maxProperties", None),
        ).check  # fmt: skip

    def _array(self, schema: dict[str, Any]) -> Check:
        items, first, rest = schema.get("items", True), schema.get("prefixItems", []), True
        if isinstance(items, list):  # before 2020-12
            first, rest = items, schema.get("additionalItems", True)
        else:
            rest = items
        return _Array(
            first=self._several(first, may_be_none=True),
            rest=self._make(rest),
            contained=self._make(schema["contains"]) if "contains" in schema else None,
            contained_least=_number(schema, "minContains", 1),
            contained_most=_number(schema, "maxContains", None),
            least=_number(schema, "minItems", 0),
            most=_number(schema, "maxItems", None),
            are_unique=schema.get("uniqueItems") is True,
        ).check

    def _several(self, schemas: Any, *, may_be_none: bool = False) -> list[Check]:
        if not isinstance(schemas, list) or not (schemas or may_be_none):
            raise NotEnforced("a part of it is no list of schemas")
        return [self._make(each) for each in schemas]

    def _refer(self, reference: Any) -> Check:
        """The check of another part; it may be under way, for parts may hold themselves."""
        if not isinstance(reference, str):
            raise NotEnforced("a reference of it is no text")
        if reference not in self._referred:
            slot = self._referred[reference] = []
            slot.append(self._make(self._found(reference)))
        return partial(_referred, self._referred[reference])

    def _found(self, reference: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            raise NotEnforced("it refers to something that is not in it")
        found = self._root
        for step in reference[2:].split("/") if len(reference) > 1 else ():
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise NotEnforced("it refers to something that is not in it")
        return found

    def _pattern(self, pattern: Any) -> Callable[[str], bool]:
        """A regular expression in an engine whose time is linear in the text."""
        if not isinstance(pattern, str) or len(pattern) > LONGEST_PATTERN:
            raise NotEnforced("a pattern of it is too long")
        if time.monotonic() > self._until:
            raise NotEnforced("its patterns are too costly")
        try:
            return SchemaValidator(core_schema.str_schema(pattern=pattern, strict=True)).isinstance_python
        except SchemaError as error:
            raise NotEnforced("a pattern of it cannot be checked in bounded time") from error

    def _weigh(self, schema: Any, above: tuple[int, ...]) -> int:
        """How many schemas apply where this one does."""
        if not isinstance(schema, dict):
            return 1
        mark = id(schema)
        if mark in above:
            raise NotEnforced("a part of it applies to itself")
        if mark not in self._weights:
            inner = (*above, mark)
            self._weights[mark] = 1 + sum(self._weigh(each, inner) for each in self._in_place(schema))
        return min(self._weights[mark], HEAVIEST + 1)

    def _in_place(self, schema: dict[str, Any]) -> Iterator[Any]:
        """The schemas that apply to the same value."""
        if isinstance(schema.get("$ref"), str):
            yield self._found(schema["$ref"])
        for word in ("allOf", "anyOf", "oneOf"):
            if isinstance(schema.get(word), list):
                yield from schema[word]
        for word in ("not", "if", "then", "else"):
            if word in schema:
                yield schema[word]
        for word in ("dependentSchemas", "dependencies"):
            if isinstance(schema.get(word), dict):
                yield from schema[word].values()


# Plain words -------------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: type(value) is str, "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list, "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None, "number": _is_number, "integer": _is_integer,
}  # fmt: skip
_PYTHON_TYPES: Mapping[str, type] = {"string": str, "object": dict, "array": list, "boolean": bool}


_BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"), "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "more than"), "exclusiveMaximum": (operator.lt, "less than"),
}  # fmt: skip


def _plain_checks(schema: dict[str, Any]) -> Iterator[Check]:
    if "type" in schema:
        yield _type_check(schema["type"])
    if "enum" in schema:
        if not isinstance(schema["enum"], list):
            raise NotEnforced("its enum is no list")
        yield partial(_enum, frozenset(_frozen(each, Steps()) for each in schema["enum"]))
    if "const" in schema:
        yield partial(_enum, frozenset({_frozen(schema["const"], Steps())}))
    if "minLength" in schema or "maxLength" in schema:
        yield partial(_length, _number(schema, "minLength", 0), _number(schema, "maxLength", None))
    for word, bound in _BOUNDS.items():
        if word in schema:
            yield partial(_bound, *bound, _number(schema, word, None))
    if "multipleOf" in schema:
        of = _number(schema, "multipleOf", None)
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


def _anything(value: Any, steps: Steps) -> Fault | None:
    return None


def _nothing(value: Any, steps: Steps) -> Fault | None:
    return ("", "must not be there")


def _python_type(wanted: type, fault: Fault, value: Any, steps: Steps) -> Fault | None:
    return None if type(value) is wanted else fault


def _type(tests: list[Callable[[Any], bool]], fault: Fault, value: Any, steps: Steps) -> Fault | None:
    return None if any(test(value) for test in tests) else fault


def _enum(allowed: frozenset[Any], value: Any, steps: Steps) -> Fault | None:
    return None if _frozen(value, steps) in allowed else ("", "must be one of the values that the schema names")


def _length(least: Any, most: Any, value: Any, steps: Steps) -> Fault | None:
    if type(value) is not str:
        return None
    if len(value) < least:
        return ("", f"must have {least} characters at least")
    return ("", f"must have {most} characters at most") if most is not None and len(value) > most else None


def _bound(is_kept: Callable[[Any, Any], bool], words: str, bound: Any, value: Any, steps: Steps) -> Fault | None:
    return None if not _is_number(value) or is_kept(value, bound) else ("", f"must be {words} {bound}")


def _multiple(of: Any, value: Any, steps: Steps) -> Fault | None:
    if not _is_number(value):
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


def _pattern(matches: Callable[[str], bool], value: Any, steps: Steps) -> Fault | None:
    if type(value) is not str:
        return None
    steps.take(1 + len(value) // 100)
    return None if matches(value) else ("", "must match its pattern")


# Several at one place ----------------------------------------------------------------------------------------------


def _referred(slot: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    return slot[0](value, steps)


def _all(checks: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    for check in checks:
        fault = check(value, steps)
        if fault is not None:
            return fault
    return None


def _any(checks: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(len(checks))
    fault: Fault | None = None
    for check in checks:
        fault = check(value, steps)
        if fault is None:
            return None
    return fault if len(checks) == 1 else ("", "must be one of the forms that the schema names")


def _one(checks: list[Check], value: Any, steps: Steps) -> Fault | None:
    steps.take(len(checks))
    fits = sum(check(value, steps) is None for check in checks)
    return None if fits == 1 else ("", f"must be exactly one of the forms that the schema names, and is {fits}")


def _not(check: Check, value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    return ("", "must not have the form that the schema rules out") if check(value, steps) is None else None


def _if(condition: Check, then: Check, otherwise: Check, value: Any, steps: Steps) -> Fault | None:
    steps.take(1)
    return (then if condition(value, steps) is None else otherwise)(value, steps)


# Objects and arrays ------------------------------------------------------------------------------------------------

_OF_OBJECTS = (
    "properties", "patternProperties", "additionalProperties", "required", "propertyNames", "minProperties",
    "maxProperties", "dependentRequired", "dependentSchemas", "dependencies",
)  # fmt: skip
_OF_ARRAYS = (
    "items", "prefixItems", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip


class _Object:
    """What is demanded of an object."""

    __slots__ = ("least", "most", "names", "needs", "nested", "others", "patterns", "properties", "required")

    def __init__(
        self, *, required: list[str], properties: dict[str, Check],
        patterns: list[tuple[Callable[[str], bool], Check]], others: Check, names: Check,
        needs: dict[str, list[str]], nested: dict[str, Check], least: Any, most: Any,
    ) -> None:  # fmt: skip
        self.required, self.properties, self.patterns, self.others = required, properties, patterns, others
        self.names, self.needs, self.nested, self.least, self.most = names, needs, nested, least, most

    def check(self, value: Any, steps: Steps) -> Fault | None:
        """Whether it is kept; what is no object is none of its business."""
        if type(value) is not dict:
            return None
        steps.take(1 + len(value) + len(self.required))
        for name in self.required:
            if name not in value:
                return (_shown(name), "is missing")
        for name, inner in value.items():
            fault = self._check_property(name, inner, steps)
            if fault is not None:
                return (f"{_shown(name)}.{fault[0]}" if fault[0] else _shown(name), fault[1])
        return self._check_whole(value, steps)

    def _check_property(self, name: str, inner: Any, steps: Steps) -> Fault | None:
        known = self.properties.get(name)
        if known is not None and (fault := known(inner, steps)) is not None:
            return fault
        if not self.patterns:
            return self.others(inner, steps) if known is None else None
        steps.take(len(self.patterns) * (1 + len(name) // 100))
        is_known = known is not None
        for matches, check in self.patterns:
            if matches(name):
                is_known = True
                if (fault := check(inner, steps)) is not None:
                    return fault
        return None if is_known else self.others(inner, steps)

    def _check_whole(self, value: dict[str, Any], steps: Steps) -> Fault | None:
        if len(value) < self.least:
            return ("", f"must have {self.least} properties at least")
        if self.most is not None and len(value) > self.most:
            return ("", f"must have {self.most} properties at most")
        if self.names is not _anything:
            for name in value:
                if (fault := self.names(name, steps)) is not None:
                    return (_shown(name), f"as a name {fault[1]}")
        for name, needed in self.needs.items():
            steps.take(1 + len(needed))
            if name in value and not all(other in value for other in needed):
                return (_shown(name), "needs other properties beside it")
        for name, check in self.nested.items():
            steps.take(1)
            if name in value and (fault := check(value, steps)) is not None:
                return fault
        return None


class _Array:
    """What is demanded of an array."""

    __slots__ = ("are_unique", "contained", "contained_least", "contained_most", "first", "least", "most", "rest")

    def __init__(
        self, *, first: list[Check], rest: Check, contained: Check | None, contained_least: Any, contained_most: Any,
        least: Any, most: Any, are_unique: bool,
    ) -> None:  # fmt: skip
        self.first, self.rest, self.contained = first, rest, contained
        self.contained_least, self.contained_most = contained_least, contained_most
        self.least, self.most, self.are_unique = least, most, are_unique

    def check(self, value: Any, steps: Steps) -> Fault | None:
        """Whether it is kept; what is no array is none of its business."""
        if type(value) is not list:
            return None
        steps.take(1 + len(value))
        if len(value) < self.least:
            return ("", f"must have {self.least} items at least")
        if self.most is not None and len(value) > self.most:
            return ("", f"must have {self.most} items at most")
        for number, inner in enumerate(value):
            fault = (self.first[number] if number < len(self.first) else self.rest)(inner, steps)
            if fault is not None:
                return (f"{number}.{fault[0]}" if fault[0] else str(number), fault[1])
        if self.contained is not None:
            found = sum(self.contained(inner, steps) is None for inner in value)
            if found < self.contained_least or (self.contained_most is not None and found > self.contained_most):
                return ("", "must have as many items of a certain form as the schema says")
        if self.are_unique and len({_frozen(inner, steps) for inner in value}) < len(value):
            return ("", "must have no item twice")
        return None


# Values ------------------------------------------------------------------------------------------------------------


def _frozen(value: Any, steps: Steps) -> Any:
    """A value that is equal and hashable: 1 equals 1.0 and not True, the order of names does not count."""
    if type(value) is bool:
        return ("bool", value)
    if type(value) is list:
        steps.take(1 + len(value))
        return ("list", *(_frozen(each, steps) for each in value))
    if type(value) is dict:
        steps.take(1 + len(value))
        return ("dict", frozenset((name, _frozen(each, steps)) for name, each in value.items()))
    return value


def _mapping(schema: dict[str, Any], word: str) -> dict[str, Any]:
    found = schema.get(word, {})
    if not isinstance(found, dict):
        raise NotEnforced(f"its {word} are no object")
    return found


def _texts(said: Any) -> list[str]:
    if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
        raise NotEnforced("a list of names in it is none")
    return said


def _number(schema: dict[str, Any], word: str, otherwise: Any) -> Any:
    found = schema.get(word, otherwise)
    if found is not otherwise and not _is_number(found):
        raise NotEnforced(f"its {word} is no number")
    return found


def _shown(name: str) -> str:
    return name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…"
