"""No secret is shown, logged, stored in the clear, sent to a worker or given to a child (K01), nor shown again (K02).

A canary is planted in every place that takes a secret; what the platform makes (keys, tokens) counts as one. Then every
flow is driven through REST, MCP, the control room and jobs, with errors forced on the way and the log at its most
talkative. At the end every answer, log line, row, message, command line and child's environment is searched. The one
answer that hands a secret out may show it.
"""

import json
import os
import re
import shlex
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pytest

from tests.fixtures.faults import own_redis
from tests.fixtures.queues import own_queue
from tests.fixtures.servers import evil_stdio_command, evil_upstream, free_port, gossip
from tests.house.canaries import Canaries, Seen, Visitor, Wire, files_of, processes_of, rows_of
from tests.journeys.platform import ColdPlatform, Platform

pytestmark = pytest.mark.slow_process

SERVERS = "/api/v1/mcp/servers"
KEYS = "/api/v1/auth/api-keys"
LOGIN = "/api/v1/auth/login"
JOB_SECONDS = 90
PLACES = ("error", "refusal", "unauthorized", "type", "list", "hello", "call", "result", "password")
KINDS: dict[str, dict[str, str]] = {
    "bearer": {"kind": "bearer"},
    "header": {"kind": "header", "header": "X-Vendor"},
    "basic": {"kind": "basic", "username": "gatehouse"},
}
EVIL = ("leak", "is_error", "not_json", "redirect", "nothing")
ERAS = ("2025-11-25", "2026-07-28")


@dataclass
class Story:
    """A platform whose every secret is known, and all that it has answered."""

    platform: Platform
    canaries: Canaries
    ports: dict[str, int]
    wires: dict[str, Wire]
    database_url: str
    seen: list[Seen] = field(default_factory=list)

    def visitor(self, **headers: str) -> Visitor:
        """Somebody whose answers are remembered."""
        return Visitor(self.platform.port, self.seen, headers)

    def signed_in(self, name: str, account: dict[str, str], **more: str) -> Visitor:
        """With tokens, which this one answer may show."""
        answer = self.visitor().post(LOGIN, {**account, **more})
        assert answer.status == 200, answer.text
        for kind in ("access", "refresh"):
            self.canaries.keep(f"{kind} token of {name}", answer.json()[kind], answer=answer)
        return self.visitor(Authorization=f"Bearer {answer.json()['access']}")

    def finished(self, visitor: Visitor, job_id: str) -> None:
        """Wait for a job to end, or to wait for its next attempt."""
        deadline = time.monotonic() + JOB_SECONDS
        while time.monotonic() < deadline:
            job = visitor.get(f"/api/v1/jobs/{job_id}").json()
            if job["state"] in ("completed", "failed") or (job["attempts"] and job["state"] == "pending"):
                return
            time.sleep(0.1)
        raise AssertionError("The job does not end.")


# The platform ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["embedded", "grown"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everything that happens, once; the tests look at what it left behind."""
    canaries = Canaries()
    ports = {"gossip": free_port(), "evil": free_port()}
    settings = {
        "GATEHOUSE_LOG_LEVEL": "debug",
        "GATEHOUSE_EGRESS_ALLOW": ",".join(f"127.0.0.1:{port}" for port in ports.values()),
        "GATEHOUSE_STDIO_ALLOW": shlex.join(evil_stdio_command()),
        **{
            name: canaries.plant(name)
            for name in ("GATEHOUSE_SECRET_KEY", "GATEHOUSE_KEY_PEPPER", "GATEHOUSE_JOURNAL_KEY")
        },
    }
    services: dict[str, str] = {}
    if request.param == "grown":
        services = request.getfixturevalue("services")
        services["DATABASE_URL"] = _with_password(services["DATABASE_URL"], canaries.plant("database password"))
    data = tmp_path_factory.mktemp(f"canaries-{request.param}")
    wires = {name: Wire(services[name]) for name in ("REDIS_URL", "BROKER_URL") if name in services}
    services |= {name: wire.url for name, wire in wires.items()}
    platform = ColdPlatform(data, "--no-demo", **settings, **services)
    with gossip(ports["gossip"]), evil_upstream(ports["evil"]), platform:
        told = Story(platform, canaries, ports, wires, services.get("DATABASE_URL", ""))
        _tell(told)
        time.sleep(1)  # what is written off the hot path arrives
        yield told


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, str]]:
    """PostgreSQL, Redis and RabbitMQ, where they are given; else the platform does not grow."""
    given = {name: os.environ.get(f"TEST_{name}", "") for name in ("DATABASE_URL", "REDIS_URL", "BROKER_URL")}
    missing = [name for name, value in given.items() if not value]
    if missing:
        pytest.skip(f"There is no TEST_{missing[0]}.")
    import psycopg

    name = f"canaries_{os.getpid()}"
    server = given["DATABASE_URL"].rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
        connection.execute(f'CREATE DATABASE "{name}"')
        with own_redis() as redis, own_queue(given["BROKER_URL"]) as queue:
            yield {
                **given, "DATABASE_URL": f"{server}/{name}", "REDIS_URL": redis, "GATEHOUSE_QUEUE": queue,
            }  # fmt: skip
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _with_password(url: str, password: str) -> str:
    """The address with another password; where the server trusts us it is never asked for, but it is known."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{parts.hostname}:{parts.port or 5432}"))


# What happens ----------------------------------------------------------------------------------------------------


def _tell(story: Story) -> None:
    acme, globex = story.platform.provision(), story.platform.provision("globex")
    for made in (acme, globex):
        for role, key in made["keys"].items():
            story.canaries.keep(f"key of {made['org']['slug']}'s {role}", _hidden_part(key))
            story.canaries.keep(f"password of {made['org']['slug']}'s {role}", made["users"][role]["password"])
    story.canaries.keep("password of the platform admin", acme["platform_admin"]["password"])
    owner = story.signed_in("the owner", acme["users"]["owner"])
    root = story.signed_in("the platform admin", acme["platform_admin"], organization="acme")
    for chapter in (_sign_in, _make_keys, _send_nonsense):
        chapter(story, owner)
    _use_servers(story, owner)
    _use_a_process(story, root, owner)
    _call_as_an_agent(story, owner, acme["keys"]["developer"])
    _work_in_the_control_room(story, acme["users"]["owner"])
    _work_in_the_control_room(story, acme["platform_admin"], is_root=True)
    _read_everything(story, owner)
    _read_everything(story, story.visitor(Authorization=f"Bearer {globex['keys']['owner']}"))


def _hidden_part(key: str) -> str:
    """What comes after the part of a key that may be shown."""
    return key.split("_")[2]


def _sign_in(story: Story, owner: Visitor) -> None:
    password = story.canaries.plant("password of Carol")
    organization = owner.get("/api/v1/auth/me").json()["organization"]["id"]
    carol = {"email": "carol@acme.example", "role": "viewer"}
    invitations, accept = f"/api/v1/orgs/{organization}/invitations", "/api/v1/auth/invitations/accept"
    invited = owner.post(invitations, carol)
    token = _token_of(story, "Carol", invited)
    owner.post(invitations, carol)
    owner.get(invitations)
    for refused in ({"token": token, "password": "short"}, {"token": token}, {"token": [token]}):
        assert story.visitor().post(accept, refused).status == 422
    story.visitor().get(f"{accept}?token={token}")
    assert story.visitor().post(accept, {"token": token, "password": password}).status == 201
    story.visitor().post(accept, {"token": token, "password": password})
    for number in range(6):  # until the lock-out
        wrong = {"email": "carol@acme.example", "password": story.canaries.plant(f"wrong password {number}")}
        story.visitor().post(LOGIN, wrong)
    signed_in = story.visitor().post(LOGIN, {**story.platform.account("viewer")})
    for kind in ("access", "refresh"):
        story.canaries.keep(f"first {kind} token", signed_in.json()[kind], answer=signed_in)
    first = signed_in.json()["refresh"]
    rotated = story.visitor().post("/api/v1/auth/refresh", {"refresh": first})
    for kind in ("access", "refresh"):
        story.canaries.keep(f"second {kind} token", rotated.json()[kind], answer=rotated)
    story.visitor().post("/api/v1/auth/refresh", {"refresh": first})
    story.visitor().post("/api/v1/auth/logout", {"refresh": rotated.json()["refresh"]})
    story.visitor(Authorization=f"Bearer {rotated.json()['access']}").get("/api/v1/auth/me")
    story.visitor().post("/api/v1/auth/refresh", {"refresh": story.canaries.plant("no refresh token")})


def _token_of(story: Story, name: str, invited: Seen) -> str:
    """What the link of an invitation has behind its #, which this one answer may show."""
    token = re.findall(r"#(gate_invitation_[\w-]+)", invited.text)[0]
    return story.canaries.keep(f"invitation of {name}", token, answer=invited)


def _make_keys(story: Story, owner: Visitor) -> None:
    made = owner.post(KEYS, {"name": "ci", "scopes": ["tool.*"]})
    key = made.json()["key"]
    story.canaries.keep("key that was made", _hidden_part(key), answer=made)
    user = story.visitor(Authorization=f"Bearer {key}")
    user.get("/api/v1/auth/me")
    user.post(SERVERS, {})
    owner.get(KEYS)
    owner.get(f"{KEYS}/{made.json()['id']}")
    assert owner.ask("DELETE", f"{KEYS}/{made.json()['id']}").status == 204
    for path in ("/api/v1/auth/me", SERVERS, "/mcp"):
        user.get(path)
        story.visitor().get(f"{path}?access_token={key}&token={key}&api_key={key}")
        story.visitor(X_Api_Key=key).get(path)
        story.visitor(Authorization=f"Basic {key}").get(path)
        story.visitor(Authorization=f"Bearer {key[:-1]}0").get(path)


def _send_nonsense(story: Story, owner: Visitor) -> None:
    plant = story.canaries.plant
    for number, path in enumerate((LOGIN, KEYS, SERVERS, "/api/v1/auth/refresh", "/mcp")):
        secret = plant(f"secret in nonsense {number}")
        for content in (
            {"password": {"deep": secret}}, {"password": [secret]}, {"refresh": {"x": secret}}, {"secret": secret},
            [secret], {"name": secret * 50, "slug": secret},
        ):  # fmt: skip
            owner.post(path, content, X_Secret=secret, Cookie=f"sessionid={secret}")
        for text in (f'{{"password": "{secret}', f'{{"a": NaN, "password": "{secret}"}}', f"password={secret}&x=%00"):
            owner.post(path, text.encode())
            owner.post(path, text.encode(), Content_Type="application/x-www-form-urlencoded")
        owner.get(f"{path}?password={secret}")


def _use_servers(story: Story, owner: Visitor) -> None:
    places = PLACES[::4] if story.database_url else PLACES  # what servers say is the same story in both
    for place in places:
        for name, kind in KINDS.items():
            if place == "password" and name != "basic":
                continue
            slug = f"{place[:9]}-{name}"
            body = {"name": slug, "slug": slug, "url": f"http://127.0.0.1:{story.ports['gossip']}/{place}"}
            server = owner.post(SERVERS, body)
            address = f"{SERVERS}/{server.json()['id']}"
            story.finished(owner, server.json()["job_id"])
            secret = story.canaries.plant(f"{name} credential of {place}")
            assert owner.post(f"{address}/credentials", {**kind, "secret": secret}).status == 201
            owner.post(f"{address}/credentials", {**kind, "secret": secret})
            owner.post(f"{address}/credentials", {"kind": "header", "header": "a b", "secret": secret})
            story.finished(owner, owner.post(f"{address}/discover").json()["id"])
            for deed in ("check", "test-connection", "approve", "disable", "enable"):
                owner.post(f"{address}/{deed}")
            owner.ask("PATCH", address, {"description": "Talks too much."})
            owner.ask("OPTIONS", address)
            for list_of in ("capabilities", "credentials", "checks", "discoveries", "health"):
                owner.get(f"{address}/{list_of}")


def _use_a_process(story: Story, root: Visitor, owner: Visitor) -> None:
    secret = story.canaries.plant("declared variable")
    body = {
        "name": "Process", "slug": "process", "transport": "stdio", "command": evil_stdio_command(),
        "env": {"API_TOKEN": secret},
    }  # fmt: skip
    assert owner.post(SERVERS, body).status == 403
    made = root.post(SERVERS, body)
    assert made.status == 201, made.text
    story.finished(root, made.json()["job_id"])
    for deed in ("approve", "check", "test-connection"):
        assert root.post(f"{SERVERS}/{made.json()['id']}/{deed}").status == 200
    root.ask("PATCH", f"{SERVERS}/{made.json()['id']}", {"env": {"API_TOKEN": secret, "LD_PRELOAD": secret}})
    owner.get(f"{SERVERS}/{made.json()['id']}")


def _call_as_an_agent(story: Story, owner: Visitor, key: str) -> None:
    body = {"name": "Evil", "slug": "evil", "url": f"http://127.0.0.1:{story.ports['evil']}/mcp"}
    made = owner.post(SERVERS, body)
    story.finished(owner, made.json()["job_id"])
    secret = story.canaries.plant("credential of the evil upstream")
    owner.post(f"{SERVERS}/{made.json()['id']}/credentials", {"kind": "bearer", "secret": secret})
    owner.post(f"{SERVERS}/{made.json()['id']}/approve")
    time.sleep(1)  # a change holds within a second
    for era in ERAS:
        agent = story.visitor(**{
            "Authorization": f"Bearer {key}", "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": era, "X-Of-The-Caller": story.canaries.plant(f"header of the caller in {era}"),
            "Cookie": f"mine={story.canaries.plant(f'cookie of the caller in {era}')}",
        })  # fmt: skip
        ask = _asking(agent, era)
        tools = ask("tools/list", {}).json()["result"]["tools"]
        assert {"evil__leak", "process__environ"} <= {tool["name"] for tool in tools}
        told = [tool["name"] for tool in tools if tool["name"].endswith("__gossip")]
        for name in (*(f"evil__{each}" for each in EVIL), "process__environ", *told):
            ask("tools/call", {"name": name, "arguments": {}})
        ask("tools/call", {"name": "search", "arguments": {"query": "", "password": secret}})
        ask("nothing/at-all", {"token": secret})
        if era == ERAS[0]:
            ask("tools/call", {"name": "process__exit_now", "arguments": {}})
        assert "Canary" not in Visitor(story.ports["evil"], []).get("/_headers").text.replace(secret, "")


def _asking(agent: Visitor, era: str) -> Callable[[str, dict[str, Any]], Seen]:
    """How to ask in this era; in the older one a session is opened first."""
    meta = {
        f"io.modelcontextprotocol/{name}": value
        for name, value in (("protocolVersion", era), ("clientCapabilities", {}))
    }

    def ask(method: str, params: dict[str, Any]) -> Seen:
        if era == ERAS[1]:
            agent.headers.update({"Mcp-Method": method, "Mcp-Name": params.get("name", "")})
            params = {**params, "_meta": meta}
        return agent.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    if era == ERAS[0]:
        hello = {"protocolVersion": era, "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
        opened = ask("initialize", hello)
        agent.headers["Mcp-Session-Id"] = re.findall(r"mcp-session-id: (\S+)", opened.head, re.IGNORECASE)[0]
        agent.post("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"})
    return ask


def _work_in_the_control_room(story: Story, account: dict[str, str], *, is_root: bool = False) -> None:
    browser = story.visitor()
    who = account["email"]
    sign_in = {"username": who, "password": story.canaries.plant(f"wrong password of {who}")}
    browser.fill("/admin/login/", sign_in)
    entered = browser.fill("/admin/login/", {**sign_in, "password": account["password"]})
    assert entered.status == 302, entered.text
    story.canaries.keep(f"admin session of {who}", browser.cookies["sessionid"], answer=entered)
    if not is_root:
        _fill_forms(story, browser)
    _look_at_every_page(browser)


def _fill_forms(story: Story, browser: Visitor) -> None:
    plant = story.canaries.plant
    me = re.findall(r'<option value="([0-9a-f-]{36})"', browser.get("/admin/accounts/apikey/add/").text)[0]
    made = browser.fill("/admin/accounts/apikey/add/", {"name": "from the form", "user": me})
    key = re.findall(r"gate_\w{16}_(\w{38})", made.text)
    assert key, made.status
    story.canaries.keep("key made in the form", key[0], answer=made)
    server = re.findall(r'<option value="([0-9a-f-]{36})"', browser.get("/admin/registry/credential/add/").text)[0]
    for kind in (
        {"kind": "header", "header": "X-From-Form"}, {"kind": "header", "header": "not a header"},
        {"kind": "bearer", "header": "X-Refused"}, {"kind": "nothing"},
    ):  # fmt: skip
        browser.fill(
            "/admin/registry/credential/add/",
            {"server": server, **kind, "secret": plant(f"secret in the form, {kind}")},
        )
    browser.fill("/admin/accounts/invitation/add/", {"email": "no address", "role": "viewer"})
    invited = browser.fill("/admin/accounts/invitation/add/", {"email": "dave@acme.example", "role": "viewer"})
    token, dave = _token_of(story, "Dave", invited), story.visitor()
    for again in (plant("password that is not the same"), plant("password of Dave")):
        dave.fill(
            "/invitation", {"token": token, "name": "Dave", "password": plant("password of Dave"), "again": again}
        )
    browser.fill("/admin/password_change/", {
        "old_password": plant("wrong old password"), "new_password1": plant("new password"),
        "new_password2": plant("repeated password"),
    })  # fmt: skip


def _look_at_every_page(browser: Visitor) -> None:
    """Each list of the menu, and of each list the first rows, with their history."""
    for path in browser.links(browser.get("/admin/")):
        page = browser.get(path)
        rows = [link for link in browser.links(page) if link.startswith(path) and link.endswith("/change/")]
        for row in rows[:6]:
            assert browser.get(row).status == 200
            browser.get(row.replace("/change/", "/history/"))


def _read_everything(story: Story, visitor: Visitor) -> None:
    document = story.visitor().get("/api/openapi.json").json()
    for path, operations in document["paths"].items():
        if "get" in operations and "{" not in path:
            visitor.get(path)
        visitor.ask("OPTIONS", path)
    visitor.get("/api/v1/audit/logs?page_size=200")
    visitor.get("/api/v1/metrics/events?page_size=200")
    visitor.get("/api/v1/jobs?page_size=200")
    visitor.get(f"{SERVERS}?page_size=200")
    for path in ("/health", "/ready", "/docs", "/redoc"):
        story.visitor().get(path)


# K01 -------------------------------------------------------------------------------------------------------------

IN_THE_CLEAR = ("declared variable",)  # variables of a process are plain by design: in their row, and in the process


def test_the_story_was_told(story: Story) -> None:
    """A search that finds nothing where nothing happened would prove nothing."""
    statuses = {seen.status for seen in story.seen}
    assert {200, 201, 204, 302, 400, 401, 403, 404, 405, 422, 429} <= statuses
    assert not {status for status in statuses if status >= 500}
    assert len(story.canaries.planted) > 60
    assert '"level": "debug"' in story.platform.output()


def test_no_answer_shows_a_secret_but_the_one_that_hands_it_out(story: Story) -> None:
    found = [line for seen in story.seen for line in story.canaries.found_in(seen.asked, seen.shown, seen=seen)]

    assert found == []


def test_no_line_of_the_log_holds_a_secret(story: Story) -> None:
    assert story.canaries.found_in("the log", story.platform.output().encode()) == []


def test_nothing_is_kept_in_the_clear(story: Story) -> None:
    kept = [*files_of(story.platform.data)]
    kept += rows_of(story.database_url) if story.database_url else []

    assert kept
    found = [line for where, text in kept for line in story.canaries.found_in(where, text, but=IN_THE_CLEAR)]
    assert found == []


def test_nothing_secret_goes_to_the_broker_or_the_cache(story: Story) -> None:
    assert all(b"registry.discover" in wire.bytes for name, wire in story.wires.items() if name == "BROKER_URL")

    found = [line for name, wire in story.wires.items() for line in story.canaries.found_in(name, bytes(wire.bytes))]

    assert found == []


def test_no_command_line_and_no_childs_environment_holds_a_secret(story: Story) -> None:
    places = list(processes_of(story.platform.pid))
    children = [where for where, _ in places if where.startswith("the variables")]

    found = [line for where, text in places for line in story.canaries.found_in(where, text, but=IN_THE_CLEAR)]

    assert children, "The stdio server should be running."
    assert found == []


@pytest.mark.parametrize("spelling", [str, str.upper, quote, lambda text: b64encode(f"user:{text}".encode()).decode()])
def test_a_secret_that_gets_out_is_found(story: Story, spelling: Callable[[str], str]) -> None:
    """The control: were one of them in an answer or in the log, the searches above would say so."""
    secret = story.canaries.planted["bearer credential of error"]
    line = f'{{"message": "Authorization: {spelling(secret)}"}}'.encode()

    assert story.canaries.found_in("a line", line)


# K02 -------------------------------------------------------------------------------------------------------------

SECRET_NAME = re.compile(
    r"password|secret\Z|secret_|token\Z|digest\Z|\bkey\Z|lookup|pepper|credential\Z", re.IGNORECASE
)
SHOWN_ONCE = {("NewKeyOut", "key"), ("TokensOut", "access"), ("TokensOut", "refresh")}
# Of no use to anybody: digests of public definitions and of journal entries, and how tokens are called.
HARMLESS = {"token_type", "digest", "previous_digest", "key"}


def test_the_document_promises_secrets_only_where_they_are_handed_out(story: Story) -> None:
    document = story.visitor().get("/api/openapi.json").json()
    shown = {
        (name, field)
        for name, schema in document["components"]["schemas"].items()
        if name.endswith("Out")
        for field in schema.get("properties", {})
        if SECRET_NAME.search(field) and (field not in HARMLESS or (name, field) in SHOWN_ONCE)
    }

    assert shown <= SHOWN_ONCE
    assert "Canary" not in json.dumps(document)


def test_a_credential_is_shown_without_its_secret(story: Story) -> None:
    answers = [
        seen for seen in story.seen if re.fullmatch(r"(GET|POST) .*/credentials", seen.asked) and seen.status < 300
    ]
    rows = [row for seen in answers for row in (seen.json() if isinstance(seen.json(), list) else [seen.json()])]

    assert len(rows) > len(KINDS)
    assert {frozenset(row) for row in rows} == {frozenset({"id", "kind", "header", "username", "created_at"})}


def test_a_changed_server_is_echoed_without_the_values_of_its_variables(story: Story) -> None:
    answers = [seen for seen in story.seen if seen.asked.startswith(f"PATCH {SERVERS}") and seen.status == 200]

    assert answers
    assert all("env" not in seen.json() for seen in answers)
