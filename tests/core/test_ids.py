"""Ids are UUIDs of version 7 whose order is the order of their creation."""

import threading
import time
from uuid import RFC_4122

from apps.core.ids import new_id


def test_an_id_is_a_uuid_of_version_7_of_now():
    made = new_id()

    assert (made.version, made.variant) == (7, RFC_4122)
    assert abs((made.int >> 80) / 1000 - time.time()) < 5


def test_ids_made_one_after_the_other_are_in_order():
    made = [new_id() for _ in range(20_000)]

    assert made == sorted(made)


def test_ids_of_many_threads_are_all_different():
    made = []
    threads = [threading.Thread(target=lambda: made.extend(new_id() for _ in range(5_000))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(set(made)) == 40_000


def test_a_clock_that_is_set_back_does_not_turn_the_order_around(monkeypatch):
    before = new_id()
    earlier = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr("apps.core.ids.time.time_ns", lambda: earlier)

    assert new_id() > before
