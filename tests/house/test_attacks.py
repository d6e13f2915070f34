"""docs/attacks.md names tests that exist, for every case, and on the profiles that it says."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests.run import NEEDS_NO_POSTGRES, NEEDS_NO_SQLITE

pytestmark = pytest.mark.sqlite_only

PROJECT = Path(__file__).parent.parent.parent
PAGE = PROJECT / "docs" / "attacks.md"
FAMILIES = {
    "A": (14, 25, 28, 29), "B": (5, 10, 19),
    "C": (4, 5, 6, 7, 14, 15, 16, 18, 20, 22, 23, 24, 29, 30, 31, 32, 33), "D": (12, 13, 14), "H": (17, 18, 19),
    "K": (3, 4, 5, 6, 7, 9, 10, 11),
    "L": (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 18, 19, 20), "M": (4, 5, 6, 7), "N": (2, 3, 6),
    "O": (1, 2, 3, 4, 5, 6), "P": (1, 2, 3, 5),
}  # fmt: skip
CASES = [f"{family}{number:02}" for family, numbers in FAMILIES.items() for number in numbers]
RUNS = {"embedded": Expression.compile(NEEDS_NO_POSTGRES), "full": Expression.compile(NEEDS_NO_SQLITE)}
OWN_PROFILES = {
    "tests/growing/test_grown.py": {"full"},
    "tests/house/test_canaries.py": {"embedded", "full"},
}
"""Files that start platforms of these profiles themselves, whatever the database of their run."""


def rows() -> dict[str, tuple[list[str], str]]:
    """The tests of each case, and what is said of its profiles."""
    _, *sections = PAGE.read_text().split("\n## ")
    return {
        section.partition("\n")[0]: (
            re.findall(r"^- `([^`]+)`$", section, re.MULTILINE),
            section.partition("\nProfiles: ")[2].strip(),
        )
        for section in sections
    }


def marks_of(nodes: list[ast.expr]) -> Iterator[str]:
    """The names after `pytest.mark`."""
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "pytest.mark":
                yield part.attr


@cache
def functions_of(path: str) -> dict[str, set[str]]:
    """The tests of a file, each with its marks and those of the file."""
    body = ast.parse((PROJECT / path).read_text()).body
    marked = [
        node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    of_all = set(marks_of(marked))
    return {
        node.name: of_all | set(marks_of(node.decorator_list)) for node in body if isinstance(node, ast.FunctionDef)
    }


def profiles_of(name: str) -> set[str]:
    """The profiles on which a test runs."""
    path, _, function = name.partition("::")
    assert function in functions_of(path), f"{name} does not exist"
    marks = functions_of(path)[function]
    return OWN_PROFILES.get(path) or {
        profile for profile, runs in RUNS.items() if runs.evaluate(lambda mark, **_: mark in marks)
    }


def test_every_case_is_there_and_no_other():
    assert list(rows()) == CASES


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_tests_on_the_profiles_that_the_page_says(case):
    tests, said = rows()[case]
    found = set().union(*(profiles_of(name) for name in tests))

    assert tests
    if said == "both":
        assert found == {"embedded", "full"}, found
    else:
        word, _, reason = said.partition(": ")
        assert reason
        assert word not in ("embedded", "full") or found == {word}, found
