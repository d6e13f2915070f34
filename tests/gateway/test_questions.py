"""What servers may ask of whoever calls them, what is refused and written down, and for whom an answer's state is."""

import shlex
import sys
from typing import Any

import pytest
from cryptography.fernet import Fernet

from apps.audit.models import Entry
from apps.gateway.services import hearing, rounds
from tests.fixtures.servers import FIXTURES
from tests.gateway.agent import BOTH, LEGACY, META, MODERN, Agent, agent_of, change, offer, refresh
from tests.gateway.conftest import Evil
from tests.live import Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
TOOLS = ("pry", "other")


def form(message: str = "Please", **fields: Any) -> dict[str, Any]:
    """A question to the person."""
    schema = {"type": "object", "properties": {name: {"type": "string", **about} for name, about in fields.items()}}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}}
ROOTS = {"method": "roots/list", "params": {}}
PASSWORDS = [
    form(password={}), form(userPassword={}), form(value={"title": "Your passphrase"}), form(api_key={}),
    form(value={"format": "password"}), form(accessToken={}), form(pin={}), form(**{"\uff50assword": {}}),
    form("Enter the password of your account.", value={}), form(value={"description": "The API key of the account"}),
]  # fmt: skip
HARMLESS = [
    form(name={}), form("Which colour?", colour={"enum": ["red"]}),
    form("Reset the password?", sure={"type": "boolean"}),
    form("Spinning wheels", wheel={}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_written_yet() -> None:
    hearing._journalled.clear()


@pytest.fixture(params=BOTH)
def prying(request: pytest.FixtureRequest, alice: Person, evil: Evil) -> Evil:
    """A server of either era that asks what it is told to ask."""
    definitions = [{"name": name, "inputSchema": {"type": "object"}} for name in (*TOOLS, "pry")]
    evil.put("tools", definitions)
    offer(alice, "up", evil.url, tools=TOOLS, protocol_version=request.param, timeout_seconds=30.0)
    return evil


def declared(agent: Agent, capabilities: dict[str, Any]) -> Agent:
    """The agent, whose client has declared this."""
    if agent.revision == LEGACY:
        hello = {"protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}
        agent.session = agent.send("initialize", hello).headers["mcp-session-id"]
    agent.capabilities = capabilities  # type: ignore[attr-defined]
    return agent


def asked(agent: Agent, question: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The answer to a call of the tool that asks."""
    meta = {META + "clientCapabilities": agent.capabilities}  # type: ignore[attr-defined]
    params = {"name": "up__pry", "arguments": question, **({"_meta": meta} if agent.revision == MODERN else {}), **more}
    answer = agent.send("tools/call", params)
    found: dict[str, Any] = answer.json()
    return found


def refusals() -> list[tuple[str, str, str]]:
    """What the journal says of questions that were refused."""
    entries = Entry.objects.filter(action="server.question_refused").order_by("id")
    return [(each.subject, each.details["method"], each.details["why"]) for each in entries]


# C32: what must not be asked --------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
@pytest.mark.parametrize("question", [form(name={}), SAMPLE, ROOTS], ids=["elicitation", "sampling", "roots"])
def test_what_a_client_has_not_declared_is_refused_and_written_down(
    live: Live, alice: Person, prying: Evil, revision: str, question: dict[str, Any]
) -> None:
    agent = declared(agent_of(live, alice, revision), {})

    told = asked(agent, question)

    assert "inputRequests" not in str(told)
    assert "has not declared" in str(told) or "cannot be asked" in str(told)
    assert [(server, method) for server, method, _ in refusals()] == [("server:up", question["method"])]


@pytest.mark.parametrize("revision", BOTH)
def test_what_nobody_may_be_asked_is_refused(live: Live, alice: Person, prying: Evil, revision: str) -> None:
    agent = declared(agent_of(live, alice, revision), ALL)

    told = asked(agent, {"method": "shell/run", "params": {"command": "id"}})

    assert "are not asked for shell/run" in str(told) or "offers no such method" in str(told)
    assert "inputRequests" not in str(told)


@pytest.mark.parametrize("revision", BOTH)
def test_no_form_reaches_a_person_that_asks_for_a_secret(
    live: Live, alice: Person, prying: Evil, revision: str
) -> None:
    agent = declared(agent_of(live, alice, revision), ALL)

    for question in PASSWORDS:
        hearing._journalled.clear()
        before = len(refusals())
        told = asked(agent, question)
        assert "asks for a secret" in str(told), question
        assert "inputRequests" not in str(told)
        assert len(refusals()) == before + 1


def test_a_server_that_asks_again_and_again_is_written_down_once_a_minute(
    live: Live, alice: Person, prying: Evil
) -> None:
    agent = declared(agent_of(live, alice, MODERN), {})

    for _ in range(5):
        asked(agent, ROOTS)

    assert len(refusals()) == 1


def test_harmless_forms_reach_the_client(live: Live, alice: Person, prying: Evil) -> None:
    agent = declared(agent_of(live, alice, MODERN), ALL)

    for question in (*HARMLESS, SAMPLE, ROOTS):
        result = asked(agent, question)["result"]
        assert result["resultType"] == "input_required", question
        assert next(iter(result["inputRequests"].values()))["method"] == question["method"]
    assert refusals() == []


WAYS = [(transport, revision) for transport in ("sse", "stdio", "a process each") for revision in BOTH]


@pytest.mark.parametrize("way", WAYS, ids="-for-".join)
def test_servers_of_the_other_transports_ask_no_more(
    live: Live, alice: Person, evil: Evil, settings: Any, way: tuple[str, str]
) -> None:
    transport, revision = way
    command = [sys.executable, str(FIXTURES / "stdio_prying.py")]
    settings.STDIO_ALLOW = (shlex.join(command),)
    evil.put("tools", [{"name": "pry", "inputSchema": {"type": "object"}}])
    where: dict[str, Any] = {"transport": "stdio", "command": command, "isolate_sessions": transport != "stdio"}
    if transport == "sse":
        where = {"transport": "sse", "url": f"http://127.0.0.1:{evil.port}/sse"}
    offer(alice, "up", tools=("pry",), timeout_seconds=30.0, **where)

    silent = declared(agent_of(live, alice, revision), {})
    for question in (form(name={}), SAMPLE, ROOTS):
        told = asked(silent, question)["result"]["content"][0]["text"]
        assert '"error"' in told and "inputRequests" not in told, told
    talking = declared(agent_of(live, alice, revision), ALL)
    for question in (form(password={}), {"method": "shell/run", "params": {}}):
        told = asked(talking, question)["result"]["content"][0]["text"]
        assert '"error"' in told and "inputRequests" not in told, told

    methods = {(method, "secret" in why) for _, method, why in refusals()}
    asked_for = {question["method"] for question in (form(name={}), SAMPLE, ROOTS)}
    assert methods >= {(method, False) for method in asked_for} | {("elicitation/create", True)}


# B19: for whom a state is -----------------------------------------------------------------------------------------


def continued(agent: Agent, state: str, tool: str = "up__pry", path: str = "/mcp") -> dict[str, Any]:
    """The answer to a call that goes on with this state."""
    meta = {META + "clientCapabilities": ALL}
    params = {
        "name": tool, "arguments": form(name={}), "_meta": meta, "requestState": state,
        "inputResponses": {"q": {"action": "accept", "content": {"name": "Ada"}},
                           "q1": {"action": "accept", "content": {"name": "Ada"}}},
    }  # fmt: skip
    found: dict[str, Any] = agent.send("tools/call", params, path=path).json()
    return found


def is_refused(answer: dict[str, Any]) -> bool:
    """Whether a state was refused for what it is."""
    return answer["error"]["code"] == -32602 and "requestState" in answer["error"]["data"]["details"]["fields"]


def state_of(agent: Agent) -> str:
    """The state of a call that asks."""
    state: str = asked(agent, form(name={}))["result"]["requestState"]
    return state


def test_a_state_is_good_for_its_own_caller_and_its_own_tool(
    live: Live, alice: Person, dora: Person, bob: Person, prying: Evil
) -> None:
    agent = declared(agent_of(live, alice, MODERN), ALL)
    offer(bob, "his", prying.url, tools=TOOLS)
    state = state_of(agent)

    assert is_refused(continued(agent_of(live, dora, MODERN), state))
    assert is_refused(continued(agent_of(live, alice, MODERN), state))  # another key of hers
    assert is_refused(continued(agent_of(live, bob, MODERN), state, tool="his__pry"))
    assert is_refused(continued(agent, state, tool="up__other"))

    assert "Ada" in continued(agent, state)["result"]["content"][0]["text"]


def test_a_state_is_good_at_its_own_endpoint(live: Live, alice: Person, dora: Person, prying: Evil) -> None:
    from apps.gateway import services as gateway
    from apps.gateway.schemas import BundleItemIn
    from apps.registry.models import Server

    server = Server.objects.get(slug="up")
    gateway.create_bundle(alice.actor, name="Desk", slug="desk", items=[BundleItemIn(server_id=server.id)])
    refresh(alice)
    agent = declared(agent_of(live, alice, MODERN), ALL)
    state = state_of(agent)

    assert is_refused(continued(agent, state, path="/mcp/desk"))
    assert "Ada" in continued(agent, state)["result"]["content"][0]["text"]


def test_no_state_that_was_changed_is_taken(live: Live, alice: Person, prying: Evil) -> None:
    agent = declared(agent_of(live, alice, MODERN), ALL)
    state = state_of(agent)
    flipped = [state[:at] + ("A" if state[at] != "A" else "B") + state[at + 1 :] for at in range(0, len(state), 7)]
    own = Fernet(Fernet.generate_key()).encrypt(b'{"of":"","up":"s","parked":""}').decode()

    for changed in (*flipped, state[:-4], state + "AAAA", state + "=", f" {state}", "", "s", own):
        assert is_refused(continued(agent, changed)), changed

    assert "Ada" in continued(agent, state)["result"]["content"][0]["text"]


def test_a_state_is_good_for_a_while(live: Live, alice: Person, prying: Evil, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = declared(agent_of(live, alice, MODERN), ALL)
    real = Fernet.encrypt
    seconds_ago = rounds.STATE_SECONDS + 60

    def earlier(self: Fernet, told: bytes) -> bytes:
        import time

        return self.encrypt_at_time(told, int(time.time()) - seconds_ago)

    monkeypatch.setattr(Fernet, "encrypt", earlier)
    old = state_of(agent)
    monkeypatch.setattr(Fernet, "encrypt", real)

    assert is_refused(continued(agent, old))
    assert "Ada" in continued(agent, state_of(agent))["result"]["content"][0]["text"]


def test_a_state_of_a_tool_that_was_withdrawn_opens_nothing(live: Live, alice: Person, prying: Evil) -> None:
    from apps.registry.models import Capability

    agent = declared(agent_of(live, alice, MODERN), ALL)
    state = state_of(agent)

    change(Capability.objects.get(name="pry"), is_enabled=False)

    assert continued(agent, state)["error"]["data"]["code"] == "NOT_FOUND"
