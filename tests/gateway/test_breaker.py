"""The breaker: opens after failures in a row, lets one probe through, closes when it succeeds."""

import asyncio
import contextlib
from typing import Any

import pytest

from apps.core.errors import BackendDown, BackendError, BackendTimeout
from apps.core.ids import new_id
from apps.gateway.services.breaker import Breaker
from apps.gateway.services.slots import Absent


class Clock:
    """A clock that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Refusal(BackendError):
    """The server answered, with an error of its own."""


class NeverSent(BackendError):
    """Nothing was asked of the server."""


def verdict(error: BackendError) -> bool | None:
    """Timeouts are outages, refusals are not, and what was never sent says nothing."""
    return None if isinstance(error, NeverSent) else isinstance(error, BackendTimeout)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock, settings: Any) -> Breaker:
    settings.BREAKER_FAILURES = 3
    settings.BREAKER_OPEN_SECONDS = 10.0
    return Breaker("weather", is_outage=verdict, clock=clock)


def fail(breaker: Breaker, error: type[BaseException] = BackendTimeout, times: int = 1) -> None:
    """Let calls through that end with this error."""
    for _ in range(times):
        with contextlib.suppress(error), breaker.guard():
            raise error


def succeed(breaker: Breaker) -> None:
    """Let a call through that ends well."""
    with breaker.guard():
        pass


def test_it_opens_after_failures_in_a_row_and_names_the_server(breaker: Breaker) -> None:
    fail(breaker, times=3)

    with pytest.raises(BackendDown) as refusal, breaker.guard():
        pytest.fail("the call went through")

    assert "weather" in refusal.value.message
    assert refusal.value.details == {"server": "weather", "retry_after": 10}


def test_a_success_in_between_starts_the_count_anew(breaker: Breaker) -> None:
    fail(breaker, times=2)
    succeed(breaker)
    fail(breaker, times=2)

    succeed(breaker)


@pytest.mark.parametrize("harmless", [Refusal, NeverSent, KeyboardInterrupt])
def test_what_is_no_outage_never_opens_it(breaker: Breaker, harmless: type[BaseException]) -> None:
    fail(breaker, harmless, times=20)

    succeed(breaker)


def test_what_was_never_sent_does_not_reset_the_count(breaker: Breaker) -> None:
    fail(breaker, times=2)
    fail(breaker, NeverSent)
    fail(breaker)

    assert breaker.is_open


def test_exactly_one_probe_passes_when_the_time_is_over(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, times=3)
    clock.now = 10.0

    with breaker.guard():
        refused = 0
        for _ in range(50):
            with pytest.raises(BackendDown), breaker.guard():
                pytest.fail("a second probe went through")
            refused += 1

    assert refused == 50
    succeed(breaker)


def test_a_failed_probe_keeps_it_open_for_as_long_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, times=3)
    clock.now = 10.0
    fail(breaker)

    clock.now = 19.9
    with pytest.raises(BackendDown):
        breaker.check()
    clock.now = 20.0
    succeed(breaker)


def test_a_cancelled_probe_makes_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, times=3)
    clock.now = 10.0
    fail(breaker, KeyboardInterrupt)

    succeed(breaker)

    assert not breaker.is_open


def test_its_state_tells_when_calls_are_let_through_again(breaker: Breaker, clock: Clock) -> None:
    assert (breaker.is_open, breaker.is_half_open, breaker.wait_seconds) == (False, False, 0.0)
    fail(breaker, times=3)
    clock.now = 4.0
    assert (breaker.is_open, breaker.is_half_open, breaker.wait_seconds) == (True, False, 6.0)
    clock.now = 10.0
    assert (breaker.is_open, breaker.is_half_open) == (True, True)
    succeed(breaker)
    assert not breaker.is_half_open


def test_the_way_to_a_server_tells_its_breaker_and_when_a_crashing_process_is_started_again(settings: Any) -> None:
    from apps.gateway.services.ways import Way
    from apps.registry.services import BreakerOut, ServerRoute

    async def story() -> list[BreakerOut]:
        settings.BREAKER_FAILURES, settings.BREAKER_OPEN_SECONDS = 1, 10.0
        way = Way(ServerRoute(new_id(), new_id(), "loop", "Loop", "stdio"), 1, asyncio.ensure_future, Absent())
        states = [way.state(now=100.0)]
        for _ in range(3):
            way.count_crash(now=100.0, lived=1.0)
        fail(way.breaker)
        return [*states, way.state(now=100.5), way.state(now=200.0)]

    fresh, crashed, later = asyncio.run(story())

    assert fresh == BreakerOut()
    assert (crashed.state, crashed.failures, crashed.retry_after_seconds) == ("open", 1, 10)
    assert (crashed.crashes, crashed.restart_after_seconds) == (3, 2)
    assert later.restart_after_seconds is None
