"""Makes the checks of a schema, and a checker only where their cost can be bounded."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

from apps.core.json_schema.bounds import MOST_STEPS, Check, Exhausted, Fault, NotEnforced, Steps
from apps.core.json_schema.containers import OF_ARRAYS, OF_OBJECTS, ArrayCheck, ObjectCheck
from apps.core.json_schema.patterns import MOST_PATTERN_WORK, Pattern, work_of
from apps.core.json_schema.values import mapping_of, number_of, texts_of
from apps.core.json_schema.words import (
    all_of,
    any_of,
    anything,
    fits_pattern,
    if_then,
    none_of,
    nothing,
    one_of,
    plain_checks,
    referred,
)

MOST_SCHEMAS = 5_000
HEAVIEST = 200
"""How many schemas may apply to one and the same place of a value."""
DEEPEST = 64
"""How deep a schema may be nested, as it is written."""
LONGEST_SECONDS = 10.0
"""How much time of the processor patterns may take. It is a net: what is counted ends far earlier on any machine."""

DRAFTS = ("draft-06/", "draft-07/", "draft/2019-09/", "draft/2020-12/")
_UNKNOWN = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")


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


class _Compiler:
    """Makes the checks of one document; what is referred to is made once, when it is first met."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._seen = 0
        self._referred: dict[str, list[Check]] = {}
        self._weights: dict[int, int] = {}
        self._waiting: list[str] = []
        self._depth = 0
        self._patterns: dict[str, Pattern] = {}
        said = root.get("$schema") if isinstance(root, Mapping) else None
        dialect = said if isinstance(said, str) else DRAFTS[-1]
        if not any(draft in dialect for draft in DRAFTS):
            raise NotEnforced("it is written in a dialect that is not known here")
        self._refs_stand_alone = any(draft in dialect for draft in DRAFTS[:2])

    def compiled(self) -> Check:
        """The check of the whole."""
        check = self._make(self._root)
        while self._waiting:
            reference = self._waiting.pop()
            self._referred[reference].append(self._make(self._found(reference)))
        self._compile_patterns()
        if self._weigh(self._root, ()) > HEAVIEST:
            raise NotEnforced("it demands too much of one place")
        return check

    def _make(self, schema: Any) -> Check:
        self._seen += 1
        if self._seen > MOST_SCHEMAS:
            raise NotEnforced(f"it has more than {MOST_SCHEMAS} parts")
        if self._depth >= DEEPEST:
            raise NotEnforced(f"it is nested more than {DEEPEST} deep")
        if isinstance(schema, bool):
            return anything if schema else nothing
        if not isinstance(schema, dict):
            raise NotEnforced("a part of it is no schema")
        unknown = next((word for word in _UNKNOWN if word in schema), "")
        if unknown or ("$id" in schema and schema is not self._root):
            raise NotEnforced(f"it uses {unknown or '$id within it'}")
        if "$ref" in schema and self._refs_stand_alone:
            return self._refer(schema["$ref"])
        if self._weigh(schema, ()) > HEAVIEST:
            raise NotEnforced("it demands too much of one place")
        self._depth += 1
        checks = [check for check in self._checks_of(schema) if check is not anything]
        self._depth -= 1
        return anything if not checks else checks[0] if len(checks) == 1 else partial(all_of, checks)

    def _checks_of(self, schema: dict[str, Any]) -> Iterator[Check]:
        yield from plain_checks(schema)
        if "$ref" in schema:
            yield self._refer(schema["$ref"])
        if "pattern" in schema:
            yield partial(fits_pattern, self._pattern(schema["pattern"]))
        yield from self._combined(schema)
        if any(word in schema for word in OF_OBJECTS):
            yield self._object(schema)
        if any(word in schema for word in OF_ARRAYS):
            yield self._array(schema)

    def _combined(self, schema: dict[str, Any]) -> Iterator[Check]:
        if "allOf" in schema:
            yield partial(all_of, self._several(schema["allOf"]))
        if "anyOf" in schema:
            yield partial(any_of, self._several(schema["anyOf"]))
        if "oneOf" in schema:
            yield partial(one_of, self._several(schema["oneOf"]))
        if "not" in schema:
            yield partial(none_of, self._make(schema["not"]))
        if "if" in schema:
            branches = self._make(schema.get("then", True)), self._make(schema.get("else", True))
            yield partial(if_then, self._make(schema["if"]), *branches)

    def _object(self, schema: dict[str, Any]) -> Check:
        dependencies = mapping_of(schema, "dependencies")
        needs = {**mapping_of(schema, "dependentRequired"),
                 **{name: each for name, each in dependencies.items() if isinstance(each, list)}}  # fmt: skip
        nested = {**mapping_of(schema, "dependentSchemas"),
                  **{name: each for name, each in dependencies.items() if not isinstance(each, list)}}  # fmt: skip
        others = schema.get("additionalProperties", True)
        return ObjectCheck(
            required=texts_of(schema.get("required", [])),
            properties={name: self._make(each) for name, each in mapping_of(schema, "properties").items()},
            patterns=[(self._pattern(each), self._make(inner))
                      for each, inner in mapping_of(schema, "patternProperties").items()],
            others=self._make(others),
            names=self._make(schema.get("propertyNames", True)),
            needs={name: texts_of(each) for name, each in needs.items()},
            nested={name: self._make(each) for name, each in nested.items()},
            least=number_of(schema, "minProperties", 0),
            most=number_of(schema, "maxProperties", None),
        ).check  # fmt: skip

    def _array(self, schema: dict[str, Any]) -> Check:
        items, first, rest = schema.get("items", True), schema.get("prefixItems", []), True
        if isinstance(items, list):  # before 2020-12
            first, rest = items, schema.get("additionalItems", True)
        else:
            rest = items
        return ArrayCheck(
            first=self._several(first, may_be_none=True),
            rest=self._make(rest),
            contained=self._make(schema["contains"]) if "contains" in schema else None,
            contained_least=number_of(schema, "minContains", 1),
            contained_most=number_of(schema, "maxContains", None),
            least=number_of(schema, "minItems", 0),
            most=number_of(schema, "maxItems", None),
            are_unique=schema.get("uniqueItems") is True,
        ).check

    def _several(self, schemas: Any, *, may_be_none: bool = False) -> list[Check]:
        if not isinstance(schemas, list) or not (schemas or may_be_none):
            raise NotEnforced("a part of it is no list of schemas")
        return [self._make(each) for each in schemas]

    def _refer(self, reference: Any) -> Check:
        """The check of another part, which is made when the parts around it are: parts may hold themselves."""
        if not isinstance(reference, str):
            raise NotEnforced("a reference of it is no text")
        if reference not in self._referred:
            self._found(reference)
            self._referred[reference] = []
            self._waiting.append(reference)
        return partial(referred, self._referred[reference])

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

    def _pattern(self, pattern: Any) -> Pattern:
        """A regular expression in an engine whose time is linear in the text."""
        if not isinstance(pattern, str):
            raise NotEnforced("a pattern of it is no text")
        return self._patterns.setdefault(pattern, Pattern(pattern))

    def _compile_patterns(self) -> None:
        until = time.thread_time() + LONGEST_SECONDS
        if sum(map(work_of, self._patterns)) > MOST_PATTERN_WORK:
            raise NotEnforced("its patterns are too costly")
        for pattern in self._patterns.values():
            if time.thread_time() > until:
                raise NotEnforced("its patterns take too long")
            pattern.compile()

    def _weigh(self, schema: Any, above: tuple[int, ...]) -> int:
        """How many schemas apply where this one does."""
        if not isinstance(schema, dict):
            return 1
        if len(above) > HEAVIEST:
            raise NotEnforced("it demands too much of one place")
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
