"""How long a new connection to PostgreSQL is tried for, and what every door says when that was in vain."""

import threading
import time

import pytest
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.test import Client
from psycopg import OperationalError as ConnectionFailed

from apps.auth import services as auth
from apps.registry import services as registry
from config import middleware
from config.outages import as_outage
from config.postgresql import patience, silence
from config.postgresql.patience import Patience, is_passing
from tests.fixtures.faults import FaultProxy

SOON_SECONDS = 20
"""Far more than a second, far less than for ever."""
REFUSED = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: Connection refused'
STARTING = "connection failed: FATAL:  the database system is starting up"
WRONG = 'connection failed: FATAL:  password authentication failed for user "gatehouse"'


def failing(times, text=REFUSED):
    """An attempt that fails so many times, then succeeds; and how often it was made."""
    made = []

    def attempt():
        made.append(time.monotonic())
        if len(made) <= times:
            raise ConnectionFailed(text)
        return "a connection"

    return attempt, made


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("text", [REFUSED, STARTING])
def test_a_server_that_is_soon_back_is_waited_for(text):
    attempt, made = failing(3, text)

    assert Patience().connect(attempt) == "a connection"
    assert len(made) == 4


def test_a_server_that_stays_away_is_given_up_after_a_while():
    attempt, made = failing(10_000)
    began = time.monotonic()

    with pytest.raises(ConnectionFailed, match="Connection refused"):
        Patience().connect(attempt)

    assert time.monotonic() - began >= 0.2
    assert len(made) > 1


def test_a_wrong_password_is_said_at_once():
    attempt, made = failing(1, WRONG)

    with pytest.raises(ConnectionFailed, match="password"):
        Patience().connect(attempt)

    assert len(made) == 1
    assert not is_passing(ConnectionFailed(WRONG))


def test_while_one_looks_for_a_server_that_is_down_nobody_else_waits():
    shared, looking, let_go = Patience(), threading.Event(), threading.Event()
    with pytest.raises(ConnectionFailed):
        shared.connect(failing(10_000)[0])
    time.sleep(0.02)

    def look():
        looking.set()
        assert let_go.wait(60)
        return "a connection"

    scout = threading.Thread(target=shared.connect, args=(look,))
    scout.start()
    assert looking.wait(60)
    attempt, made = failing(0)
    with pytest.raises(ConnectionFailed, match="refused"):
        shared.connect(attempt)
    let_go.set()
    scout.join(60)

    assert made == [], "it did not even try"
    assert shared.connect(attempt) == "a connection"


# What the doors say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OperationalError("the connection is closed"), InterfaceError("connection already closed")]
)
def test_a_lost_database_is_503_in_the_one_envelope_with_the_time_to_come_back(alice, monkeypatch, error):
    key = auth.create_key(alice.actor, name="test").plain
    client = Client(headers={"Authorization": f"Bearer {key}"}, raise_request_exception=False)

    def be_lost(*_, **__):
        raise error

    monkeypatch.setattr(registry, "list_servers", be_lost)
    answer = client.get("/api/v1/mcp/servers")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "BACKEND_DOWN")
    assert answer["Retry-After"] == str(answer.json()["error"]["details"]["retry_after"])


@pytest.mark.django_db
def test_a_lost_database_is_503_on_a_page_too(alice, monkeypatch):
    client = Client(raise_request_exception=False)
    client.force_login(alice.user)

    def be_lost(*_, **__):
        raise OperationalError("the connection is closed")

    monkeypatch.setattr(middleware, "staff_actor", be_lost)
    page = client.get("/admin/", headers={"Accept": "text/html"})

    assert page.status_code == 503
    assert "cannot be reached" in page.text


@pytest.mark.postgres_only
@pytest.mark.django_db
def test_a_statement_that_takes_too_long_is_ended_and_said_to_be_so():
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("30s",)
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("10s",)
        cursor.execute("SET LOCAL statement_timeout = '50ms'")
        with pytest.raises(OperationalError) as caught:
            cursor.execute("SELECT pg_sleep(5)")

    outage = as_outage(caught.value)
    assert outage is not None
    assert (outage.status, outage.message) == (503, "The database is too busy. Try again in a moment.")


@pytest.fixture
def far():
    """A connection of its own to this PostgreSQL, and the way that leads there."""
    there = connection.settings_dict
    with FaultProxy(int(there["PORT"]), there["HOST"]) as proxy:
        second = connection.copy()
        second.settings_dict |= {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        try:
            yield second, proxy
        finally:
            second.close()


@pytest.mark.postgres_only
@pytest.mark.django_db
@pytest.mark.parametrize("mode", ["swallow", "drip", "half", "refuse"])
def test_a_server_that_takes_a_statement_and_does_not_answer_is_given_up_in_time(far, monkeypatch, mode):
    second, proxy = far
    with second.cursor() as cursor:
        cursor.execute("SELECT 1")
    monkeypatch.setattr(silence, "ANSWER_SECONDS", 1 - settings.ENV.database_statement_seconds)
    proxy.set(mode)

    began = time.monotonic()
    with pytest.raises((OperationalError, InterfaceError)) as caught, second.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert time.monotonic() - began < SOON_SECONDS
    outage = as_outage(caught.value)
    assert outage is not None
    assert outage.status == 503

    proxy.set("pass")
    second.close()
    with second.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


@pytest.mark.postgres_only
@pytest.mark.django_db
def test_a_late_network_and_a_migration_are_waited_for(far, monkeypatch):
    second, proxy = far
    with second.cursor() as cursor:
        cursor.execute("SELECT 1")
    proxy.set("late")
    with second.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)

    monkeypatch.setattr(silence, "ANSWER_SECONDS", 0.5 - settings.ENV.database_statement_seconds)
    with second.cursor() as cursor:
        cursor.connection.has_no_limit = True
        cursor.execute("SELECT pg_sleep(1.5)")


def test_a_bug_is_no_outage():
    assert as_outage(ValueError("no")) is None
    assert as_outage(None) is None
