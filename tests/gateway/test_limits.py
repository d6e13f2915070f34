"""The rate limiter: as many as allowed, then one at a time, exact for callers at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from apps.core import limits
from apps.core.errors import RateLimited


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def allowed(name: str, clock: Clock, *, limit: int, tries: int) -> int:
    """How many of so many calls pass."""
    count = 0
    for _ in range(tries):
        try:
            limits.take(name, limit=limit, clock=clock)
        except RateLimited:
            continue
        count += 1
    return count


@pytest.mark.django_db
def test_a_limit_lets_a_burst_through_and_then_one_call_at_a_time() -> None:
    clock = Clock()

    assert allowed("tool", clock, limit=10, tries=50) == 10
    clock.now += 6.1
    assert allowed("tool", clock, limit=10, tries=50) == 1
    clock.now += 60
    assert allowed("tool", clock, limit=10, tries=50) == 10


@pytest.mark.django_db
def test_a_window_s_edge_cannot_be_used_for_twice_the_limit() -> None:
    clock = Clock()

    before = allowed("tool", clock, limit=90, tries=90)
    clock.now += 2
    after = allowed("tool", clock, limit=90, tries=90)

    assert before == 90
    assert after <= 3


@pytest.mark.django_db
def test_a_refusal_says_how_long_to_wait_and_that_is_enough() -> None:
    clock = Clock()
    allowed("tool", clock, limit=7, tries=7)

    with pytest.raises(RateLimited) as refusal:
        limits.take("tool", limit=7, what="time__now", clock=clock)

    assert "time__now" in refusal.value.message
    clock.now += refusal.value.details["retry_after"]
    limits.take("tool", limit=7, clock=clock)


@pytest.mark.django_db
def test_one_name_s_limit_is_not_another_s() -> None:
    clock = Clock()
    allowed("a", clock, limit=1, tries=5)

    limits.take("b", limit=1, clock=clock)


@pytest.mark.django_db
def test_a_clock_set_back_locks_nobody_out() -> None:
    clock = Clock()
    allowed("tool", clock, limit=5, tries=5)

    clock.now -= 3600

    limits.take("tool", limit=5, clock=clock)


@pytest.mark.django_db
def test_a_limit_of_nothing_refuses_everything() -> None:
    with pytest.raises(RateLimited):
        limits.take("tool", limit=0)


@pytest.mark.django_db(transaction=True)
def test_callers_at_the_same_time_get_exactly_the_limit() -> None:
    clock = Clock()

    def worker(_: int) -> int:
        try:
            return allowed("tool", clock, limit=100, tries=50)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(worker, range(8)))

    assert passed == 100
