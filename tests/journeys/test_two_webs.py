"""Two web processes on one database: keys change under traffic (A14, K07), what ends, ends in both within a second, and
what one of them waits for is answered through the other.

Callers of every kind go on while signing keys, sealing keys and API keys are rotated by commands that are killed half
way (SIGKILL) and started again: people with tokens that were signed before, people who refresh them and who sign in,
agents whose calls carry a sealed credential to an upstream, staff who seal and destroy secrets. Each asks one process
and then the other.
"""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection

from tests.auth.forge import ME
from tests.fixtures.databases import fresh_database
from tests.fixtures.faults import own_redis
from tests.fixtures.servers import PROJECT, Process, evil_upstream, free_port, revision_http
from tests.gateway.agent import LEGACY
from tests.gateway.speaker import Speaker, rest_of
from tests.gateway.sse_speaker import SseSpeaker
from tests.house.canaries import Visitor
from tests.journeys.platform import Platform
from tests.journeys.rest import offered, signed_in
from tests.live import Answer, Client

pytestmark = [pytest.mark.slow_process, pytest.mark.both]

LOGIN, REFRESH, LOGOUT = "/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/logout"
KEYS = "/api/v1/auth/api-keys"
REVISION = "2026-07-28"
WORKER = ["sh", "-c", f"cd {PROJECT} && exec {sys.executable} -m tests.fixtures.conformance --stdio"]
"""A server whose calls go on as tasks, in a child of the process that started it."""
SECRET = "what only the upstream may see"
PLANTED = 250
KILLED = -9
MOST_SECONDS = 60
PROMISED_SECONDS = 1.0
Step = Callable[[int, int], None]

OPERATOR = """
import json, os, sys, traceback, django
django.setup()
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            exec(json.loads(line))
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("ended", os.waitstatus_to_exitcode(status), flush=True)
"""
HANDS = """
import os, pathlib, signal
from django.core.management import call_command
from apps.audit import services as audit
from apps.core.actor import system_actor
from apps.secrets import services as secrets
from apps.secrets.models import Secret
def die_at(place, name, *, times=1, after=False):
    real, seen = getattr(place, name), []
    def dying(*arguments, **options):
        seen.append(1)
        if len(seen) == times:
            if after:
                real(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(place, name, dying)
def run(*command):
    import io
    said = io.StringIO()
    call_command(*command, stdout=said, stderr=said)
    print(said.getvalue(), end="")
"""
REGISTER_WORKER = f"""
import dataclasses, uuid
from apps.registry import services as registry
operator = dataclasses.replace(system_actor(uuid.UUID("{{organization}}")), is_platform_admin=True)
made = registry.register_server(operator, name="Worker", slug="worker", transport="stdio", command={WORKER!r})
registry.discover_server(operator, server_id=made.id)
registry.approve_server(operator, server_id=made.id)
"""
READ_ALL = """
wrong = [row.purpose for row in Secret.objects.filter(purpose__startswith="planted:")
         if secrets.open_secret(row.id, organization_id=row.organization_id) != f"plain {row.purpose}"]
print("read", Secret.objects.filter(purpose__startswith="planted:").count(), "wrong", len(wrong))
"""


class Operator:
    """Whoever runs commands on the installation: each in a process of its own, which may be killed on its way."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OPERATOR], cwd=PROJECT, env={**env, "DJANGO_SETTINGS_MODULE": "config.settings"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, code: str) -> tuple[int, str]:
        """How the process ended that ran this code, and what it said."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(HANDS + code) + "\n")
        self._process.stdin.flush()
        said: list[str] = []
        for line in self._process.stdout:
            if line.startswith("ended "):
                return int(line.split()[1]), "".join(said)
            said.append(line)
        raise AssertionError(f"The operator is gone: {said}")

    def done(self, code: str) -> str:
        """What was said by something that must go well."""
        status, said = self.run(code)
        assert status == 0, said
        return said

    def stop(self) -> None:
        """Go home."""
        self._process.communicate(timeout=MOST_SECONDS)


@dataclass
class House:
    """Two web processes, the upstream behind them, and the people of the organisation."""

    platform: Platform
    second: Process
    urls: tuple[str, str]
    upstream: Client
    operator: Operator
    server: str = ""
    accounts: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def kept(self, name: str) -> Path:
        """A file of keys."""
        return self.platform.data / "secrets" / name

    def client(self, credential: str, door: int = 0) -> Client:
        """A caller of one of the two."""
        return Client(self.urls[door], {"Authorization": f"Bearer {credential}"})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`manage.py up`, and a second web process on the same data folder and the same database."""
    port, second_port, upstream_port, old_port = (free_port() for _ in range(4))
    settings = {
        "GATEHOUSE_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{upstream_port},127.0.0.1:{old_port}",
        "GATEHOUSE_STDIO_ALLOW": shlex.join(WORKER),
        "GATEHOUSE_LOG_LEVEL": "warning",
        "GATEHOUSE_MCP_SSE": "1",
    }
    with ExitStack() as stack:
        settings["REDIS_URL"] = stack.enter_context(own_redis())
        if connection.vendor == "postgresql":
            settings["DATABASE_URL"] = stack.enter_context(fresh_database("two_webs"))
        stack.enter_context(evil_upstream(upstream_port))
        stack.enter_context(revision_http(LEGACY, old_port))
        platform = stack.enter_context(
            Platform(tmp_path_factory.mktemp("two-webs"), "--no-demo", port=port, **settings)
        )
        operator = Operator(platform.env)
        stack.callback(operator.stop)
        command = [
            sys.executable, "-m", "uvicorn", "config.asgi:application", "--port", second_port, "--loop", "uvloop",
            "--http", "httptools", "--ws", "websockets-sansio", "--lifespan", "on", "--no-access-log",
            "--no-proxy-headers",
        ]  # fmt: skip
        url = f"http://127.0.0.1:{second_port}"
        second = Process([str(part) for part in command], ready=f"{url}/ready", env=platform.env, start_seconds=180)
        second.is_warm = True
        stack.enter_context(second)
        made = House(platform, second, (platform.url, url), Client(f"http://127.0.0.1:{upstream_port}"), operator)
        _move_in(made, upstream_port, old_port)
        yield made


def _move_in(house: House, upstream_port: int, old_port: int) -> None:
    provisioned = house.platform.provision()
    house.accounts, house.keys = provisioned["users"], provisioned["keys"]
    admin, developer = signed_in(house.platform, "admin"), signed_in(house.platform, "developer")
    body = {"name": "Upstream", "slug": "up", "url": f"http://127.0.0.1:{upstream_port}/mcp"}
    house.server = f"/api/v1/mcp/servers/{offered(developer, admin, body)['id']}"
    offered(developer, admin, {"name": "Of before", "slug": "old", "url": f"http://127.0.0.1:{old_port}/mcp"})
    house.operator.done(REGISTER_WORKER.format(organization=provisioned["org"]["id"]))
    added = admin.post(f"{house.server}/credentials", {"kind": "header", "header": "X-Vendor", "secret": SECRET})
    assert added.status == 201, added.text
    house.operator.done(
        f"for number in range({PLANTED}):\n"
        f"    secrets.keep(system_actor(__import__('uuid').UUID('{provisioned['org']['id']}')),"
        ' purpose=f"planted:{number}", plain=f"plain planted:{number}")'
    )


class Traffic:
    """Callers who never stop; what they were answered when it was not what they came for."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.failures: list[str] = []
        self.served: Counter[str] = Counter()
        self.agent_keys = [house.keys["developer"]]
        self.pair = self._signed_in("owner", 0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        kinds: dict[Step, float] = {
            self._ask: 0.05, self._refresh: 0.1, self._enter: 2.0, self._call: 0.05, self._seal: 0.2,
        }  # fmt: skip
        self._refreshed = self._signed_in("admin", 1)
        self._threads = [threading.Thread(target=self._repeat, args=each) for each in kinds.items()]

    def __enter__(self) -> "Traffic":
        self.house.upstream.delete("/_headers")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(MOST_SECONDS)

    def wait_for_more(self) -> None:
        """Return when every kind of caller has been served some times more, by both processes."""
        before = Counter(self.served)
        deadline = time.monotonic() + MOST_SECONDS
        while any(self.served[name] < before[name] + 4 for name in ("ask", "refresh", "call", "seal")):
            assert time.monotonic() < deadline and not self.failures, (self.served, self.failures)
            time.sleep(0.05)

    def assert_nobody_noticed(self) -> None:
        """Nobody was refused, nobody was signed out, and the upstream was shown the credential each time."""
        assert self.failures == []
        assert self.house.client(self.pair["access"], 1).get(ME).status == 200
        calls = [each for each in self.house.upstream.get("/_headers").json() if each.get(":rpc") == "tools/call"]
        assert calls and {each.get("x-vendor") for each in calls} == {SECRET}

    def _repeat(self, step: Step, pause: float) -> None:
        for here, there in itertools.cycle(((0, 1), (1, 0))):
            try:
                step(here, there)
            except Exception as error:
                self._fail(f"{step.__name__}: {error!r}")
            if self._stop.wait(pause):
                return

    def _fail(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)

    def _note(self, kind: str, answer: Answer, *good: int) -> Answer:
        with self._lock:
            self.served[kind] += 1
            if answer.status not in (good or (200,)):
                self.failures.append(f"{kind}: {answer.status} {answer.text[:300]}")
        return answer

    def _signed_in(self, role: str, door: int) -> dict[str, str]:
        answer = Client(self.house.urls[door]).post(LOGIN, self.house.accounts[role])
        assert answer.status == 200, answer.text
        pair: dict[str, str] = answer.json()
        return pair

    def _ask(self, here: int, there: int) -> None:
        self._note("ask", self.house.client(self.pair["access"], here).get(ME))
        self._note("ask", self.house.client(self.agent_keys[-1], there).get(ME))

    def _refresh(self, here: int, there: int) -> None:
        spent = {"refresh": self._refreshed["refresh"]}
        self._refreshed = self._note("refresh", Client(self.house.urls[here]).post(REFRESH, spent)).json()
        self._note("refresh", self.house.client(self._refreshed["access"], there).get(ME))

    def _enter(self, here: int, there: int) -> None:
        pair = self._signed_in("viewer", here)
        self._note("enter", self.house.client(pair["access"], there).get(ME))

    def _call(self, here: int, there: int) -> None:
        for key in self.agent_keys:
            answer = self._note("call", called(self.house.client(key, here), "up__echo", text="hello"))
            if answer.json()["result"].get("isError") or "hello" not in answer.text:
                self._fail(f"call: {answer.text[:300]}")

    def _seal(self, here: int, there: int) -> None:
        """Each change lets both processes open the server's credentials anew at the next call."""
        maker, remover = (self.house.client(self.house.keys["owner"], door) for door in (here, there))
        body = {"kind": "header", "header": "X-Passing", "secret": "passing"}
        made = self._note("seal", maker.post(f"{self.house.server}/credentials", body), 201)
        self._note("seal", remover.delete(f"{self.house.server}/credentials/{made.json()['id']}"), 204)


def called(client: Client, tool: str, **arguments: Any) -> Answer:
    """Call a tool over MCP without a session."""
    meta = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {}}
    headers = {
        "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": REVISION, "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }  # fmt: skip
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return client.post("/mcp", body, headers=headers)


# Rotation under traffic -------------------------------------------------------------------------------------------


def test_signing_keys_rotate_under_traffic_although_killed_half_way(house: House) -> None:
    kept = house.kept("gatehouse_signing_key")

    with Traffic(house) as traffic:
        for after, keys in ((False, 1), (True, 2)):
            status, said = house.operator.run(
                f'die_at(pathlib.Path, "replace", after={after})\nrun("signing_key_rotate")'
            )
            assert status == KILLED, said
            assert kept.read_text().count("BEGIN PRIVATE KEY") == keys
            traffic.wait_for_more()
        said = house.operator.done('run("signing_key_rotate")')
        traffic.wait_for_more()

    traffic.assert_nobody_noticed()
    published = [Client(url).get("/.well-known/jwks.json").json()["keys"] for url in house.urls]
    assert published[0] == published[1] and len(published[0]) == 3
    assert f"{published[0][0]['kid']} signs" in said
    names = {path.name for path in kept.parent.iterdir() if "signing" in path.name}
    assert names == {"gatehouse_signing_key", "gatehouse_signing_key.lock"}
    assert {path.stat().st_mode & 0o777 for path in kept.parent.iterdir()} == {0o600}


def test_sealed_secrets_move_to_a_new_key_under_traffic_although_killed_half_way(house: House) -> None:
    kept = house.kept("gatehouse_sealing_keys")

    with Traffic(house) as traffic:
        status, said = house.operator.run('die_at(pathlib.Path, "replace", after=True)\nrun("sealing_key_rotate")')
        assert status == KILLED, said
        traffic.wait_for_more()
        house.operator.done('run("sealing_key_rotate")')
        status, said = house.operator.run('die_at(audit, "record", times=3)\nrun("secrets_rekey")')
        assert status == KILLED, said
        halfway = house.operator.done('run("secrets_rekey", "--check")\n' + READ_ALL)
        traffic.wait_for_more()
        resumed = house.operator.done('run("secrets_rekey")')
        an_hour_ago = time.time() - 3600
        os.utime(kept, (an_hour_ago, an_hour_ago))
        dropped = house.operator.done('run("sealing_key_rotate", "--drop-old")\n' + READ_ALL)
        traffic.wait_for_more()

    traffic.assert_nobody_noticed()
    left, done = (int(re.search(rf"(\d+) secrets are sealed by key {key}\b", halfway)[1]) for key in (1, 3))  # type: ignore[index]
    assert left > 0 and done >= 200, halfway
    assert f"read {PLANTED} wrong 0" in halfway and f"read {PLANTED} wrong 0" in dropped
    assert "secrets were sealed anew" in resumed and "Thrown away: 1, 2." in dropped
    assert kept.read_text().count(":") == 1 and kept.read_text().startswith("3:")


def test_an_api_key_rotates_under_traffic_although_killed_half_way(house: House) -> None:
    staff = house.client(house.keys["developer"])
    old = staff.get(ME).json()["key"]["id"]
    half = (
        "from apps.auth import services as auth; from apps.auth.models import ApiKey\n"
        f'key = ApiKey.objects.get(pk="{old}")\n'
        'actor = auth.actor_for_job("key", key.pk, key.organization_id)\n'
        'die_at(audit, "record", times=2)\n'
        "auth.rotate_key(actor, key_id=key.pk)"
    )

    with Traffic(house) as traffic:
        status, said = house.operator.run(half)
        assert status == KILLED, said
        traffic.wait_for_more()
        assert staff.get(f"{KEYS}/{old}").json()["successor_id"] is None
        answer = house.client(house.keys["developer"], 1).post(f"{KEYS}/{old}/rotate", {"overlap_seconds": 3600})
        assert answer.status == 201, answer.text
        traffic.agent_keys.append(answer.json()["key"])
        traffic.wait_for_more()
        traffic.agent_keys.pop(0)
        traffic.wait_for_more()

    traffic.assert_nobody_noticed()
    shown = staff.get(f"{KEYS}/{old}").json()
    assert shown["successor_id"] == answer.json()["id"] and shown["expires_at"]


# What ends, ends in both ------------------------------------------------------------------------------------------

PASSWORD, ANOTHER = "correct horse battery staple", "another good passphrase"
MAKE_PEOPLE = """
from apps.auth import services as auth
from uuid import UUID
actor = system_actor(UUID("{organization}"), surface="command")
for name in {names}:
    user = auth.create_user(actor, email=f"{{name}}@acme.example", password="{password}")
    member = auth.add_member(actor, organization_id=actor.organization_id, user_id=user.id, role="admin")
    print(name, user.id, member.id)
"""


class Somebody:
    """An admin who is signed in by REST, for MCP and in the control room, and whom both processes have met."""

    def __init__(self, house: House, name: str, user_id: str, membership_id: str) -> None:
        self.house, self.email, self.user_id = house, f"{name}@acme.example", user_id
        place = house.platform.provision()["org"]["id"]
        self.membership = f"/api/v1/orgs/{place}/members/{membership_id}"
        account = {"email": self.email, "password": PASSWORD}
        self.rest = Client(house.urls[0]).post(LOGIN, account).json()
        self.mcp = Client(house.urls[1]).post(LOGIN, {**account, "resource": f"{house.urls[0]}/mcp"}).json()
        self.browser = Visitor(house.platform.port, [])
        self.browser.fill("/admin/login/", {"username": self.email, "password": PASSWORD})

    def open(self) -> dict[str, bool]:
        """What opens for them, in each of the two."""
        found = {}
        for door, url in enumerate(self.house.urls):
            rest, mcp = (self.house.client(pair["access"], door) for pair in (self.rest, self.mcp))
            page = Visitor(int(url.rpartition(":")[2]), [], cookies=dict(self.browser.cookies)).get("/admin/")
            found |= {
                f"REST {door}": rest.get(ME).status == 200,
                f"MCP {door}": called(mcp, "platform_metadata").status == 200,
                f"control room {door}": page.status == 200,
            }
        return found

    def refreshed(self) -> list[int]:
        """What the two answer to the refresh tokens."""
        pairs = enumerate((self.rest, self.mcp))
        return [
            Client(self.house.urls[door]).post(REFRESH, {"refresh": pair["refresh"]}).status for door, pair in pairs
        ]


def test_what_ends_a_session_ends_access_and_refresh_in_both_processes_within_a_second(house: House) -> None:
    names = ["leaver", "changer", "deactivated", "demoted", "removed", "bystander"]
    organization = house.platform.provision()["org"]["id"]
    made = house.operator.done(MAKE_PEOPLE.format(organization=organization, names=names, password=PASSWORD))
    people = {line.split()[0]: Somebody(house, *line.split()) for line in made.splitlines()}
    owner = house.client(house.keys["owner"])
    for person in people.values():
        assert all(person.open().values()), person.open()

    ended = [
        Client(house.urls[0]).post(LOGOUT, {"refresh": people["leaver"].rest["refresh"]}).status,
        Visitor(house.platform.port, [], cookies=dict(people["changer"].browser.cookies))
        .fill(
            "/admin/password_change/",
            {"old_password": PASSWORD, "new_password1": ANOTHER, "new_password2": ANOTHER},
        )
        .status,
        house.operator.run(
            "from apps.auth import services as auth\n"
            f'auth.deactivate_user(system_actor(), user_id="{people["deactivated"].user_id}")'
        )[0],
        owner.patch(people["demoted"].membership, {"role": "viewer"}).status,
        owner.delete(people["removed"].membership).status,
    ]
    time.sleep(PROMISED_SECONDS)
    opened = {name: person.open() for name, person in people.items()}
    refreshed = {name: person.refreshed() for name, person in people.items()}

    assert ended == [204, 302, 0, 200, 204]
    leaver = opened.pop("leaver")
    assert not leaver["REST 0"] and not leaver["REST 1"] and refreshed.pop("leaver")[0] == 401
    assert all(opened.pop("bystander").values()) and refreshed.pop("bystander") == [200, 200]
    assert not [(name, place) for name, places in opened.items() for place, is_open in places.items() if is_open]
    assert refreshed == {name: [401, 401] for name in names[1:5]}


# Questions through the other one ------------------------------------------------------------------------------------

WAYS = ((0, 1), (1, 0))
LARGE_MEGABYTES = 9
ALICE = {"elicitation/create": {"action": "accept", "content": {"name": "Alice"}}}


def speaker(house: House, revision: str, role: str = "developer") -> Speaker:
    """A client before somebody who answers forms, which knows both addresses."""
    return Speaker(house.urls, house.keys[role], revision, {"elicitation": {}}, ALICE)


@pytest.mark.parametrize("revision", [LEGACY, REVISION])
def test_a_question_is_answered_through_the_process_that_did_not_ask(house: House, revision: str) -> None:
    """Of a session, by a message of its own; of a call that waits for its client, by the next round."""
    client = speaker(house, revision)
    client.begin()
    said = []

    for client.asks_at, client.answers_at in WAYS:
        heard = client.use("old__ask", {"message": "Who?"})
        assert [question["params"]["message"] for question in heard.questions] == ["Who?"]
        said.append(heard.result["content"][0]["text"])

    client.end()
    assert said == ["accept: Alice"] * 2


def test_what_is_posted_to_the_process_that_has_not_the_stream_is_answered_on_the_stream(house: House) -> None:
    """HTTP+SSE: a call, and the answer to its question; a stranger's POST is as unknown there as here."""
    for listens_at, posts_at in WAYS:
        client = SseSpeaker(
            house.urls, house.keys["developer"], LEGACY, {"elicitation": {}}, ALICE,
            asks_at=posts_at, answers_at=posts_at, listens_at=listens_at,
        )  # fmt: skip
        client.begin()
        heard = client.use("old__ask", {"message": "Who?"})
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        strangers = []
        for client.asks_at in (0, 1):
            strangers.append(client.post(ping, key=house.keys["admin"]).status)
        client.end()

        assert heard.result["content"][0]["text"] == "accept: Alice"
        assert strangers == [404, 404]
        deadline = time.monotonic() + MOST_SECONDS
        while client.post(ping).status != 404:  # who has left has no session in either
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_call_that_waits_in_another_process_is_continued_by_its_caller_alone(house: House) -> None:
    mine, stranger = speaker(house, REVISION), speaker(house, REVISION, "admin")
    call = {"name": "old__ask", "arguments": {"message": "Who?"}}
    asked = mine.once("tools/call", call).result
    continued = {
        **call, "requestState": asked["requestState"],
        "inputResponses": dict.fromkeys(asked["inputRequests"], ALICE["elicitation/create"]),
    }  # fmt: skip

    for stranger.asks_at in (0, 1):
        refused = stranger.once("tools/call", continued).error
        assert refused["code"] == -32602 and "requestState" in refused["data"]["details"]["fields"]

    mine.asks_at = 1
    assert mine.once("tools/call", continued).result["content"][0]["text"] == "accept: Alice"
    assert "ended" in mine.once("tools/call", continued).error["data"]["details"]["fields"]["requestState"][0]


def test_a_task_of_a_child_process_is_reached_through_the_process_that_has_no_such_child(house: House) -> None:
    client = speaker(house, REVISION)
    client.capabilities = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    made, told = [], []

    for one, other in WAYS:
        call = {"name": "worker__slow_compute", "arguments": {"seconds": 60, "label": "x"}}
        client.asks_at = one
        made.append(client.once("tools/call", call).result)
        client.asks_at = other
        told.append(client.once("tasks/get", {"taskId": made[-1]["taskId"]}).result["status"])
        client.once("tasks/cancel", {"taskId": made[-1]["taskId"]})

    assert [task["resultType"] for task in made] == ["task", "task"]
    assert told == ["working", "working"]


# Answers through the other one --------------------------------------------------------------------------------------


def test_a_large_answer_of_a_session_arrives_whole_through_the_other_process(house: House) -> None:
    client = speaker(house, LEGACY)
    client.begin()

    for client.asks_at in (1, 0):
        heard = client.use("up__huge", {"megabytes": LARGE_MEGABYTES})
        assert heard.result["content"][0]["text"] == "x" * LARGE_MEGABYTES * 1024 * 1024

    client.end()


def test_a_stream_whose_key_is_revoked_ends_through_either_process_and_none_calls_that_an_error(house: House) -> None:
    owner = house.client(house.keys["owner"])
    made = owner.post(KEYS, {"name": "passing"}).json()
    clients = [speaker(house, LEGACY) for _ in house.urls]
    for door, client in enumerate(clients):
        client.key = made["key"]
        client.begin()
        client.asks_at = door
    streams = [opened(client) for client in clients]

    assert owner.delete(f"{KEYS}/{made['id']}").status == 204
    said = [rest_of(stream) for stream in streams]

    assert all(b"id: " in each for each in said)
    assert '"level": "error"' not in house.platform.output()
    assert "ERROR" not in house.second.output()


def opened(client: Speaker) -> HTTPResponse:
    """The stream of a session, which has begun."""
    connection = HTTPConnection(urlsplit(client.doors[client.asks_at]).netloc, timeout=MOST_SECONDS)
    connection.request("GET", "/mcp", headers=client._headers("", {}))
    response = connection.getresponse()
    assert response.status == 200
    return response
