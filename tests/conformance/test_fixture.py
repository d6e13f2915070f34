"""The upstream of the conformance tests passes the suite itself: what fails through Gatehouse, Gatehouse has lost."""

import sys
from collections.abc import Iterator

import pytest

from tests.conformance.suite import run_suite
from tests.fixtures import node_tools
from tests.fixtures.servers import Forked, free_port

pytestmark = pytest.mark.slow_process

SCENARIOS = {"2025-06-18": 27, "2025-11-25": 30, "2026-07-28": 37}


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """The address of the upstream."""
    node_tools.install()
    url = f"http://127.0.0.1:{(port := free_port())}/mcp"
    with Forked([sys.executable, "-m", "tests.fixtures.conformance", "--port", str(port)], ready=url):
        yield url


@pytest.mark.parametrize("revision", SCENARIOS)
def test_the_upstream_passes_every_scored_scenario(upstream, revision, tmp_path):
    report = run_suite(upstream, revision, tmp_path)

    assert report.failed == [], report.output
    assert len(report.passed) == SCENARIOS[revision], report.output
