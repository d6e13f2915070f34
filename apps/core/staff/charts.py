"""Charts of staff pages: drawn by unfold's script with Chart.js, and told in words to whoever does not see them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

POINT_RADIUS = 2
MOST_POINTS_SHOWN = 62


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a chart: what it is called, its colour in the style sheet, and its numbers."""

    label: str
    color: str
    numbers: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """What `staff/chart.html` shows. The page that has it says the same in a table."""

    kind: str
    title: str
    said: str
    lines: Sequence[Line]
    numbers: str
    options: str


def chart(
    kind: Literal["bar", "line"], title: str, said: str, lines: Sequence[Line], labels: Sequence[str], *,
    spans_gaps: bool = True,
) -> Chart:  # fmt: skip
    """A chart for unfold's script; staff.js gives it the colours of the theme. `said` sums it up in words."""
    series = [
        {"label": line.label, "data": list(line.numbers), "themed": line.color, **_look(kind, line, spans_gaps)}
        for line in lines
    ]
    numbers = json.dumps({"labels": list(labels), "datasets": series})
    return Chart(kind, title, said, lines, numbers, json.dumps(_options(is_stacked=kind == "bar")))


def _look(kind: str, line: Line, spans_gaps: bool) -> dict[str, Any]:
    if kind == "bar":
        return {"backgroundColor": f"var({line.color})", "borderRadius": 2}
    radius = POINT_RADIUS if len(line.numbers) <= MOST_POINTS_SHOWN else 0
    return {"borderColor": f"var({line.color})", "borderWidth": 2, "pointRadius": radius, "spanGaps": spans_gaps}


def _options(*, is_stacked: bool) -> dict[str, Any]:
    return {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "interaction": {"mode": "index", "intersect": False},
        "plugins": {"legend": {"display": False}},
        "scales": {
            "x": {"stacked": is_stacked, "grid": {"display": False}, "ticks": {"maxRotation": 0}},
            "y": {
                "stacked": is_stacked,
                "beginAtZero": True,
                "border": {"display": False},
                "ticks": {"precision": 0, "maxTicksLimit": 6},
            },
        },
    }
