"""The generated pages say what the code says."""

import re
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from config.management.commands import reference


@pytest.mark.parametrize("page", reference.TABLES)
def test_a_generated_page_is_up_to_date(page):
    current = dict(reference.pages())[reference.DOCS / f"{page}.md"]

    assert (reference.DOCS / f"{page}.md").read_text(encoding="utf-8") == current, "run manage.py reference"


def test_every_setting_has_its_line():
    text = (reference.DOCS / "settings.md").read_text(encoding="utf-8")

    assert [each["name"] for each in reference.variables() if f"| `{each['name']}` |" not in text] == []


def test_every_argument_and_result_of_a_tool_has_its_line():
    text = (reference.DOCS / "tools.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(\w+)`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    tools = reference.native_tools()

    assert set(sections) == {tool.name for tool in tools}
    for tool in tools:
        for schema in (tool.definition["inputSchema"], tool.definition["outputSchema"]):
            lost = [name for name in schema.get("properties", {}) if f"| `{name}` |" not in sections[tool.name]]
            assert lost == [], tool.name


def test_limits_choices_and_inner_fields_are_told():
    class Part(BaseModel):
        size: int = Field(3, ge=1, description="How large.")

    class Whole(BaseModel):
        kind: Literal["a", "b"]
        parts: list[Part]

    lines = list(reference._fields("Argument", Whole.model_json_schema()))

    assert "| `kind` | `a` or `b` | yes |  |" in lines
    assert "| `parts` | list of object | yes |  |" in lines
    assert "| `parts[].size` | integer, at least 1 | default `3` | How large. |" in lines


def test_a_page_without_its_marks_would_be_noticed():
    assert reference._replaced("no marks", "table") == "no marks"
    assert (
        reference._replaced("<!-- generated -->\nold\n<!-- end -->", "new") == "<!-- generated -->\nnew\n<!-- end -->"
    )
