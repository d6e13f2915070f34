"""The generated pages say what the code says."""

import pytest

from config.management.commands import reference


@pytest.mark.parametrize("page", reference.TABLES)
def test_a_generated_page_is_up_to_date(page):
    current = dict(reference.pages())[reference.DOCS / f"{page}.md"]

    assert (reference.DOCS / f"{page}.md").read_text(encoding="utf-8") == current, "run manage.py reference"


def test_every_setting_has_its_line():
    text = (reference.DOCS / "settings.md").read_text(encoding="utf-8")

    assert [each["name"] for each in reference.variables() if f"| `{each['name']}` |" not in text] == []


def test_a_page_without_its_marks_would_be_noticed():
    assert reference._replaced("no marks", "table") == "no marks"
    assert (
        reference._replaced("<!-- generated -->\nold\n<!-- end -->", "new") == "<!-- generated -->\nnew\n<!-- end -->"
    )
