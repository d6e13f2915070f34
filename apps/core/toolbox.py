"""Native tools: a function with an actor becomes a tool that agents can list and call."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from apps.core.actor import Actor
from apps.core.errors import InvalidInput

MAX_RESULT_BYTES = 200_000


@dataclass(frozen=True, slots=True)
class NativeTool:
    """One tool of ours: its definition as MCP shows it, the permission it needs, and the function behind it."""

    name: str
    permission: str
    reads_only: bool
    definition: dict[str, Any]
    arguments: type[BaseModel]
    function: Callable[..., BaseModel]

    def run(self, actor: Actor, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check the arguments, call the function, give its result as JSON; raises ServiceError."""
        try:
            given = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise InvalidInput(
                f"{self.name} refused its arguments. See details.fields.", details={"fields": field_errors(error)}
            ) from error
        actor.require(self.permission, self.name)
        values = {name: getattr(given, name) for name in type(given).model_fields}
        return self.function(actor, **values).model_dump(mode="json")


class Toolbox:
    """The native tools of one app, named in `settings.MCP_TOOLBOXES`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tools: dict[str, NativeTool] = {}

    def tool(
        self, *, permission: str, title: str, reads_only: bool = True, destructive: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register `function(actor, *, …) -> BaseModel`; its docstring is what a model reads when it chooses."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            made = _native_tool(
                function, permission=permission, title=title, reads_only=reads_only, destructive=destructive
            )
            self.tools[made.name] = made
            return function

        return register


def field_errors(error: ValidationError) -> dict[str, list[str]]:
    """The messages of a pydantic error by field, without the refused values."""
    fields: dict[str, list[str]] = {}
    for part in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(str(step) for step in part["loc"]) or "non_field"
        fields.setdefault(place, []).append(part["msg"])
    return fields


def _native_tool(
    function: Callable[..., Any], *, permission: str, title: str, reads_only: bool, destructive: bool
) -> NativeTool:
    hints = get_type_hints(function, include_extras=True)
    result: type[BaseModel] = hints.pop("return")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    fields: dict[str, Any] = {
        each.name: (hints[each.name], ... if each.default is inspect.Parameter.empty else each.default)
        for each in parameters
    }
    arguments = create_model(f"{function.__name__}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    definition = {
        "name": function.__name__,
        "title": title,
        "description": inspect.cleandoc(function.__doc__ or ""),
        "inputSchema": _schema(arguments),
        "outputSchema": _schema(result),
        "annotations": {
            "title": title,
            "readOnlyHint": reads_only,
            "destructiveHint": destructive,
            "idempotentHint": reads_only,
            "openWorldHint": False,
        },
    }
    return NativeTool(function.__name__, permission, reads_only, definition, arguments, function)


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    return schema
