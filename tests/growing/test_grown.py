"""Web, worker and beat as separate processes, while PostgreSQL, Redis and the broker come and go."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.error import URLError

import psycopg
import pytest
from redis import Redis

from apps.core.threads import LONGEST_WAIT_SECONDS
from tests.fixtures.faults import eventually, postgres_programs, redis_program
from tests.growing.grown import TIME, WEB_THREADS, WORKER_PROCESSES, Grown
from tests.journeys.agents import ERAS, call, tool_names
from tests.journeys.rest import signed_in_as
from tests.live import Answer, Client

pytestmark = [
    pytest.mark.slow_process,
    pytest.mark.skipif(not postgres_programs(), reason="initdb and pg_ctl are not installed"),
    pytest.mark.skipif(not redis_program(), reason="redis-server is not installed"),
]

HOLDS_SECONDS = 1.0
RECOVERY_SECONDS = float(os.environ.get("TEST_RECOVERY_SECONDS", "30"))
"""Promised are ten, on a machine that does nothing else: set TEST_RECOVERY_SECONDS to see it."""
"""docs/operations.md says ten, of a machine that has nothing else to do."""
SOON_SECONDS = 12.0
"""Two or three there; whoever waits in line for a thread, or for a connection, waits longer than this."""
SENT_AGAIN_SECONDS = 45.0
STATEMENT_SECONDS = 30.0
SERVERS = "/api/v1/mcp/servers"


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Iterator[Grown]:
    """One installation for all tests of this module; each leaves it whole."""
    with Grown(tmp_path_factory.mktemp("grown")) as installation:
        yield installation


def checks(client: Client, path: str = "/health") -> dict[str, bool]:
    """Each part, and whether it is well."""
    return {name: check["ok"] for name, check in client.get(path).json()["checks"].items()}


def is_well(client: Client) -> bool:
    """Whether /health says so; one that cannot be reached does not."""
    try:
        return client.get("/health", timeout=15).status == 200
    except URLError:
        return False


def ended(client: Client, job_id: str) -> Callable[[], bool]:
    """Asks whether a job has been completed."""
    return lambda: client.get(f"/api/v1/jobs/{job_id}").json().get("state") == "completed"


# Together ----------------------------------------------------------------------------------------------------------


def test_a_job_of_one_process_is_done_by_another_and_seen_in_a_third(grown):
    started = grown.developer.post(f"{grown.server}/discover")

    assert started.status == 202, started.text
    job_id = started.json()["id"]
    assert eventually(ended(grown.at(grown.two, grown.developer), job_id), 30)
    assert grown.worker.group()


@pytest.mark.parametrize("era", ERAS)
def test_an_agent_finds_its_tools_in_every_web_process(grown, era):
    for web in grown.webs:
        assert TIME in tool_names(f"{web.url}/mcp", grown.key, era)
        assert not call(f"{web.url}/mcp", grown.key, TIME, {"timezone": "UTC"}, era).is_error


def test_what_is_revoked_in_one_process_opens_nothing_in_another_a_second_later(grown):
    made = grown.developer.post("/api/v1/auth/api-keys", {"name": "short"}).json()
    elsewhere = Client(grown.two.url, {"Authorization": f"Bearer {made['key']}"})
    assert elsewhere.get(SERVERS).status == 200

    assert grown.developer.delete(f"/api/v1/auth/api-keys/{made['id']}").status in (200, 204)
    time.sleep(HOLDS_SECONDS)

    assert elsewhere.get(SERVERS).status == 401


def test_a_server_that_is_disabled_in_one_process_has_no_tools_in_another_a_second_later(grown):
    assert TIME in tool_names(f"{grown.two.url}/mcp", grown.key)

    assert grown.admin.post(f"{grown.server}/disable").status == 200
    time.sleep(HOLDS_SECONDS)
    try:
        assert TIME not in tool_names(f"{grown.two.url}/mcp", grown.key)
    finally:
        assert grown.admin.post(f"{grown.server}/enable").status == 200


# Sessions of the 2025 era --------------------------------------------------------------------------------------------


@dataclass
class Session:
    """An agent's session that some process has opened, by hand."""

    grown: Grown
    id: str = ""
    key: str = ""

    def ask(self, web: Any, method: str, /, **params: Any) -> Answer:
        """One message to this process."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if not method.startswith("notifications/"):
            message["id"] = 1
        return self.send(web, "POST", json_body=message)

    def send(self, web: Any, method: str, **options: Any) -> Answer:
        """One request to this process."""
        return Client(web.url, self.headers).request(method, "/mcp", **options)

    @property
    def headers(self) -> dict[str, str]:
        """What names the caller and the session."""
        named = {"Mcp-Session-Id": self.id} if self.id else {}
        accept = "application/json, text/event-stream"
        return {"Authorization": f"Bearer {self.key or self.grown.key}", "Accept": accept, **named}

    def open(self, web: Any) -> "Session":
        """Open it there."""
        client = {"name": "test", "version": "1"}
        opened = self.ask(web, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        assert opened.status == 200, opened.text
        self.id = opened.headers["mcp-session-id"]
        return self


def test_a_session_of_one_process_is_served_by_the_other_as_well(grown):
    session = Session(grown).open(grown.one)

    assert session.ask(grown.two, "notifications/initialized").status == 202
    listed = session.ask(grown.two, "tools/list")
    called = session.ask(grown.two, "tools/call", name=TIME, arguments={"timezone": "UTC"})
    unknown = session.ask(grown.two, "tools/call", name="nothing", arguments={})
    at_home = session.ask(grown.one, "tools/list")
    ended = session.send(grown.two, "DELETE")
    after = [session.ask(web, "tools/list").status for web in grown.webs]

    assert TIME in {tool["name"] for tool in listed.json()["result"]["tools"]}
    assert listed.json() == at_home.json()
    assert called.json()["result"]["content"][0]["type"] == "text"
    assert unknown.json()["error"]["data"]["request_id"] == unknown.headers["x-request-id"]
    shown = [answer.headers.get("mcp-session-id", session.id) for answer in (listed, called, unknown, at_home)]
    assert set(shown) == {session.id}, "only the id that leads here from everywhere is ever shown"
    assert (ended.status, after) == (200, [404, 404])


def test_what_goes_through_redis_can_be_neither_read_nor_made_up_nor_repeated(grown):
    session = Session(grown).open(grown.one)
    session.ask(grown.one, "notifications/initialized")
    with Redis.from_url(grown.redis.url) as redis, redis.pubsub(ignore_subscribe_messages=True) as spy:
        spy.psubscribe("gatehouse:mcp:*")
        spy.get_message(timeout=1)
        assert session.ask(grown.two, "tools/call", name=TIME, arguments={"timezone": "UTC"}).status == 200
        heard = [message for _ in range(20) if (message := spy.get_message(timeout=0.2))]
        calls = count_calls(grown)
        for message in heard:
            redis.publish(message["channel"], message["data"])
            redis.publish(message["channel"], b"made up")
        assert session.ask(grown.two, "ping").status == 200

    assert len(heard) >= 3, "a request, and an answer in two parts"
    assert not [message for message in heard if grown.key.encode() in message["data"] or b"UTC" in message["data"]]
    time.sleep(1)
    assert count_calls(grown) == calls


def count_calls(grown: Grown) -> int:
    """How many calls of the tool were counted, once everything is written."""
    seen = -1
    with psycopg.connect(grown.postgres.url, autocommit=True) as connection:
        while True:
            time.sleep(0.6)
            row = connection.execute("SELECT count(*) FROM usage_usageevent WHERE name = %s", [TIME]).fetchone()
            if row and row[0] == seen:
                return int(row[0])
            seen = row[0] if row else -1


def test_streams_of_one_process_are_carried_by_the_other_and_end_with_their_session(grown):
    session = Session(grown).open(grown.one)
    session.ask(grown.one, "notifications/initialized")
    connections = [HTTPConnection("127.0.0.1", web.port, timeout=60) for web in (grown.two, grown.one)]
    for connection in connections:
        connection.request("GET", "/mcp", headers=session.headers)

    streams = [connection.getresponse() for connection in connections]
    ended = session.send(grown.one, "DELETE")
    rests = [read_to_its_end(stream) for stream in streams]
    for connection in connections:
        connection.close()

    assert {(stream.status, stream.headers.get_content_type()) for stream in streams} == {(200, "text/event-stream")}
    assert ended.status == 200
    assert not [rest for rest in rests if b"error" in rest]


def test_a_process_that_is_told_to_stop_lets_go_who_listens_to_another_through_it(grown):
    session = Session(grown).open(grown.one)
    session.ask(grown.one, "notifications/initialized")
    with grown.web() as leaving:
        connection = HTTPConnection("127.0.0.1", leaving.port, timeout=60)
        connection.request("GET", "/mcp", headers=session.headers)
        stream = connection.getresponse()
        leaving.stop(signal.SIGTERM)

        assert b"error" not in read_to_its_end(stream)  # which raises where it is cut
        assert "Cancel" not in leaving.output()
    assert session.ask(grown.one, "ping").status == 200


def read_to_its_end(stream: HTTPResponse) -> bytes:
    """What comes until it ends; one that does not end fails the test, and holds it up no longer than a ping."""
    rest, deadline = b"", time.monotonic() + RECOVERY_SECONDS
    while part := stream.read1():
        assert time.monotonic() < deadline, f"it goes on and on: {rest[-200:]!r}"
        rest += part
    return rest


def test_a_session_of_a_process_that_is_gone_is_unknown_and_nobody_elses_is_told_of(grown):
    session = Session(grown).open(grown.one)
    gone = Session(grown, "0" * 12 + session.id[12:])
    thief = Session(grown, session.id, grown.made["keys"]["viewer"])

    assert [gone.ask(web, "tools/list").status for web in grown.webs] == [404, 404]
    assert [thief.ask(web, "tools/list").status for web in grown.webs] == [404, 404]
    assert session.ask(grown.one, "ping").status == 200


# Without PostgreSQL --------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What callers got, one after the other, each with when it was asked and when it was answered."""

    answers: list[tuple[float, float, Answer]] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        """How often each."""
        return Counter(answer.status for _, _, answer in self.answers)

    def failed(self) -> list[tuple[float, float, Answer]]:
        """Those that were not answered with 200."""
        return [each for each in self.answers if each[2].status != 200]


@contextmanager
def load(grown: Grown, callers: int = 6) -> Iterator[Load]:
    """Ask both processes, REST and MCP in turn, without a pause."""
    seen, stop = Load(), threading.Event()
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
    }}}  # fmt: skip
    headers = {"Authorization": f"Bearer {grown.key}", "Accept": "application/json, text/event-stream",
               "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}  # fmt: skip

    def knock(number: int) -> None:
        web = grown.webs[number % 2]
        rest, agent = grown.at(web, grown.admin), Client(web.url, headers)
        while not stop.is_set():
            began = time.monotonic()
            answer = rest.get(SERVERS) if number % 3 else agent.post("/mcp", body)
            seen.answers.append((began, time.monotonic(), answer))

    threads = [threading.Thread(target=knock, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def assert_says_when_to_come_back(answer: Answer) -> None:
    """503 in the one envelope."""
    assert answer.status == 503, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["details"]["retry_after"]) == ("BACKEND_DOWN", int(answer.headers["retry-after"]))
    assert error["request_id"]


def test_when_postgresql_restarts_only_requests_in_flight_fail(grown):
    with load(grown) as seen:
        assert eventually(lambda: len(seen.answers) > 40, 30)
        began = time.monotonic()
        grown.postgres.control("restart", "--mode=fast")
        done = time.monotonic()
        assert eventually(lambda: len([each for each in seen.answers if each[0] > began + 2]) > 20, 60), seen.statuses

    failed = seen.failed()
    for asked, _, answer in failed:
        assert asked < done, "a request that came after the restart failed"
        assert_says_when_to_come_back(answer)
    assert len(failed) <= 6 * 2, seen.statuses
    assert all(is_well(grown.at(web, grown.admin)) for web in grown.webs)
    started = grown.developer.post(f"{grown.server}/discover")
    assert eventually(ended(grown.developer, started.json()["id"]), SENT_AGAIN_SECONDS)


def test_while_postgresql_is_away_answers_come_soon_and_work_goes_on_when_it_is_back(grown):
    grown.postgres.control("stop", "--mode=fast")
    try:
        assert eventually(lambda: Client(grown.one.url).get("/ready").status == 503, RECOVERY_SECONDS)
        with load(grown) as seen:
            time.sleep(3)
            assert eventually(lambda: len(seen.answers) > 20, 30), "whoever waits in line is not answered"
        for asked, answered, answer in seen.answers[6:]:
            assert_says_when_to_come_back(answer)
            assert answered - asked < SOON_SECONDS
        page = Client(grown.one.url).get("/admin/login/", headers={"Accept": "text/html"})
        ready, health = Client(grown.one.url).get("/ready"), Client(grown.one.url).get("/health")
        assert Client(grown.one.url).get("/live").status == 200
    finally:
        grown.postgres.control("start")

    assert (ready.status, ready.json()["checks"]["database"]["ok"]) == (503, False)
    assert (health.status, health.json()["checks"]["database"]["ok"]) == (503, False)
    assert page.status in (200, 503), page.text
    assert eventually(lambda: all(is_well(Client(web.url)) for web in grown.webs), RECOVERY_SECONDS)
    assert grown.admin.get(SERVERS).status == 200


def test_no_process_holds_more_connections_than_the_page_says(grown):
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gatehouse'"
    most = 0
    with psycopg.connect(grown.postgres.url, autocommit=True) as connection, load(grown, callers=16) as seen:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            row = connection.execute(count).fetchone()
            most = max(most, row[0] if row else 0)
            time.sleep(0.05)

    assert set(seen.statuses) == {200}
    web, worker, beat = WEB_THREADS + 1, 2 * WORKER_PROCESSES, 1  # docs/operations.md says the same
    assert WEB_THREADS < most <= 2 * web + worker + beat


def test_while_no_connection_is_left_answers_come_soon_and_work_goes_on_when_there_are_some(grown):
    with every_connection(grown):
        with load(grown) as seen:
            assert eventually(lambda: len(seen.failed()) > 40, 60), seen.statuses
        assert Client(grown.one.url).get("/live").status == 200

    for asked, answered, answer in seen.failed()[6:]:
        assert_says_when_to_come_back(answer)
        assert answered - asked < SOON_SECONDS
    assert eventually(lambda: all(is_well(Client(web.url)) for web in grown.webs), RECOVERY_SECONDS)
    assert grown.admin.get(SERVERS).status == 200
    started = grown.developer.post(f"{grown.server}/discover")
    assert eventually(ended(grown.developer, started.json()["id"]), SENT_AGAIN_SECONDS)


@contextmanager
def every_connection(grown: Grown) -> Iterator[None]:
    """Take all connections that the server gives, also those that the installation has."""
    with ExitStack() as taken:
        first = taken.enter_context(psycopg.connect(grown.postgres.url, autocommit=True))
        while True:
            try:
                while True:
                    taken.enter_context(psycopg.connect(grown.postgres.url))
            except psycopg.OperationalError:
                end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gatehouse'"
                if not first.execute(end).fetchall():
                    break
        yield


def test_whoever_waits_for_a_lock_is_told_to_come_back_and_keeps_nobody_else_for_long(grown):
    many, waited = 8 * WEB_THREADS, Load()
    operator = signed_in_as(grown.one, grown.made["platform_admin"], **{"X-Organization": "acme"})
    elsewhere = grown.at(grown.two, grown.admin)

    def change(number: int) -> None:
        began = time.monotonic()
        answer = operator.patch(grown.server, {"description": f"Tells the time, {number}."}, timeout=120)
        waited.answers.append((began, time.monotonic(), answer))

    with psycopg.connect(grown.postgres.url) as connection, ThreadPoolExecutor(many) as callers:
        connection.execute("SELECT 1 FROM registry_server FOR UPDATE")
        changes = [callers.submit(change, number) for number in range(many)]
        assert eventually(lambda: locks_waited_for(grown) >= WEB_THREADS, 60)
        assert (elsewhere.get(SERVERS).status, Client(grown.one.url).get("/live").status) == (200, 200)
        behind = grown.admin.get(SERVERS, timeout=120)
        wait(changes)
        connection.rollback()

    for began, answered, answer in waited.answers:
        assert_says_when_to_come_back(answer)
        assert answered - began < LONGEST_WAIT_SECONDS + STATEMENT_SECONDS
    assert behind.status in (200, 503)
    assert operator.patch(grown.server, {"description": "Tells the time."}).status == 200


def locks_waited_for(grown: Grown) -> int:
    """How many connections wait for a lock."""
    with psycopg.connect(grown.postgres.url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    return row[0] if row else 0


# Without Redis -------------------------------------------------------------------------------------------------------


def test_without_redis_rest_and_agents_go_on_and_health_says_what_is_wrong(grown):
    session = Session(grown).open(grown.one)
    session.ask(grown.one, "notifications/initialized")
    grown.redis.stop()
    try:
        with load(grown) as seen:
            time.sleep(2)
        ready, health = Client(grown.one.url).get("/ready"), Client(grown.one.url).get("/health")
        answer = call(f"{grown.two.url}/mcp", grown.key, TIME, {"timezone": "UTC"})
        at_home, elsewhere = (session.ask(web, "tools/list") for web in grown.webs)
        login = Client(grown.one.url).post("/api/v1/auth/login", grown.made["users"]["viewer"])
    finally:
        grown.redis.start()

    assert set(seen.statuses) == {200}
    assert (ready.status, ready.json()["checks"]["cache"]["ok"]) == (200, False)
    assert (health.status, health.json()["checks"]["cache"]["ok"]) == (503, False)
    assert not answer.is_error
    assert login.status == 200
    assert at_home.status == 200
    assert_says_when_to_come_back(elsewhere)
    assert eventually(lambda: session.ask(grown.two, "tools/list").status == 200, RECOVERY_SECONDS)
    assert eventually(lambda: all(is_well(Client(web.url)) for web in grown.webs), RECOVERY_SECONDS)


# Without a broker ----------------------------------------------------------------------------------------------------


def test_a_job_that_no_broker_took_waits_and_runs_when_it_is_back(grown):
    grown.broker.proxy.set("refuse")
    try:
        began = time.monotonic()
        started = grown.developer.post(f"{grown.server}/discover")
        seconds = time.monotonic() - began
        waiting = grown.developer.get(f"/api/v1/jobs/{started.json()['id']}").json()
        assert eventually(lambda: not checks(Client(grown.one.url))["broker"], RECOVERY_SECONDS)
    finally:
        grown.broker.proxy.set("pass")

    assert (started.status, waiting["state"]) == (202, "pending")
    assert seconds < SOON_SECONDS
    assert eventually(ended(grown.developer, started.json()["id"]), SENT_AGAIN_SECONDS), grown.worker.output()
    assert eventually(lambda: checks(Client(grown.one.url))["broker"], RECOVERY_SECONDS)
