"""Clients of four revisions before servers of four revisions, over both transports: each speaks its own and no other.

What exists on both sides arrives; what one side lacks is said clearly, in the words of the client's revision.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from apps.auth import services as auth
from apps.core.actor import Actor
from apps.registry import services as registry
from tests.fixtures import servers
from tests.fixtures.revisions import ASKS, ICONS, LOG_LEVELS, MODERN, NO_ITEM, OLDEST, URI
from tests.gateway.agent import META, refresh
from tests.gateway.speaker import Heard, Speaker
from tests.gateway.sse_speaker import SseSpeaker, speaking
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.slow_process, pytest.mark.django_db(transaction=True)]
REVISIONS = (OLDEST, ASKS, ICONS, MODERN)
WAYS = [(revision, way) for way in ("streamable_http", "stdio") for revision in REVISIONS]
FORMS: dict[str, dict[str, Any]] = {
    OLDEST: {}, ASKS: {"elicitation": {}}, ICONS: {"elicitation": {"form": {}}}, MODERN: {"elicitation": {}},
}  # fmt: skip
"""What a client of each revision declares where it can show a form."""
ALICE = {"elicitation/create": {"action": "accept", "content": {"name": "Alice"}}}
MOST_TOUCHES = 100
ONLY_MODERN = {"resultType", "ttlMs", "cacheScope"}

INVALID_PARAMS, NO_METHOD, NO_RESOURCE, MISSING_CAPABILITY = -32602, -32601, -32002, -32021


@pytest.fixture(scope="module")
def ports() -> Iterator[Mapping[str, int]]:
    """A server of each revision over HTTP."""
    with servers.revisions_http(REVISIONS) as found:
        yield found


@pytest.fixture
def operator(alice: Person, root: Person) -> Actor:
    """The platform admin, who works for Acme: nobody else registers a stdio server."""
    return auth.actor_for_user(root.user, organization_id=alice.organization.id, surface="rest")


@pytest.fixture(params=WAYS, ids="-over-".join)
def upstream(
    request: pytest.FixtureRequest, alice: Person, operator: Actor, ports: Mapping[str, int], settings: Any
) -> str:
    """The revision of a server that is discovered and approved; one that asks is not shared as a process."""
    revision, way = request.param
    where: dict[str, Any] = {"url": f"http://127.0.0.1:{ports[revision]}/mcp"}
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{ports[revision]}"})
    if way == "stdio":
        command = servers.revisions_stdio_command(revision)
        settings.STDIO_ALLOW = (shlex.join(command),)
        where = {"transport": "stdio", "command": command, "isolate_sessions": ASKS <= revision < MODERN}
    server = registry.register_server(operator, name="Up", slug="up", **where)
    registry.discover_server(alice.actor, server_id=server.id)
    server = registry.approve_server(alice.actor, server_id=server.id)
    refresh(alice)
    assert server.protocol_version == revision
    return str(revision)


@contextmanager
def client_of(revision: str, live: Live, person: Person) -> Iterator[Speaker]:
    """A client of one revision, before somebody who answers forms."""
    made = Speaker((live.url,), live.key(person), revision, FORMS[revision], ALICE)
    said = made.begin()
    assert said.get("protocolVersion", revision) == revision and said.get("supportedVersions", [revision]) == [revision]
    yield made
    made.end()


def text_of(heard: Heard) -> str:
    """The text of a tool's result."""
    text: str = heard.result["content"][0]["text"]
    return text


def test_what_both_sides_have_arrives_and_the_rest_is_refused_clearly(
    live: Live, alice: Person, upstream: str, subtests: pytest.Subtests
) -> None:
    """For each client: a subtest of its own."""
    for revision in REVISIONS:
        with subtests.test(client=revision), client_of(revision, live, alice) as client:
            does_everything(client, upstream)


def test_a_client_of_the_oldest_transport_has_all_that_its_revision_has(
    live: Live, alice: Person, upstream: str, subtests: pytest.Subtests, settings: Any
) -> None:
    """The one revision that had no other over HTTP, and the last one that may come by it."""
    settings.MCP_SSE = True
    for revision in (OLDEST, ICONS):
        made = speaking((live.url,), live.key(alice), revision, FORMS[revision], answers=ALICE)
        with subtests.test(client=revision), made as client:
            does_everything(client, upstream)
            is_told_of_a_change(client)


def does_everything(client: Speaker, upstream: str) -> None:
    """All that a client can want."""
    uses_tools(client, upstream)
    is_told_the_progress(client, upstream)
    hears_the_log(client)
    uses_prompts(client)
    uses_resources(client)
    is_asked(client, upstream)
    is_refused_the_methods_of_the_other_era(client)


def test_what_one_client_of_a_key_can_be_asked_is_not_expected_of_another(
    live: Live, alice: Person, ports: Mapping[str, int], settings: Any
) -> None:
    """A server of before 2026-07-28 hears once for all what its client can; one key may be used by several clients."""
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{ports[ICONS]}"})
    server = registry.register_server(alice.actor, name="Up", slug="up", url=f"http://127.0.0.1:{ports[ICONS]}/mcp")
    registry.discover_server(alice.actor, server_id=server.id)
    registry.approve_server(alice.actor, server_id=server.id)
    refresh(alice)
    key = live.key(alice)
    mute, asked = (Speaker((live.url,), key, MODERN, can, ALICE) for can in ({}, FORMS[MODERN]))

    for _ in range(2):
        assert text_of(mute.use("up__ask", {"message": "Who?"})) == "This client cannot be asked."
        assert text_of(asked.use("up__ask", {"message": "Who?"})) == "accept: Alice"


def uses_tools(client: Speaker, upstream: str) -> None:
    """Tools by name, with what their own revision says of them; errors of a tool and of the protocol."""
    listed = client.ask("tools/list").result
    tools = {each["name"]: each for each in listed["tools"]}
    assert ("up__ask" in tools) == (upstream >= ASKS)
    assert {"up__echo", "up__add", "up__count", "up__fail"} <= set(tools)
    assert ("outputSchema" in tools["up__add"]) == (upstream >= ASKS)
    assert ("icons" in tools["up__echo"]) == (upstream >= ICONS)
    added, failed = client.use("up__add", {"a": 2, "b": 3}), client.use("up__fail")

    assert text_of(added) == "5" and added.result.get("structuredContent") == ({"sum": 5} if upstream >= ASKS else None)
    assert (text_of(failed), failed.result["isError"]) == ("This tool fails on purpose.", True)
    assert client.use("up__nothing").error["code"] == INVALID_PARAMS
    for result in (listed, added.result, failed.result):
        assert_is_of(client.revision, result, is_list=result is listed)


def assert_is_of(revision: str, result: Mapping[str, Any], *, is_list: bool) -> None:
    """A result has what its revision demands, and nothing of the other era."""
    if revision != MODERN:
        assert not ONLY_MODERN & set(result) and META + "serverInfo" not in result.get("_meta", {})
        return
    assert result["resultType"] == "complete" and result["_meta"][META + "serverInfo"]["name"] == "gatehouse"
    if is_list:
        assert result["cacheScope"] == "private" and result["ttlMs"] >= 0


def is_told_the_progress(client: Speaker, upstream: str) -> None:
    """Each report of progress, under the client's own token and before the result."""
    counted = client.use("up__count", {"to": 3}, progress="mine")

    told = [each["params"] for each in counted.notices if each["method"] == "notifications/progress"]
    assert text_of(counted) == "3"
    assert [(each["progressToken"], each["progress"], each["total"]) for each in told] == [
        ("mine", 1, 3), ("mine", 2, 3), ("mine", 3, 3),
    ]  # fmt: skip
    assert [each.get("message") for each in told] == (
        [None] * 3 if upstream == OLDEST else ["1 of 3", "2 of 3", "3 of 3"]
    )


def hears_the_log(client: Speaker) -> None:
    """As much of the server's log as it wants, said once for a session or with each request; each server is told."""
    for least in ("notice", "debug", "error"):
        meta = {"_meta": {META + "logLevel": least}} if client.is_modern else {}
        if not client.is_modern:
            assert client.ask("logging/setLevel", {"level": least}).result == {}
        logged = client.ask("tools/call", {"name": "up__log", "arguments": {}, **meta})
        told = [each["params"]["level"] for each in logged.notices if each["method"] == "notifications/message"]
        assert tuple(told) == LOG_LEVELS[LOG_LEVELS.index(least) :]
    if client.is_modern:
        assert client.use("up__log").notices == []


def uses_prompts(client: Speaker) -> None:
    """A prompt, the completion of its argument, and the server's own refusal."""
    named = {"name": "up__greet", "arguments": {"name": "Bob"}}
    about = {"ref": {"type": "ref/prompt", "name": "up__greet"}, "argument": {"name": "name", "value": "al"}}

    listed, got = client.ask("prompts/list").result, client.ask("prompts/get", named).result
    completed = client.ask("completion/complete", about).result

    assert [(each["name"], each["arguments"][0]["name"]) for each in listed["prompts"]] == [("up__greet", "name")]
    assert got["messages"][0]["content"]["text"] == "Greet Bob."
    assert completed["completion"]["values"] == ["alice", "alan"]
    assert client.ask("prompts/get", {"name": "up__greet"}).error["code"] == INVALID_PARAMS
    assert client.ask("prompts/get", {"name": "up__none"}).error["code"] == INVALID_PARAMS
    assert_is_of(client.revision, got, is_list=False)
    assert_is_of(client.revision, listed, is_list=True)


def uses_resources(client: Speaker) -> None:
    """A resource and one of a template; what is not there is said with the code of the client's revision."""
    listed, read = client.ask("resources/list").result, client.ask("resources/read", {"uri": URI}).result
    templates = client.ask("resources/templates/list").result
    item = client.ask("resources/read", {"uri": "demo://item/7"}).result

    assert [each["uri"] for each in listed["resources"]] == [URI]
    assert [each["uriTemplate"] for each in templates["resourceTemplates"]] == ["demo://item/{id}"]
    assert read["contents"][0]["text"] == "Hello." and item["contents"][0]["text"] == "Item 7."
    for uri in ("demo://nowhere", NO_ITEM):
        error = client.ask("resources/read", {"uri": uri}).error
        assert (error["code"], error["data"]["uri"]) == (INVALID_PARAMS if client.is_modern else NO_RESOURCE, uri)
    for result in (listed, templates, read):
        assert_is_of(client.revision, result, is_list=True)


def is_told_of_a_change(client: SseSpeaker) -> None:
    """A resource that it has subscribed to, on the same stream as everything else."""
    assert client.ask("resources/subscribe", {"uri": URI}).result == {}
    for _ in range(MOST_TOUCHES):  # a server may be listened to a moment after the answer
        told = client.use("up__touch", {"what": "resource"}).notices
        if told:
            break
    assert (told[0]["method"], told[0]["params"]) == ("notifications/resources/updated", {"uri": URI})


def is_asked(client: Speaker, upstream: str) -> None:
    """The question of a tool where both sides have questions, wherever it is put; else which side lacks them."""
    heard = client.use("up__ask", {"message": "Who?"}, progress="mine")

    if upstream < ASKS:
        assert heard.error["code"] == INVALID_PARAMS and "up__ask" in heard.error["message"]
    elif client.revision >= ASKS:
        told = [each["params"] for each in heard.notices if each["method"] == "notifications/progress"]
        assert [(each["progressToken"], each["progress"]) for each in told] == [
            ("mine", 1), ("mine, round 2" if client.is_modern else "mine", 2),
        ]  # fmt: skip
        aside = client.use("up__ask", {"message": "Who?", "aside": True})
        for each in (heard, aside):
            assert text_of(each) == "accept: Alice"
            assert [(asked["method"], asked["params"]["message"]) for asked in each.questions] == [
                ("elicitation/create", "Who?")
            ]
    elif upstream == MODERN:
        assert heard.error["code"] == MISSING_CAPABILITY
        assert heard.error["data"]["requiredCapabilities"] == {"elicitation": {"form": {}}}
    else:
        assert (text_of(heard), heard.result["isError"]) == ("This client cannot be asked.", True)


def is_refused_the_methods_of_the_other_era(client: Speaker) -> None:
    """A method that came or went with 2026-07-28 is unknown to the other era, and said to be."""
    gone, come = ("ping", "logging/setLevel", "resources/subscribe"), ("server/discover", "subscriptions/listen")

    for method in gone if client.is_modern else come:
        heard = client.ask(method, {"uri": URI, "level": "info", "notifications": {}})
        assert (heard.error["code"], heard.status) == (NO_METHOD, 404 if client.is_modern else 200)
