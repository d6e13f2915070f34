"""A function with an actor becomes a tool: its schema, its permission, its refusals."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from apps.core.actor import Actor
from apps.core.errors import InvalidInput, NotPermitted
from apps.core.toolbox import Toolbox

toolbox = Toolbox("test")


class Found(BaseModel):
    """What was found."""

    names: list[str]
    asked_by: str


@toolbox.tool(permission="thing.read", title="Find things")
def find_things(
    actor: Actor,
    *,
    query: Annotated[str, Field(max_length=10, description="Words to look for.")],
    limit: Annotated[int, Field(ge=1, le=50)] = 10,
    order: Literal["name", "age"] = "name",
) -> Found:
    """Find things by words. Use it first."""
    return Found(names=[query] * limit, asked_by=f"{actor.label} by {order}")


def actor(*grants):
    return Actor(kind="key", id=None, label="ci", surface="mcp", grants=frozenset(grants))


def test_a_definition_says_what_a_model_needs_to_choose():
    definition = toolbox.tools["find_things"].definition

    assert definition["description"] == "Find things by words. Use it first."
    assert definition["inputSchema"]["required"] == ["query"]
    assert definition["inputSchema"]["additionalProperties"] is False
    assert definition["inputSchema"]["properties"]["query"]["description"] == "Words to look for."
    assert "actor" not in definition["inputSchema"]["properties"]
    assert set(definition["outputSchema"]["properties"]) == {"names", "asked_by"}
    assert definition["annotations"]["readOnlyHint"] is True


def test_a_tool_runs_with_its_defaults_and_answers_in_json():
    answer = toolbox.tools["find_things"].run(actor("thing.read"), {"query": "clock", "limit": 2})

    assert answer == {"names": ["clock", "clock"], "asked_by": "ci by name"}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({}, "query"), ({"query": 7}, "query"), ({"query": "x" * 11}, "query"), ({"query": "x", "limit": 0}, "limit"),
     ({"query": "x", "limit": 10**30}, "limit"), ({"query": "x", "limit": None}, "limit"),
     ({"query": "x", "order": "size"}, "order"), ({"query": "x", "actor": "root"}, "actor"),
     ({"query": "x", "self": 1}, "self"), ({"query": ["x"]}, "query")],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name_and_not_repeated(arguments, field):
    with pytest.raises(InvalidInput) as refused:
        toolbox.tools["find_things"].run(actor("thing.read"), arguments)

    assert list(refused.value.details["fields"]) == [field]
    assert "x" * 11 not in str(refused.value.details)


def test_a_tool_asks_for_its_permission():
    with pytest.raises(NotPermitted):
        toolbox.tools["find_things"].run(actor("other.read"), {"query": "x"})


def test_a_permission_narrowed_to_names_opens_the_named_tools_only():
    tool = toolbox.tools["find_things"]

    assert tool.run(actor("thing.read:find_*"), {"query": "x"})["names"]
    with pytest.raises(NotPermitted):
        tool.run(actor("thing.read:get_*"), {"query": "x"})
