"""How the OpenAPI document describes what callers send in our pydantic shapes."""

from typing import Any

from drf_spectacular.contrib.pydantic import PydanticExtension
from drf_spectacular.plumbing import ResolvedComponent


class InExtension(PydanticExtension):  # type: ignore[no-untyped-call]
    """Describes a shape as it is read: what has a default may be left out."""

    target_class = "apps.core.schemas.In"
    match_subclasses = True
    priority = 1

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        """The JSON schema of the shape, with its parts among the document's components."""
        schema: dict[str, Any] = self.target.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, part in schema.pop("$defs", {}).items():
            component = _component(name, part)
            auto_schema.registry.register_on_missing(component)
        return schema


def _component(name: str, schema: dict[str, Any]) -> Any:
    kind = ResolvedComponent.SCHEMA
    return ResolvedComponent(name=name, type=kind, object=name, schema=schema)  # type: ignore[no-untyped-call]
