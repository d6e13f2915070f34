"""The checks of objects and arrays."""

from typing import Any

from apps.core.json_schema.bounds import Check, Fault, Steps
from apps.core.json_schema.patterns import Pattern
from apps.core.json_schema.values import frozen, shown
from apps.core.json_schema.words import anything

OF_OBJECTS = (
    "properties", "patternProperties", "additionalProperties", "required", "propertyNames", "minProperties",
    "maxProperties", "dependentRequired", "dependentSchemas", "dependencies",
)  # fmt: skip
OF_ARRAYS = (
    "items", "prefixItems", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems",
)  # fmt: skip


class ObjectCheck:
    """What is demanded of an object."""

    __slots__ = ("least", "most", "names", "needs", "nested", "others", "patterns", "properties", "required")

    def __init__(
        self, *, required: list[str], properties: dict[str, Check],
        patterns: list[tuple[Pattern, Check]], others: Check, names: Check,
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
                return (shown(name), "is missing")
        for name, inner in value.items():
            fault = self._check_property(name, inner, steps)
            if fault is not None:
                return (f"{shown(name)}.{fault[0]}" if fault[0] else shown(name), fault[1])
        return self._check_whole(value, steps)

    def _check_property(self, name: str, inner: Any, steps: Steps) -> Fault | None:
        known = self.properties.get(name)
        if known is not None and (fault := known(inner, steps)) is not None:
            return fault
        if not self.patterns:
            return self.others(inner, steps) if known is None else None
        steps.take(len(self.patterns) * (1 + len(name) // 100))
        is_known = known is not None
        for pattern, check in self.patterns:
            if pattern.matches(name):
                is_known = True
                if (fault := check(inner, steps)) is not None:
                    return fault
        return None if is_known else self.others(inner, steps)

    def _check_whole(self, value: dict[str, Any], steps: Steps) -> Fault | None:
        if len(value) < self.least:
            return ("", f"must have {self.least} properties at least")
        if self.most is not None and len(value) > self.most:
            return ("", f"must have {self.most} properties at most")
        if self.names is not anything:
            for name in value:
                if (fault := self.names(name, steps)) is not None:
                    return (shown(name), f"as a name {fault[1]}")
        for name, needed in self.needs.items():
            steps.take(1 + len(needed))
            if name in value and not all(other in value for other in needed):
                return (shown(name), "needs other properties beside it")
        for name, check in self.nested.items():
            steps.take(1)
            if name in value and (fault := check(value, steps)) is not None:
                return fault
        return None


class ArrayCheck:
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
        if self.are_unique and len({frozen(inner, steps) for inner in value}) < len(value):
            return ("", "must have no item twice")
        return None
