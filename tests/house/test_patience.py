"""Whoever is slow, or asks for what takes long, keeps nobody else waiting."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.house.conftest import House

LARGE_FILE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
MANY = 24
SOON_SECONDS = 2.0
LOGIN = "/api/v1/auth/login"


def seconds_for(house: House, path: str = "/ready") -> float:
    """How long everybody else waits, at worst of five times."""
    longest = 0.0
    for _ in range(5):
        began = time.monotonic()
        assert house.anonymous.get(path, timeout=15).status == 200
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.1)
    return longest


@contextlib.contextmanager
def meanwhile(work: Callable[[], object], *, callers: int) -> Iterator[None]:
    """Let many callers do this over and over."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            work()

    threads = [threading.Thread(target=repeat, daemon=True) for _ in range(callers)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)


@pytest.mark.measured
def test_readers_who_do_not_read_hold_no_thread(house):
    with contextlib.ExitStack() as held:
        for _ in range(MANY):
            lazy = held.enter_context(contextlib.closing(socket.socket()))
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            lazy.connect(("127.0.0.1", house.live.port))
            lazy.sendall(f"GET {LARGE_FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() * 6)
        time.sleep(1)

        assert seconds_for(house) < SOON_SECONDS


def test_a_file_arrives_whole_in_parts_and_not_at_all(house):
    whole = house.anonymous.get(LARGE_FILE)
    part = house.anonymous.get(LARGE_FILE, headers={"Range": "bytes=10-19"})
    head = house.anonymous.request("HEAD", LARGE_FILE)

    assert len(whole.body) == int(whole.headers["content-length"]) > 1_000_000
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert (head.status, head.body) == (200, b"")


@pytest.mark.measured
def test_a_flood_of_logins_keeps_nobody_waiting(house):
    def guess() -> None:
        house.anonymous.post(LOGIN, {"email": f"{uuid4()}@acme.example", "password": "wrong"}, timeout=60)

    with meanwhile(guess, callers=MANY):
        assert seconds_for(house) < SOON_SECONDS


@pytest.mark.measured
def test_large_bodies_keep_nobody_waiting(house):
    body = json.dumps({"email": [1] * 1_000_000}).encode()

    with meanwhile(lambda: house.anonymous.post(LOGIN, body=body), callers=4):
        assert seconds_for(house) < SOON_SECONDS


def test_a_login_of_many_bytes_is_refused(house):
    answer = house.anonymous.post(LOGIN, {"email": "a@b.example", "password": "x" * 100_000})

    assert answer.status == 413
    assert answer.json()["error"]["code"] == "TOO_LARGE"


@pytest.mark.measured
@pytest.mark.parametrize("path", ["/api/openapi.json", "/docs", "/redoc"])
def test_readers_of_the_documents_keep_nobody_waiting(house, path):
    with meanwhile(lambda: house.anonymous.get(path, timeout=30), callers=8):
        assert seconds_for(house) < SOON_SECONDS
