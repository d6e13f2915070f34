"""What passes the official suite directly passes it through Gatehouse: a bundle of that server, its names verbatim."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from apps.gateway import services as gateway
from apps.gateway.schemas import BundleItemIn
from apps.gateway.services.hearing import CallListener
from apps.registry import services as registry
from tests.conformance.suite import Report, run_suite
from tests.conformance.test_fixture import SCENARIOS
from tests.fixtures import node_tools
from tests.fixtures.servers import Forked, free_port
from tests.gateway.agent import refresh
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.slow_process, pytest.mark.django_db(transaction=True)]
MODERN = "2026-07-28"
TASK_SCENARIOS = 10
"""The suite runs them and does not score them: the extension of tasks."""


@contextmanager
def endpoint(live: Live, person: Person, settings: Any, revision: str) -> Iterator[str]:
    """An address without a credential for the bundle of a server that speaks the era of this revision."""
    port, open_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    command = [sys.executable, "-m", "tests.fixtures.conformance", "--port", str(port)]
    with Forked([*command, *([] if revision == MODERN else ["--legacy"])], ready=url):
        server = registry.register_server(person.actor, name="Fixture", slug="fixture", url=url)
        registry.discover_server(person.actor, server_id=server.id)
        registry.approve_server(person.actor, server_id=server.id)
        items = [BundleItemIn(server_id=server.id)]
        gateway.create_bundle(person.actor, name="All of it", slug="all-of-it", items=items, names_verbatim=True)
        refresh(person)
        settings.PUBLIC_URL = f"http://127.0.0.1:{open_port}"
        opened = f"http://127.0.0.1:{open_port}/mcp"
        proxy = [sys.executable, "-m", "tests.fixtures.bearer", "--port", str(open_port)]
        with Forked([*proxy, "--target", f"{live.mcp_url}/all-of-it", live.key(person)], ready=opened):
            yield opened


@pytest.fixture(autouse=True)
def _node() -> None:
    """Node, and the suite."""
    node_tools.install()


def through(live: Live, person: Person, settings: Any, revision: str, folder: Any) -> Report:
    """What the suite says of the server behind Gatehouse."""
    with endpoint(live, person, settings, revision) as url:
        return run_suite(url, revision, folder)


@pytest.mark.parametrize("revision", SCENARIOS)
def test_every_scored_scenario_passes_through_gatehouse(live, alice, settings, revision, tmp_path):
    report = through(live, alice, settings, revision, tmp_path)

    assert report.failed == [], report.output
    assert len(report.passed) == SCENARIOS[revision], report.output
    assert len(report.extensions) == (TASK_SCENARIOS if revision == MODERN else 0)
    assert all(report.extensions.values()), report.output


def test_a_relay_that_loses_progress_fails_the_suite(live, alice, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(CallListener, "notified", lambda *_: None)

    report = through(live, alice, settings, "2025-11-25", tmp_path)

    assert {"tools-call-with-progress", "tools-call-with-logging"} <= set(report.failed)
