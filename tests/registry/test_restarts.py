"""A process that ends by itself is started a few times a minute, whoever asks for it, and the health says so."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.auth import services as auth
from apps.core.errors import BackendDown, BackendError
from apps.registry import services
from apps.registry.backends import restarts as module
from apps.registry.backends.restarts import Restarts
from apps.registry.backends.stdio import Stdio
from tests.people import Person
from tests.registry.conftest import make_route, run

MOST = 3


class Clock:
    """A clock that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Three crashes a minute are allowed, by this clock."""
    monkeypatch.setattr(module, "MOST_A_MINUTE", MOST)
    return Clock()


@pytest.fixture
def counted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Restarts:
    """What this process counts from now on."""
    fresh = Restarts(clock)
    monkeypatch.setattr("apps.registry.backends.stdio.restarts", fresh)
    return fresh


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    """A file that gets a letter from each process that starts."""
    return tmp_path / "starts"


@pytest.fixture
def crashing(starts: Path, settings: Any) -> list[str]:
    """The command line of a program that notes its start, says a word, and ends."""
    program = f"import sys; open({str(starts)!r}, 'a').write('x'); sys.exit('no such database')"
    command = [sys.executable, "-c", program]
    settings.STDIO_ALLOW = (f"{sys.executable} -c *",)
    return command


def started(starts: Path) -> int:
    """How many processes have started."""
    return len(starts.read_text()) if starts.exists() else 0


def test_crashes_are_counted_for_a_minute_and_for_the_very_command(clock: Clock) -> None:
    restarts, route = Restarts(clock), make_route(transport="stdio", command=("a",))
    for clock.now in (0.0, 10.0, 20.0):
        restarts.check(route)
        restarts.count(route, "It ended.")

    with pytest.raises(BackendDown, match=r"3 times within a minute.*for 40 s\. It ended\."):
        restarts.check(route)
    restarts.check(make_route(transport="stdio", command=("a",)))  # another server
    clock.now = 60.1
    restarts.check(route)
    restarts.count(route, "It ended.")
    with pytest.raises(BackendDown, match="for 10 s"):
        restarts.check(route)
    clock.now = 1000.0
    restarts.count(make_route(transport="stdio", command=("b",)), "")
    assert len(restarts._crashes) == 1  # what is old is forgotten


@pytest.mark.slow_process
def test_many_at_once_start_a_crashing_process_a_few_times_and_no_more(
    clock: Clock, counted: Restarts, crashing: list[str], starts: Path
) -> None:
    route = make_route(transport="stdio", command=tuple(crashing))

    async def hammer() -> list[BackendError]:
        errors = []
        for _ in range(30):
            with pytest.raises(BackendError) as failure:
                await Stdio(route).open()
            errors.append(failure.value)
        return errors

    errors = run(hammer)

    assert started(starts) == MOST
    assert all("no such database" in error.message for error in errors)
    assert "times within a minute" in errors[-1].message
    clock.now += 61
    run(lambda: asyncio.wait_for(hammer_once(route), 30))
    assert started(starts) > MOST


async def hammer_once(route: Any) -> None:
    """One more attempt."""
    with pytest.raises(BackendError):
        await Stdio(route).open()


@pytest.mark.slow_process
@pytest.mark.django_db
def test_checks_discoveries_and_tests_of_a_connection_share_the_count_and_the_health_tells(
    counted: Restarts, crashing: list[str], starts: Path, alice: Person, root: Person
) -> None:
    admin = auth.actor_for_user(root.user, organization_id=alice.organization.id, surface="rest")
    server = services.register_server(admin, name="Loop", slug="loop", transport="stdio", command=crashing)

    for _ in range(5):
        services.check_server(alice.actor, server_id=server.id)
        with pytest.raises(BackendError):
            services.discover_server(alice.actor, server_id=server.id)
        services.test_connection(alice.actor, server_id=server.id)

    assert started(starts) == MOST
    health = services.get_health(alice.actor, server_id=server.id)
    assert (health.health, health.consecutive_failures) == ("unhealthy", 5)
    assert "ended by itself 3 times within a minute" in health.message
    assert "no such database" in health.message


@pytest.mark.slow_process
def test_a_process_that_is_told_to_end_is_no_crash(counted: Restarts, stdio_command: list[str]) -> None:
    async def work() -> None:
        for _ in range(MOST + 2):
            upstream = Stdio(make_route(transport="stdio", command=tuple(stdio_command)))
            await upstream.open()
            await upstream.aclose()

    run(work)

    assert counted._crashes == {}
