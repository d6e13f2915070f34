"""Checkers of JSON schemas: they say what the reference says, and no schema makes one costly."""

import random
import time
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry

from apps.core.json_schema import Checker, Exhausted, NotEnforced, compiling
from apps.core.json_schema.patterns import MOST_PATTERN_WORK, work_of

NAMES = ("a", "b", "ab", "c")
SECONDS = 1.0


def some_value(chance: random.Random, depth: int = 3) -> Any:
    """A value of any type."""
    scalars = [None, True, False, 0, 1, 1.0, 2, -3, 2.5, "", "a", "ab", "abc"]
    kind = chance.randrange(4) if depth else 0
    if kind < 2:
        return chance.choice(scalars)
    if kind == 2:
        return [some_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(NAMES): some_value(chance, depth - 1) for _ in range(chance.randrange(4))}


def some_schema(chance: random.Random, depth: int = 3) -> Any:
    """A schema of a few words."""
    if not depth or chance.random() < 0.1:
        return chance.choice([True, False, {}, {"type": "string"}, {"type": ["integer", "null"]}])
    words = chance.sample(sorted(WORDS), chance.randrange(1, 4))
    return {word: WORDS[word](chance, depth - 1) for word in words}


def _named(chance: random.Random, depth: int) -> dict[str, Any]:
    return {name: some_schema(chance, depth) for name in chance.sample(NAMES, 2)}


def _several(chance: random.Random, depth: int) -> list[Any]:
    return [some_schema(chance, depth) for _ in range(chance.randrange(1, 4))]


WORDS: dict[str, Any] = {
    "type": lambda c, d: c.choice(["string", "object", "array", "boolean", "null", "number", "integer"]),
    "enum": lambda c, d: [some_value(c, 1) for _ in range(3)],
    "const": lambda c, d: some_value(c, 1),
    "minLength": lambda c, d: c.randrange(3), "maxLength": lambda c, d: c.randrange(3),
    "minimum": lambda c, d: c.randrange(-2, 3), "maximum": lambda c, d: c.randrange(-2, 3),
    "exclusiveMinimum": lambda c, d: c.randrange(-2, 3), "exclusiveMaximum": lambda c, d: c.randrange(-2, 3),
    "multipleOf": lambda c, d: c.choice([1, 2, 0.5]),
    "pattern": lambda c, d: c.choice(["^a", "b$", "a.?b"]),
    "properties": _named, "patternProperties": lambda c, d: {c.choice(["^a", "b"]): some_schema(c, d)},
    "additionalProperties": some_schema, "required": lambda c, d: c.sample(NAMES, 2), "propertyNames": some_schema,
    "minProperties": lambda c, d: c.randrange(3), "maxProperties": lambda c, d: c.randrange(3),
    "dependentRequired": lambda c, d: {c.choice(NAMES): c.sample(NAMES, 1)}, "dependentSchemas": _named,
    "items": some_schema, "prefixItems": _several, "contains": some_schema,
    "minContains": lambda c, d: c.randrange(3), "maxContains": lambda c, d: c.randrange(3),
    "minItems": lambda c, d: c.randrange(3), "maxItems": lambda c, d: c.randrange(3),
    "uniqueItems": lambda c, d: c.random() < 0.8,
    "allOf": _several, "anyOf": _several, "oneOf": _several, "not": some_schema,
    "if": some_schema, "then": some_schema, "else": some_schema,
    "$ref": lambda c, d: c.choice(["#/$defs/text", "#/$defs/tree", "#/$defs/odd~1name"]),
}  # fmt: skip
DEFINITIONS = {
    "text": {"type": "string"},
    "tree": {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}, "b": {"type": "integer"}}},
    "odd/name": {"type": ["array", "string"]},
}


@pytest.mark.parametrize("seed", range(20))
def test_it_says_what_the_reference_says(seed: int) -> None:
    chance = random.Random(seed)
    told = 0
    for _ in range(200):
        schema = some_schema(chance)
        if isinstance(schema, dict):
            schema["$defs"] = DEFINITIONS
        ours, reference = Checker(schema), Draft202012Validator(schema, registry=Registry())
        for _ in range(10):
            value = some_value(chance)
            assert (ours.fault_of(value) is None) == reference.is_valid(value), (schema, value)
            told += 1
    assert told == 2000


@pytest.mark.parametrize("value", [[1, "a"], ["a", 1], [1, "a", True], [], 5])
@pytest.mark.parametrize("more", [{}, {"additionalItems": False}, {"additionalItems": {"type": "boolean"}}])
def test_older_drafts_mean_what_they_meant(value: Any, more: dict[str, Any]) -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}, {"type": "string"}],
        "dependencies": {"a": ["b"], "b": {"required": ["c"]}}, **more,
    }  # fmt: skip
    beside = {"$schema": schema["$schema"], "definitions": {"x": {"type": "array"}}, "$ref": "#/definitions/x",
              "maxItems": 0}  # fmt: skip

    for written in (schema, beside):
        for each in (value, {"a": 1}, {"b": 1}, {"a": 1, "b": 1, "c": 1}):
            assert (Checker(written).fault_of(each) is None) == Draft7Validator(written).is_valid(each), (written, each)


def test_a_fault_names_its_place_and_what_is_wanted_and_repeats_no_value() -> None:
    schema = {
        "type": "object", "additionalProperties": False, "required": ["query"],
        "properties": {"query": {"type": "string", "maxLength": 20}, "tags": {"items": {"enum": ["x", "y"]}}},
    }  # fmt: skip
    checker = Checker(schema)

    assert checker.fault_of({"query": "find", "tags": ["x"]}) is None
    assert checker.fault_of({}) == ("query", "is missing")
    assert checker.fault_of({"query": 5}) == ("query", "must be string")
    assert checker.fault_of({"query": "find", "other": 1}) == ("other", "must not be there")
    assert checker.fault_of({"query": "canary" * 10}) == ("query", "must have 20 characters at most")
    assert checker.fault_of({"query": "", "tags": ["x", "canary"]}) == (
        "tags.1", "must be one of the values that the schema names",
    )  # fmt: skip


# Schemas that would harm ------------------------------------------------------------------------------------------


def doubling(levels: int) -> dict[str, Any]:
    """A schema that doubles with each level."""
    parts = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"l{levels}": {"type": "string"}}, "$ref": "#/$defs/l0"}


def chain(length: int) -> dict[str, Any]:
    """A schema whose parts refer to each other one after the other."""
    parts = {f"l{n}": {"$ref": f"#/$defs/l{n + 1}"} for n in range(length)}
    return {"$defs": {**parts, f"l{length}": {"type": "string"}}, "$ref": "#/$defs/l0"}


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(doubling(30), id="doubling"),
        pytest.param(chain(3000), id="chain"),
        pytest.param({"$ref": "#"}, id="of-itself"),
        pytest.param({"allOf": [{"anyOf": [{"$ref": "#"}]}]}, id="round-about"),
        pytest.param({"properties": {f"p{n}": {"items": {}} for n in range(6000)}}, id="many"),
        pytest.param({"$ref": "http://127.0.0.1:9/schema"}, id="remote"),
        pytest.param({"$ref": "file:///etc/passwd"}, id="file"),
        pytest.param({"$ref": "#/$defs/none"}, id="missing"),
        pytest.param({"pattern": "(\\w{1,100}){1,100}"}, id="large-pattern"),
        pytest.param({"pattern": "(?=a)b"}, id="pattern-that-looks-ahead"),
        pytest.param({"items": {"pattern": "a" * 2000}}, id="long-pattern"),
        pytest.param({"allOf": [{"pattern": f"\\w{{1,{n}}}"} for n in range(150, 190)]}, id="many-patterns"),
        pytest.param({"unevaluatedProperties": False}, id="unevaluated"),
        pytest.param({"$schema": "http://example.com/mine"}, id="dialect"),
        pytest.param({"properties": {"a": {"$id": "x"}}}, id="inner-id"),
        pytest.param({"type": "text"}, id="no-type"),
        pytest.param({"minLength": "3"}, id="no-number"),
        pytest.param({"required": True}, id="no-list"),
        pytest.param({"properties": {"a": 3}}, id="no-schema"),
        pytest.param({"multipleOf": 0}, id="of-nothing"),
    ],
)
def test_what_cannot_be_bounded_or_understood_is_not_enforced(schema: dict[str, Any]) -> None:
    began = time.process_time()

    with pytest.raises(NotEnforced):
        Checker(schema)

    assert time.process_time() - began < SECONDS


class Slow:
    """The clocks of a machine on which each look at them takes long."""

    now = 0.0

    def thread_time(self) -> float:
        self.now += 0.2
        return self.now

    monotonic = time = perf_counter = process_time = thread_time


def test_a_slow_machine_judges_a_schema_like_a_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"properties": {f"p{n}": {"pattern": f"^\\w{{1,{n}}}$"} for n in range(1, 40)}}
    many = {"properties": {f"p{n}": {"pattern": f"^\\w{{1,{n}}}$"} for n in range(1, 60)}}
    monkeypatch.setattr(compiling, "time", Slow())

    assert Checker(few).fault_of({"p3": "four"}) == ("p3", "must match its pattern")
    with pytest.raises(NotEnforced, match="too costly"):
        Checker(many)


@pytest.mark.parametrize(
    "pattern",
    [
        "(\\w{100}){100}", "((a{100}){100}){100}", "\\w{50}{50}", "[]\\w]{2000}", "[^]\\w]{2000}", "[(?<]\\w{2000}>",
        "[a[b]\\w]{2000}", "(?i)\\w{400}", "(?i:\\w){400}", "\\p{L}{2000}", "\\pL{2000}", "(?:x|\\w){2000}",
        "(?P<n>\\w){2000}", "\\w{ 2000 }", "\\w{1, 2000}", "\\w{2000,}", "(\\w" * 3 + "){20}" * 3, "(\\w{2000}",
    ],
)  # fmt: skip
def test_what_a_pattern_costs_is_not_hidden_by_how_it_is_written(pattern: str) -> None:
    assert work_of(pattern) > MOST_PATTERN_WORK


def test_a_pattern_counts_once_however_often_it_is_used() -> None:
    often = {"properties": {f"p{n}": {"pattern": "^\\w{1,200}$"} for n in range(100)}}

    assert Checker(often).fault_of({"p7": "?"}) == ("p7", "must match its pattern")


@pytest.mark.parametrize("length", [100, 1000])
def test_the_order_of_parts_and_the_place_of_the_call_decide_nothing(length: int) -> None:
    """PostgreSQL gives the names of an object in an order of its own."""
    parts = {f"l{n}": {"properties": {"x": {"$ref": f"#/$defs/l{n + 1}"}}} for n in range(length)}
    ends = {**parts, f"l{length}": {"type": "string"}}
    beside = {f"l{n}": {"$ref": f"#/$defs/l{n + 1}"} for n in range(length)} | {f"l{length}": {"type": "string"}}
    entries = [("a", {"$ref": "#/$defs/l0"}), ("b", {"$ref": f"#/$defs/l{length - 20}"})]

    def verdict(definitions: dict[str, Any], names: list[Any], deep: int = 0) -> str:
        if deep:
            return verdict(definitions, names, deep - 1)
        try:
            Checker({"$defs": definitions, "properties": dict(names)})
        except NotEnforced as why:
            return str(why)
        return "enforced"

    for definitions in (ends, beside):
        verdicts = [verdict(definitions, names, deep) for names in (entries, entries[::-1]) for deep in (0, 100)]
        assert len(set(verdicts)) == 1, verdicts


def test_a_schema_may_be_nested_to_a_certain_depth() -> None:
    def nested(levels: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        for _ in range(levels - 1):
            schema = {"properties": {"x": schema}}
        return schema

    Checker(nested(64))
    with pytest.raises(NotEnforced, match="nested"):
        Checker(nested(65))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"pattern": "^(a+)+$"}, "a" * 200_000 + "b", id="pattern"),
        pytest.param({"uniqueItems": True}, [[n % 19_999] for n in range(20_000)], id="unique"),
        pytest.param({"items": {"enum": [{"n": n} for n in range(5000)]}}, [{"n": -n} for n in range(1, 20_000)],
                     id="enum"),
        pytest.param({"$ref": "#/$defs/t", "$defs": {"t": {"anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 0},
            {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 1, "minItems": 2},
        ]}}}, [[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]], id="branching"),
    ],
)  # fmt: skip
def test_no_value_is_checked_for_long(schema: dict[str, Any], value: Any) -> None:
    checker = Checker(schema)
    began = time.process_time()

    assert checker.fault_of(value) is not None

    assert time.process_time() - began < SECONDS


def test_a_check_that_takes_too_many_steps_ends() -> None:
    tree = {"$defs": {"t": {"oneOf": [{"items": {"$ref": "#/$defs/t"}}] * 3}}, "$ref": "#/$defs/t"}
    value: Any = []
    for _ in range(25):
        value = [value]
    began = time.process_time()

    with pytest.raises(Exhausted):
        Checker(tree).fault_of(value)

    assert time.process_time() - began < 5 * SECONDS


def test_a_value_nested_beyond_the_stack_ends_too() -> None:
    value: Any = []
    for _ in range(5000):
        value = [value]

    with pytest.raises(Exhausted):
        Checker({"items": {"$ref": "#"}}).fault_of(value)
