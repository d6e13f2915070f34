"""The development server: Daphne under Django's `runserver`, which sends no lifespan events."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.servers import PROJECT, Process, free_port
from tests.journeys.agents import ERAS, call, tool_names
from tests.journeys.platform import clean_environment

pytestmark = pytest.mark.slow_process


@pytest.fixture(scope="module")
def developing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a running development server, and a developer's key."""
    port, data = free_port(), tmp_path_factory.mktemp("developing")
    env = clean_environment(GATEHOUSE_DEV="1", GATEHOUSE_DATA=str(data), GATEHOUSE_PORT=str(port))
    _manage(env, "migrate", "--verbosity", "0")
    made: dict[str, Any] = json.loads(_manage(env, "provision", "--org", "acme", "--json"))
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "manage.py", "runserver", str(port)]
    with Process(command, ready=f"{url}/ready", env=env, start_seconds=180):
        yield f"{url}/mcp", made["keys"]["developer"]


def _manage(env: dict[str, str], *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=Path(PROJECT), env=env, capture_output=True, text=True, timeout=180, check=True,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("era", ERAS)
def test_agents_are_served_by_the_development_server_too(developing: tuple[str, str], era: str) -> None:
    url, key = developing

    assert {"platform_metadata", "search"} <= tool_names(url, key, era)
    assert call(url, key, "platform_metadata", {}, era).structured_content["organization"] == "acme"
