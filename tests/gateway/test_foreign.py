"""What is not the caller's to use is found by no name and no address, and no server is asked for it."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from apps.gateway import services as gateway
from apps.gateway.schemas import BundleItemIn
from apps.registry.models import Server
from tests.fixtures.servers import free_port, sink
from tests.gateway.agent import BOTH, LEGACY, MODERN, Agent, add_tool, agent_of, offer, refresh
from tests.gateway.conftest import Evil
from tests.live import Answer, Live
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)
NOTE, TEMPLATE = "test://hers", "hers://{id}/data"
ASKED = {"tools/call", "prompts/get", "resources/read", "completion/complete", "resources/subscribe"}


def offer_all(person: Person, slug: str, url: str, *resources: str, template: str = "") -> Server:
    """A server of the person's with a tool, a prompt, resources and a template."""
    server = offer(person, slug, url)
    add_tool(server, "greet", kind="prompt", definition={"name": "greet", "arguments": [{"name": "who"}]})
    for uri in resources:
        add_tool(server, uri, kind="resource", public_name=f"{slug}+{uri}", definition={"uri": uri, "name": "a"})
    if template:
        told = {"uriTemplate": template, "name": "t"}
        add_tool(server, template, kind="resource_template", public_name=f"{slug}+{template}", definition=told)
    refresh(person)
    return server


def requests(slug: str, uri: str, filled: str, template: str) -> list[tuple[str, dict[str, Any]]]:
    """Everything that names something."""
    argument = {"name": "who", "value": "a"}
    return [
        ("tools/call", {"name": f"{slug}__echo", "arguments": {}}),
        ("prompts/get", {"name": f"{slug}__greet"}),
        *(("resources/read", {"uri": each}) for each in (uri, f"{slug}+{uri}", filled, f"{slug}+{filled}")),
        ("resources/subscribe", {"uri": uri}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": f"{slug}__greet"}, "argument": argument}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": template}, "argument": argument}),
    ]


def sent(agent: Agent, method: str, params: dict[str, Any], path: str = "/mcp") -> Answer:
    """The answer to a request whose headers are right."""
    named = params.get("name") or params.get("uri")
    return agent.open().send(method, params, headers={"Mcp-Name": str(named)} if named else {}, path=path)


def told(agent: Agent, method: str, params: dict[str, Any], path: str = "/mcp") -> Any:
    """The error of a request, without what differs from request to request and without the names in it."""
    named, ref = params.get("name") or params.get("uri"), params.get("ref", {})
    answer = sent(agent, method, params, path)
    error: dict[str, Any] = answer.json()["error"]
    if isinstance(error.get("data"), dict):
        error["data"] = {
            name: value for name, value in error["data"].items() if name not in ("timestamp", "request_id")
        }
    text = json.dumps([answer.status, error])
    for word in sorted({str(named), str(ref.get("name")), str(ref.get("uri"))}, key=len, reverse=True):
        text = text.replace(word, "*")
    return json.loads(text)


def asked_of(evil: Evil) -> list[str]:
    """What the server was asked for by name."""
    return [each[":rpc"] for each in evil.seen("headers") if each[":rpc"] in ASKED]


# B05: another organisation's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", BOTH)
def test_nothing_of_another_organisation_is_listed_or_found_by_name_or_uri(
    live: Live, alice: Person, bob: Person, evil: Evil, revision: str
) -> None:
    server = offer_all(alice, "hers", evil.url, NOTE, template=TEMPLATE)
    gateway.create_bundle(alice.actor, name="Desk", slug="desk", items=[BundleItemIn(server_id=server.id)])
    refresh(alice)
    hers, his = agent_of(live, alice, revision), agent_of(live, bob, revision)
    lists = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
    seen = {method: json.dumps(hers.ask(method)["result"]) for method in lists}
    assert all("hers" in text for text in seen.values()), seen
    assert not any("hers" in json.dumps(his.ask(method)) for method in lists)

    theirs = requests("hers", NOTE, "hers://7/data", TEMPLATE)
    nobodys = requests("nope", "test://nope", "nope://7/data", "nope://{id}/data")
    if revision != LEGACY:
        theirs, nobodys = ([each for each in some if each[0] != "resources/subscribe"] for some in (theirs, nobodys))
    for (method, params), (_, missing) in zip(theirs, nobodys, strict=True):
        assert told(his, method, params) == told(his, method, missing), params
    for slug in ("desk", "none"):
        answers = [sent(his, method, params, path=f"/mcp/{slug}") for method, params in theirs]
        assert {(answer.status, answer.json()["error"]["code"]) for answer in answers} == {(404, "NOT_FOUND")}
        assert not any("hers" in answer.text for answer in answers)
    assert asked_of(evil) == []

    for method, params in theirs:  # whoever may, reaches the server with each of them
        sent(hers, method, params)
    assert set(asked_of(evil)) >= {"tools/call", "prompts/get", "resources/read", "completion/complete"}


# C33: addresses that nobody offers ----------------------------------------------------------------------------------


@pytest.fixture
def inside(settings: Any) -> Iterator[str]:
    """The address of a server that may be asked, as far as egress goes; nobody has, in the end."""
    port = free_port()
    settings.EGRESS_ALLOW = frozenset({*settings.EGRESS_ALLOW, f"127.0.0.1:{port}"})
    with sink(port):
        yield f"127.0.0.1:{port}"
        with urlopen(f"http://127.0.0.1:{port}/_hits", timeout=60) as answer:
            assert json.loads(answer.read()) == {"connections": 0, "hits": []}


def test_no_address_is_read_that_no_server_offers_and_none_by_gatehouse_itself(
    live: Live, alice: Person, evil: Evil, good: Evil, inside: str
) -> None:
    offered = f"http://{inside}/offered"
    offer_all(alice, "up", evil.url, offered, "file:///srv/note", template="file:///srv/{name}.txt")
    other = offer_all(alice, "other", good.url, "other://note")
    gateway.create_bundle(alice.actor, name="Desk", slug="desk", items=[BundleItemIn(server_id=other.id)])
    refresh(alice)
    foreign = [
        "file:///etc/passwd", "file:///srv/../etc/passwd", "file:///srv/a/../../etc/passwd.txt", "file:///srv/note/..",
        "file:///srv/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "FILE:///etc/passwd", "file://localhost/srv/note", "/etc/passwd",
        "http://169.254.169.254/latest/meta-data", f"http://{inside}/", f"http://{inside}/offered/../x",
        f"http://{inside}/offered?x", f"up+http://{inside}/", "other+file:///srv/note", "up+other://note",
        "other://note/../x", "up+up+file:///srv/note", "data:text/plain,hi", "javascript:1", "x" * 3000,
    ]  # fmt: skip

    for revision, status, code in ((LEGACY, 200, -32002), (MODERN, 400, -32602)):
        agent = agent_of(live, alice, revision)
        for uri in foreign:
            answered = told(agent, "resources/read", {"uri": uri})
            assert (answered[0], answered[1]["code"]) == (status, code), uri
        only_other = Agent(live.url, agent.key, revision, path="/mcp/desk").open()
        for uri in (offered, "file:///srv/note", "up+file:///srv/note", "file:///srv/a.txt"):
            assert told(only_other, "resources/read", {"uri": uri}, path="/mcp/desk")[1]["code"] == code, uri
    assert asked_of(evil) == asked_of(good) == []

    sent(agent, "resources/read", {"uri": offered})
    assert (asked_of(evil), asked_of(good)) == (["resources/read"], [])
