"""A service that is too old for us is named as that, at once, with what to do."""

import socketserver
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.core.cache import caches
from django.core.management.base import CommandError
from django.db import connection
from django.db.backends.base import base

from config.doctor import parts
from config.waiting import wait_for_parts


class OldRedis(socketserver.StreamRequestHandler):
    """Redis 5, as far as a client gets with it: it does not know the greeting of today's."""

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].decode())
            known = words[0].upper() not in ("HELLO", "CLIENT")
            self.wfile.write(b"+OK\r\n" if known else f"-ERR unknown command `{words[0]}`\r\n".encode())


@pytest.fixture
def old_redis(settings) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldRedis) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_address[1]}/0"
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}}
        settings.ENV = replace(settings.ENV, redis_url=url)
        yield url
        caches["default"].close()
        server.shutdown()


def test_a_redis_that_is_too_old_is_named_with_the_version_that_is_needed(old_redis):
    finding = parts.examine_cache()

    assert finding.state == "wrong" and "too old. Redis 6 or newer is needed." in finding.why
    assert "REDIS_URL" in finding.cure


@pytest.mark.django_db(transaction=True)
@pytest.mark.postgres_only
def test_a_start_on_a_postgresql_that_is_too_old_ends_at_once_and_says_so(monkeypatch):
    connection.close()
    monkeypatch.setattr(base, "RAN_DB_VERSION_CHECK", set())  # Django asks once in a process
    monkeypatch.setattr(connection, "get_database_version", lambda: (12, 4))
    said = []

    started = time.monotonic()
    with pytest.raises(CommandError) as refusal:
        wait_for_parts("all", said.append)

    assert "is too old. PostgreSQL 14 or later is required (found 12.4)" in str(refusal.value)
    assert "Waited" not in str(refusal.value) and not said and time.monotonic() - started < 10
