"""The operations of the OpenAPI document, and requests that fit them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

METHODS = ("get", "post", "put", "patch", "delete")
PARAMETER = re.compile(r"\{(\w+)\}")
TEXTS = {
    "uuid": "00000000-0000-7000-8000-000000000000",
    "email": "new@globex.example",
    "date-time": "2030-01-01T00:00:00Z",
    "uri": "https://example.com/mcp",
}
NAMED = {
    "slug": "new",
    "url": "https://example.com/mcp",
    "password": "correct horse battery staple",
    "new_password": "another horse battery staple",
    "role": "viewer",
    "email": "new@globex.example",
}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    document: dict[str, Any] = field(repr=False, hash=False, compare=False)
    described: dict[str, Any] = field(repr=False, hash=False, compare=False)

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return PARAMETER.findall(self.path)

    @property
    def filters(self) -> dict[str, dict[str, Any]]:
        """The documented query parameters with their schemas."""
        return {
            each["name"]: self._resolved(each.get("schema", {}))
            for each in self.described.get("parameters", [])
            if each["in"] == "query"
        }

    @property
    def is_list(self) -> bool:
        """Whether the answer is a page of things."""
        schema = self._answer()
        return self.method == "get" and {"items", "total"} <= set(schema.get("properties", {}))

    @property
    def needs_credential(self) -> bool:
        """Whether the document says that a credential is needed."""
        return bool(self.described.get("security"))

    @property
    def body_names(self) -> set[str]:
        """The names that the body may have."""
        return set(self._body_schema().get("properties", {}))

    @property
    def has_body(self) -> bool:
        """Whether a JSON body is read."""
        return bool(self._body_schema())

    def at(self, ids: dict[str, UUID | str]) -> str:
        """The address with these ids."""
        return PARAMETER.sub(lambda match: str(ids[match[1]]), self.path)

    def body(self, *, optional: bool = False, **given: Any) -> Any:
        """A body that fits the schema: what is required, and what is given where the schema knows it."""
        schema = self._body_schema()
        if not schema:
            return None
        names = list(schema.get("properties", {}) if optional else schema.get("required", []))
        if not names and self.method == "post":
            names = list(schema.get("properties", {}))[:1]  # one of several, such as an e-mail address or an id
        sampled = {name: self._sample(schema["properties"][name], name) for name in names}
        return {**sampled, **given}

    def _body_schema(self) -> dict[str, Any]:
        content = self.described.get("requestBody", {}).get("content", {})
        return self._resolved(content.get("application/json", {}).get("schema", {}))

    def _answer(self) -> dict[str, Any]:
        content = self.described.get("responses", {}).get("200", {}).get("content", {})
        return self._resolved(content.get("application/json", {}).get("schema", {}))

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in schema or any(word in schema for word in ("allOf", "anyOf", "oneOf")):
            if "$ref" in schema:
                schema = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                continue
            choices = next(schema[word] for word in ("allOf", "anyOf", "oneOf") if word in schema)
            schema = next((choice for choice in choices if choice.get("type") != "null"), {})
        return schema

    def _sample(self, schema: dict[str, Any], name: str) -> Any:
        schema = self._resolved(schema)
        kind = schema.get("type", "string")
        kind = next(each for each in kind if each != "null") if isinstance(kind, list) else kind
        if name in NAMED:
            return NAMED[name]
        if "const" in schema or schema.get("enum"):
            return schema.get("const", (schema.get("enum") or [None])[0])
        if kind == "object":
            return {each: self._sample(schema["properties"][each], each) for each in schema.get("required", [])}
        samples = {"integer": schema.get("minimum", 1), "number": 1.5, "boolean": True, "array": []}
        return samples.get(kind, TEXTS.get(schema.get("format", ""), "new"))


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Every operation of the document."""
    for path, methods in sorted(document["paths"].items()):
        for method in METHODS:
            if method in methods:
                yield Operation(method, path, document, methods[method])
