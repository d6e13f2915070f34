"""What a start says when something that it needs is not there: one clear message, after a bounded time."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from django.conf import settings as given
from django.core.management.base import CommandError
from django.db import connection

from apps.core.errors import BackendTimeout
from config import roles, waiting
from config.doctor import parts
from config.management.commands import up
from config.management.commands.migrate import alone_as_web
from tests.fixtures import warm
from tests.fixtures.faults import FaultProxy
from tests.fixtures.servers import PROJECT, free_port
from tests.journeys.platform import clean_environment

WAIT_SECONDS = 3.0
LONGEST_SECONDS = 90


def start(tmp_path, *flags: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Start where that must be refused."""
    settings = clean_environment(
        GATEHOUSE_DATA=str(tmp_path), GATEHOUSE_PORT=str(free_port()), GATEHOUSE_START_SECONDS=str(WAIT_SECONDS), **env
    )
    return warm.run([sys.executable, "manage.py", "up", *flags], cwd=PROJECT, env=settings, timeout=LONGEST_SECONDS)


def assert_is_clear(refused: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Status 1, a few lines, no trace, and each of these words."""
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 5, refused.stderr
    for word in words:
        assert word in refused.stderr


@pytest.mark.slow_process
def test_a_database_that_is_not_there_is_waited_for_and_named(tmp_path):
    port = free_port()

    refused = start(tmp_path, DATABASE_URL=f"postgres://gatehouse:hidden@127.0.0.1:{port}/gatehouse")

    assert_is_clear(refused, "Waiting up to", f"PostgreSQL at 127.0.0.1:{port}/gatehouse", "refused", "Cure:")
    assert "hidden" not in refused.stderr


@pytest.mark.slow_process
def test_a_broker_that_is_not_there_keeps_a_worker_from_starting_and_is_named(tmp_path):
    port = free_port()

    refused = start(tmp_path, "--role", "worker", BROKER_URL=f"amqp://guest:hidden@127.0.0.1:{port}//")

    assert_is_clear(refused, "Waiting up to", f"amqp://127.0.0.1:{port}", "BROKER_URL", "Cure:")
    assert "hidden" not in refused.stderr


@pytest.mark.slow_process
def test_a_file_that_is_no_database_is_said_without_a_trace(tmp_path):
    (tmp_path / "gatehouse.sqlite3").write_bytes(b"this is no database" * 100)

    assert_is_clear(start(tmp_path), "gatehouse.sqlite3 cannot be used: file is not a database", "doctor")


@pytest.mark.parametrize("role", roles.ROLES)
def test_a_role_without_a_broker_is_refused(settings, role):
    settings.ENV = replace(given.ENV, broker_url=None)

    with pytest.raises(CommandError, match=f"The role {role} needs BROKER_URL"):
        roles.check_addresses(role)


def test_a_web_process_starts_without_redis_and_says_so(settings, monkeypatch):
    said: list[str] = []
    with FaultProxy(free_port()) as silent:
        silent.set("swallow")
        url = f"redis://127.0.0.1:{silent.port}/0"
        settings.ENV = replace(given.ENV, redis_url=url, broker_url=None)
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url,
                                       "OPTIONS": {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}}}  # fmt: skip
        monkeypatch.setattr(waiting, "_parts", lambda _: [(parts.examine_cache, False)])
        began = time.monotonic()
        waiting.wait_for_parts("web", said.append)

    assert time.monotonic() - began < 15
    assert len(said) == 1
    assert "REDIS_URL" in said[0]


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_second_web_process_on_one_postgresql_is_refused_without_redis(settings):
    settings.ENV = replace(given.ENV, redis_url=None)
    with alone_as_web():
        with pytest.raises(CommandError, match="Several need REDIS_URL"), alone_as_web():
            pass
        settings.ENV = replace(given.ENV, redis_url="redis://127.0.0.1/0")
        with alone_as_web():
            pass
    settings.ENV = replace(given.ENV, redis_url=None)
    with alone_as_web(), connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@pytest.mark.slow_process
def test_a_short_limit_for_servers_keeps_nobody_from_a_first_start(tmp_path):
    env = clean_environment(GATEHOUSE_DATA=str(tmp_path), UPSTREAM_TIMEOUT_SECONDS="0.05")

    ready = warm.run([sys.executable, "manage.py", "migrate"], cwd=PROJECT, env=env, timeout=120)
    made = warm.run([sys.executable, "manage.py", "demo"], cwd=PROJECT, env=env, timeout=120)

    assert (ready.returncode, made.returncode) == (0, 0), made.stderr
    assert "Demo key" in made.stdout


def test_a_demo_that_cannot_be_made_is_said_without_a_trace(monkeypatch):
    def fail():
        raise BackendTimeout("time did not answer within 30 seconds.")

    monkeypatch.setattr(up, "make_demo", fail)

    with pytest.raises(CommandError, match=r"cannot be made: time did not answer .* Start again, or with --no-demo"):
        up.demo_or_refusal()
