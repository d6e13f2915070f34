"""Slow work holds only a few of the threads that all requests share."""

import asyncio
import re

import pytest
from django.test import Client
from django.urls import reverse

from apps.core.errors import RateLimited, TooLarge
from config import lanes
from config.lanes import in_lane

SLOW_OPERATIONS = {"accept_invitation", "login", "check_server", "test_connection"}


def a_post(path="/api/v1/auth/login", address="192.0.2.1", method="POST"):
    return {"method": method, "path": path, "gatehouse.address": address}


def is_slow(path):
    return any(lane.path.match(path) for lane in lanes.LANES)


async def until_let_in(scope, entered, leave, body=b""):
    async with in_lane(scope, body):
        entered.append(scope["gatehouse.address"])
        await leave.wait()


def stay(count, entered, leave, address="192.0.2.{}"):
    return [asyncio.create_task(until_let_in(a_post(address=address.format(n)), entered, leave)) for n in range(count)]


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.django_db
def test_the_addresses_of_slow_work_are_those_that_the_document_and_the_admin_have():
    document = Client().get("/api/openapi.json").json()
    slow = {
        path: operation["operationId"]
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if isinstance(operation, dict) and is_slow(re.sub(r"{\w+}", "0190b6f0-0000-7000-8000-000000000000", path))
    }

    assert {name.removesuffix("_create").removeprefix("auth_") for name in slow.values()} == SLOW_OPERATIONS
    assert is_slow(reverse("admin:login"))
    for deed in ("check_now", "test_connection"):
        assert is_slow(reverse("admin:registry_server_deed", args=["0190b6f0-0000-7000-8000-000000000000", deed]))
    assert not is_slow(reverse("admin:registry_server_deed", args=["0190b6f0-0000-7000-8000-000000000000", "approve"]))


def test_two_work_at_a_time_and_the_next_has_its_turn_when_one_leaves():
    async def story():
        entered, first, later = [], asyncio.Event(), asyncio.Event()
        tasks = stay(2, entered, first)
        await turns()
        waiting = asyncio.create_task(until_let_in(a_post(address="192.0.2.99"), entered, later))
        await turns()
        before = list(entered)
        first.set()
        later.set()
        await asyncio.gather(*tasks, waiting)
        return before, entered

    before, after = asyncio.run(story())

    assert before == ["192.0.2.0", "192.0.2.1"] and after[-1] == "192.0.2.99"


@pytest.mark.parametrize("scope", [a_post(method="GET"), a_post("/api/v1/auth/me"), a_post("/api/v1/auth/login/x")])
def test_other_requests_wait_for_nobody(scope):
    async def story():
        entered, leave = [], asyncio.Event()
        tasks = stay(2, entered, leave)
        await turns()
        async with asyncio.timeout(1), in_lane(scope, b"x" * 100_000):
            leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(story())


@pytest.mark.parametrize(("limit", "address"), [("LONGEST_QUEUE", "192.0.2.{}"), ("MOST_OF_ONE_ADDRESS", "192.0.2.7")])
def test_who_finds_a_long_queue_is_told_to_come_back_and_the_queue_goes_on(monkeypatch, limit, address):
    monkeypatch.setattr(lanes, limit, 4)

    async def story():
        entered, leave = [], asyncio.Event()
        tasks = stay(4, entered, leave, address)
        await turns()
        with pytest.raises(RateLimited) as refusal:
            async with in_lane(a_post(address="192.0.2.7"), b""):
                pass
        leave.set()
        await asyncio.gather(*tasks)
        async with in_lane(a_post(address="192.0.2.7"), b""):
            return refusal.value.details, len(entered)

    assert asyncio.run(story()) == ({"retry_after": lanes.RETRY_SECONDS}, 4)


def test_nobody_waits_longer_than_the_limit(monkeypatch):
    monkeypatch.setattr(lanes, "LONGEST_WAIT_SECONDS", 0.05)

    async def story():
        entered, leave = [], asyncio.Event()
        tasks = stay(2, entered, leave)
        await turns()
        with pytest.raises(RateLimited):
            async with in_lane(a_post(address="192.0.2.99"), b""):
                pass
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(story())


def test_a_large_body_is_refused_before_it_waits():
    async def story():
        async with in_lane(a_post(), b"x" * (lanes.LARGEST_BODY_BYTES + 1)):
            pass

    with pytest.raises(TooLarge):
        asyncio.run(story())
