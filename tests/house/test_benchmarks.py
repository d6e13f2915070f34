"""What `make bench` makes of its measurements: parts by the nearest code, promises by their limits, and its page."""

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.fixtures.servers import PROJECT

pytestmark = pytest.mark.sqlite_only
SCRIPTS = frozenset(path.stem for path in (PROJECT / "benchmarks").glob("*.py"))
ROAD = "thread (1): MainThread;serve (config/mcp_http.py:90);call_tool (apps/gateway/services/calls.py:40)"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts of the benchmarks, which find each other by plain names."""
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    known = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - known:
        if name in SCRIPTS:
            del sys.modules[name]


@pytest.mark.parametrize(("stack", "part"), [
    (f"{ROAD};dumps (json/__init__.py:1)", "meter and order of the steps"),
    (f"{ROAD};decide (apps/policies/services.py:3)", "decision"),
    (f"{ROAD};request (apps/core/egress.py:9);send (aiohttp/client.py:1)", "wire: request to the server"),
    (f"{ROAD};record_call (apps/usage/services/writer.py:9)", "usage event: put into the queue"),
    ("thread (2): usage-writer;_insert (apps/usage/services/writer.py:9)", "usage event: written to the database"),
    ("thread (3): beat;tick (celery/beat.py:1)", "not of calls"),
    ("thread (1): MainThread;run (asyncio/runners.py:118)", "event loop and sockets"),
])  # fmt: skip
def test_a_look_counts_for_the_part_whose_code_is_nearest(bench, stack, part):
    looks = bench("parts").share_out(f"{stack} 3\n{stack} 4\n")

    assert [(name.startswith(part), number) for name, number in looks.items()] == [(True, 7)]


def cells(**ours: float) -> dict[str, Any]:
    """Two targets, measured once in every cell; ours as given."""
    rows = []
    for callers in (1, 16, 64):
        shared = {
            "op": "call",
            "concurrency": callers,
            "rep": 0,
            "errors": 0,
            "completed_total": 100,
            "server_cpu_s": 0.09,
        }
        rows.append({**shared, "target": "contextforge", "p50_ms": 35.0, "rps": 30.0, "rss_mb": 1200.0})
        rows.append({**shared, "target": "direct", "p50_ms": 1.0, "rps": 1000.0, "rss_mb": 90.0})
        rows.append({**shared, "target": "gatehouse", "p50_ms": 1.9, "rps": 910.0, "rss_mb": 200.0, **ours})
    return {"rows": rows}


@pytest.mark.parametrize(("ours", "broken"), [
    ({}, []), ({"p50_ms": 2.1}, ["p50"]), ({"rps": 890.0}, ["with 64 callers"]),
    ({"rps": 590.0}, ["with 16 callers", "with 64 callers", "x ContextForge"]), ({"errors": 1}, ["errors"]),
    ({"rss_mb": 251.0}, ["memory"]), ({"server_cpu_s": 0.11}, ["CPU per call"]),
])  # fmt: skip
def test_a_promise_that_is_not_kept_says_so(bench, ours, broken):
    lines = [line for line in bench("run").promises(cells(**ours), {"rows": []}) if "**no**" in line]

    assert len(lines) == len(broken)
    assert all(words in line for words, line in zip(broken, lines, strict=True))


def test_the_sizes_of_organisations_are_compared_with_the_smallest_round_by_round(bench):
    sizes = bench("sizes")
    small, large = sizes.Size(1, 10, {}), sizes.Size(1_000, 10_000, {}, rest=0.12)
    measured = [sizes.Cost(small, [0.5, 1.0, 0.7], [2.0]), sizes.Cost(large, [0.6, 1.3, 0.7], [2.5])]

    assert sizes.table(measured).splitlines()[2:] == [
        "| 1 | 10 | 0.0% | 0.70 | 1.00 | yes | 2.0 |",
        "| 1,000 | 10,000 | 12.0% | 0.70 | 1.20 | yes | 2.5 |",
    ]
    measured[1].cpu_ms = [0.7, 1.3, 0.7]
    assert sizes.table(measured).splitlines()[3] == "| 1,000 | 10,000 | 12.0% | 0.70 | 1.30 | **no** | 2.5 |"


def test_what_was_found_replaces_what_stood_between_the_marks_and_nothing_else(bench, tmp_path):
    run, page = bench("run"), tmp_path / "page.md"
    page.write_text(f"# Before\n\n{run.BEGIN}\nold\n{run.END}\n\nafter\n")

    run.write(page, "new")

    assert page.read_text() == f"# Before\n\n{run.BEGIN}\n\nnew\n\n{run.END}\n\nafter\n"
    assert page.read_text().count(run.BEGIN) == 1
    others = [bench(name) for name in ("webs", "hangs")]
    marks = {mark for each in (run, *others) for mark in (each.BEGIN, each.END)}
    assert marks <= set((PROJECT / "docs" / "benchmarks.md").read_text().splitlines())
