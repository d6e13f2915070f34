"""One live platform for all the tests of a file: they look at it from outside and leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import setup_databases, teardown_databases

from tests.house.world import World, build
from tests.live import Answer, Client, Live
from tests.people import make_person


class House:
    """A live platform, and Acme's people's ways into it."""

    def __init__(self, live: Live) -> None:
        self.live = live
        alice, victor = make_person("alice", "acme", "owner"), make_person("victor", "acme", "viewer")
        self.anonymous = live.anonymous()
        self.rest = live.rest(alice)
        self.viewer = live.rest(victor)
        self.agent = Client(live.url, {
            "Authorization": f"Bearer {live.key(alice)}", "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2025-11-25",
        })  # fmt: skip

    def send(self, door: str, body: bytes, **headers: str) -> Answer:
        """Send these bytes to a door."""
        client = self.agent if door == "/mcp" else self.rest
        return client.post(door, body=body, headers={"Content-Type": "application/json", **headers})


@contextmanager
def standing(blocker: Any) -> Iterator[Live]:
    """A live platform on an empty database, which is emptied again."""
    with blocker.unblock():
        call_command("flush", interactive=False, verbosity=0)
        with Live() as live:
            yield live
        call_command("flush", interactive=False, verbosity=0)


@pytest.fixture(scope="session")
def database(django_db_setup: None, django_db_blocker: Any) -> Iterator[Any]:
    """A test database, and what unblocks it; pytest-django makes none where no chosen test names its own fixtures."""
    with django_db_blocker.unblock():
        is_made = connection.settings_dict["NAME"] == connection.creation._get_test_db_name()
        made = [] if is_made else setup_databases(0, interactive=False, aliases=["default"])
    yield django_db_blocker
    with django_db_blocker.unblock():
        teardown_databases(made, 0)


@pytest.fixture(scope="module")
def house(database: Any) -> Iterator[House]:
    """The live platform of this file."""
    with standing(database) as live:
        yield House(live)


@pytest.fixture(scope="module")
def world(database: Any) -> Iterator[World]:
    """One world for all the tests of a file: nothing that they do may change A."""
    with standing(database) as live:
        yield build(live)
