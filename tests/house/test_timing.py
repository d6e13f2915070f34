"""What `benchmarks/timing.py` makes of its measurements (A25, A29)."""

import random
from typing import Any

import pytest

from tests.fixtures.servers import PROJECT

pytestmark = pytest.mark.sqlite_only


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script."""
    import importlib

    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    return importlib.import_module("timing")


@pytest.mark.parametrize(
    ("one", "other", "delta"),
    [
        ([1, 2], [3, 4], -1),
        ([3, 4], [1, 2], 1),
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 3], [2], 0),
        ([2, 2, 5], [2, 1], 2 / 3),
    ],
)
def test_delta_is_how_much_more_often_one_is_the_greater(timing: Any, one: Any, other: Any, delta: float) -> None:
    assert timing.cliffs_delta(one, other) == pytest.approx(delta)


def test_a_difference_and_a_control_that_sees_none_are_both_named(timing: Any) -> None:
    same = [random.random() for _ in range(500)]
    other = [value + 0.3 for value in same]

    told = list(timing.rows("login", {"exists": same, "never was": other}, {"exists": same, "never was": list(same)}))

    assert [holds for _, holds in told] == [False, False]
    good = {"exists": same, "never was": list(same)}
    assert [holds for _, holds in timing.rows("login", good, {"exists": other, "never was": same})] == [True, True]


def test_the_part_takes_the_place_of_the_one_before(timing: Any, tmp_path: Any) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# What it costs\n")

    for text in ("| first |", "| second |"):
        timing.write(page, timing.page([(text, True)]))

    assert page.read_text().startswith("# What it costs\n") and page.read_text().count(timing.BEGIN) == 1
    assert "| second | yes |" in page.read_text() and "first" not in page.read_text()
