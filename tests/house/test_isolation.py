"""Organisation B, in every role and in none, cannot see or touch anything of A's (B01-B05, B11-B13, B15-B18).

The walk is generated: every tenant model with every operation of the OpenAPI document and every caller, the services
below them, the tools of MCP and the pages of the admin. `tests/house/mutate_for_org.py` removes each `for_org` in turn
and expects a failure here.
"""

import inspect
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.contrib import admin
from django.db.models import ForeignKey, Model
from django.test import Client as Browser
from django.urls import reverse

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import ApiKey, Membership, Organization, User
from apps.core.errors import NotFound, NotPermitted
from apps.core.ids import new_id
from apps.core.schemas import PageQuery
from apps.registry.models import Capability, Server
from tests.house.conftest import standing
from tests.house.operations import Operation, operations
from tests.house.tenants import CANARY, belongs_to, make_row, parameters, plant, snapshot, tenant_models
from tests.journeys.agents import call, tool_names
from tests.live import Answer, Client, Live
from tests.people import PASSWORD, Person, make_person

PROMISED_SECONDS = 2.0
SENTINEL_ID = "0198c0de-0000-7000-8000-00000000c0de"
SENTINEL_TIME = "1999-12-31T23:59:59Z"
SMUGGLED = {
    "id": SENTINEL_ID, "created_at": SENTINEL_TIME, "approved_at": SENTINEL_TIME, "approved_by": CANARY,
    "owner": CANARY, "is_staff": True, "is_superuser": True, "is_platform_admin": True, "role": "owner",
    "digest": "0" * 64, "hash": "0" * 64, "lease": SENTINEL_ID, "health": "healthy", "deleted_at": None,
}  # fmt: skip
# What a viewer may change: what is their own. Everything else that writes answers 403.
THEIR_OWN = ("/api/v1/auth/",)
MISSING_OR_REFUSED = {403, 404}


@dataclass
class World:
    """Organisations A and B, each with one row of everything, and everybody who may try."""

    live: Live
    a: Organization
    b: Organization
    theirs: dict[type[Model], Model]
    ours: dict[type[Model], Model]
    owner_of_a: Person
    owner_of_b: Person
    callers: dict[str, Client] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def operations(self) -> list[Operation]:
        """Every operation of the document."""
        return list(operations(self.document))

    def ids(self, rows: dict[type[Model], Model]) -> dict[str, UUID]:
        """The path parameters that lead to these rows."""
        return {name: rows[model].pk for name, model in parameters().items()}


@pytest.fixture(scope="module")
def world(database: Any) -> Iterator[World]:
    """One world for all these tests: nothing that they do may change A."""
    with standing(database) as live:
        yield build(live)


def build(live: Live) -> World:
    """Make both organisations, their rows and B's callers."""
    alice = make_person("alice", CANARY, "owner")
    bob = make_person("bob", "globex", "owner")
    made = World(live, alice.organization, bob.organization, {}, {}, alice, bob)
    for person, rows in ((alice, made.theirs), (bob, made.ours)):
        for model in tenant_models():
            # The journal takes no change afterwards: its canary is there from the start.
            canary = {"subject": CANARY} if model is Entry and person is alice else {}
            rows[model] = make_row(model, person.organization, rows, **canary)
        rows[Organization], rows[User] = person.organization, person.user
    for model, row in made.theirs.items():
        if model is not Entry:
            plant(row)
    User.objects.filter(memberships__organization=made.a).update(name=CANARY)
    open_to_agents(made.theirs[Server], made.theirs[Capability])
    people = {role: make_person(role, "globex", role) for role in ("admin", "developer", "viewer")}
    made.callers = {
        "owner": live.rest(bob),
        **{role: live.rest(person) for role, person in people.items()},
        "key": live.with_key(live.key(bob)),
        "stranger": live.rest(stranger()),
        "nobody": live.anonymous(),
        "owner of A": live.rest(alice),
    }
    made.document = live.anonymous().get("/api/openapi.json").json()
    return made


def stranger() -> Person:
    """Somebody with an account and no organisation."""
    user = User.objects.create_user("charlie@nowhere.example", PASSWORD)
    return Person(user, None, auth.actor_for_user(user, organization_id=None, surface="rest"))


def open_to_agents(server: Model, capability: Model) -> None:
    """Let A's agents use A's tool: what they may use is what B must not see."""
    from django.db.models import F
    from django.utils import timezone

    Server.objects.filter(pk=server.pk).update(approved_at=timezone.now(), is_enabled=True, deleted_at=None)
    Capability.objects.filter(pk=capability.pk).update(
        kind="tool", server=server, approved_digest=F("digest"), approved_definition=F("definition"), is_enabled=True,
        removed_at=None, public_name=f"{CANARY}__tool",
    )  # fmt: skip
    auth.raise_revision(server.organization_id)


def shows_nothing(answer: Answer) -> bool:
    """Whether the answer holds nothing of A's."""
    return CANARY not in answer.text and CANARY not in json.dumps(answer.headers)


def without_moment(answer: Answer) -> dict[str, Any]:
    """The error, without what differs from request to request."""
    error = answer.json()["error"]
    return {name: error[name] for name in ("code", "message", "details")}


def seen_by_their_owner(world: World, operation: Operation) -> bool:
    """Whether A's owner finds the canary there: what nobody could see would prove nothing."""
    return CANARY in world.callers["owner of A"].get(operation.at(world.ids(world.theirs))).text


# Models, factories, parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", tenant_models(), ids=lambda model: model.__name__)
def test_every_tenant_model_has_a_factory_that_puts_its_row_where_it_belongs(world, model):
    assert getattr(world.theirs[model], belongs_to(model)) == world.a.pk
    assert getattr(world.ours[model], belongs_to(model)) == world.b.pk


def test_every_path_parameter_is_the_id_of_a_known_model(world):
    known = parameters()

    assert [f"{each}: {name}" for each in world.operations for name in each.parameters if name not in known] == []


def test_a_parameter_of_no_model_would_be_noticed():
    document = {"paths": {"/api/v1/things/{thing}": {"get": {}}}}

    assert [name for each in operations(document) for name in each.parameters if name not in parameters()] == ["thing"]


# REST: one thing of A's ---------------------------------------------------------------------------------------------


def test_their_owner_sees_the_canary_in_every_single_thing(world):
    single = [each for each in world.operations if each.method == "get" and each.parameters]
    blind = [str(each) for each in single if not seen_by_their_owner(world, each)]

    assert single
    assert blind == []


@pytest.mark.parametrize("caller", ["owner", "admin", "developer", "viewer", "key", "stranger", "nobody"])
def test_nobody_of_b_reaches_a_thing_of_as(world, caller):
    before = snapshot(world.a)
    wrong = []
    for operation in world.operations:
        for ids in foreign_ids(world, operation):
            answer = world.callers[caller].request(operation.method.upper(), operation.at(ids), operation.body())
            if answer.status not in expected(caller) or not shows_nothing(answer):
                wrong.append(f"{operation} {ids}: {answer.status} {answer.text[:200]}")
        assert snapshot(world.a) == before, f"{operation} by {caller} changed something of A's"

    assert wrong == []


def foreign_ids(world: World, operation: Operation) -> list[dict[str, UUID]]:
    """All ids A's, and each mixture of one of A's with B's own."""
    theirs, ours = world.ids(world.theirs), world.ids(world.ours)
    names = operation.parameters
    if not names:
        return []
    mixed = [{**{other: ours[other] for other in names}, name: theirs[name]} for name in names]
    return [{name: theirs[name] for name in names}, *(mixed if len(names) > 1 else [])]


def expected(caller: str) -> set[int]:
    """404 for whoever has the right on their own; those without any right may be told so."""
    return {"nobody": {401}, "owner": {404}, "admin": {404}, "key": {404}}.get(caller, MISSING_OR_REFUSED)


def test_what_is_as_and_what_does_not_exist_answer_alike(world):
    different = []
    for operation in world.operations:
        if not operation.parameters:
            continue
        never = dict.fromkeys(operation.parameters, new_id())
        theirs, none = (
            world.callers["owner"].request(operation.method.upper(), operation.at(ids), operation.body())
            for ids in (world.ids(world.theirs), never)
        )
        if (theirs.status, without_moment(theirs)) != (none.status, without_moment(none)):
            different.append(f"{operation}: {theirs.text} {none.text}")

    assert different == []


def test_an_id_of_bs_own_is_found(world):
    lost = [
        f"{each}: {answer.status} {answer.text}"
        for each in world.operations
        if each.method == "get" and each.parameters
        and (answer := world.callers["owner"].get(each.at(world.ids(world.ours)))).status != 200
    ]  # fmt: skip

    assert lost == []


# REST: lists --------------------------------------------------------------------------------------------------------


def lists(world: World) -> list[Operation]:
    """Every operation that answers with a page."""
    return [each for each in world.operations if each.is_list]


def test_their_owner_finds_the_canary_in_every_list(world):
    blind = [str(each) for each in lists(world) if not seen_by_their_owner(world, each)]

    assert lists(world)
    assert blind == []


@pytest.mark.parametrize("caller", ["owner", "admin", "developer", "viewer", "key", "stranger"])
def test_no_list_shows_anything_of_as(world, caller):
    shown = []
    for operation in lists(world):
        for query in [{}, *probes(world, operation)]:
            answer = world.callers[caller].get(operation.at(world.ids(world.ours)), query=query)
            if answer.status >= 500 or not shows_nothing(answer):
                shown.append(f"{operation} {query}: {answer.status} {answer.text[:300]}")

    assert shown == []


def of_own(world: World, operation: Operation, caller: str = "owner", **options: Any) -> Answer:
    """The answer to the operation on B's own rows, with a body that fits."""
    client = world.callers[caller]
    return client.request(operation.method.upper(), operation.at(world.ids(world.ours)), operation.body(), **options)


def probes(world: World, operation: Operation) -> list[dict[str, str]]:
    """Each documented filter with values that would find A's rows."""
    theirs = {name: str(row_id) for name, row_id in world.ids(world.theirs).items()}
    found = []
    for name, schema in operation.filters.items():
        values = schema.get("enum") or [theirs.get(name, "true" if schema.get("type") == "boolean" else "canary")]
        found += [{name: str(value)} for value in values]
    return found


def test_an_unknown_filter_is_refused(world):
    smuggled = ("organization", "organization_id", "org", "server__secret__startswith", "_connector", "id__in")
    taken = [
        f"{each}?{name}: {answer.status}"
        for each in lists(world)
        for name in smuggled
        if (answer := world.callers["owner"].get(each.at(world.ids(world.ours)), query={name: str(world.a.pk)})).status
        != 400
    ]

    assert taken == []


# REST: bodies -------------------------------------------------------------------------------------------------------


def writes(world: World) -> list[Operation]:
    """Every operation that takes a body and changes something, logging in apart."""
    return [each for each in world.operations if each.method in ("post", "put", "patch") and each.has_body]


def test_an_id_of_as_in_a_body_is_refused(world):
    theirs, before = world.ids(world.theirs), snapshot(world.a)
    wrong = []
    for operation in writes(world):
        for name in operation.body_names & set(theirs):
            body = operation.body(**{name: str(theirs[name])})
            answer = world.callers["owner"].request(operation.method.upper(), operation.at(world.ids(world.ours)), body)
            if answer.status not in (400, 403, 404, 422) or not shows_nothing(answer):
                wrong.append(f"{operation} {name}: {answer.status} {answer.text[:200]}")

    assert wrong == []
    assert snapshot(world.a) == before
    assert rows_that_point_across(world) == []


def rows_that_point_across(world: World) -> list[str]:
    """Rows of B's with a foreign key to a row of A's."""
    found = []
    for model in tenant_models():
        for each in model._meta.concrete_fields:
            if isinstance(each, ForeignKey) and each.related_model in tenant_models():
                theirs = each.related_model._base_manager.filter(**{belongs_to(each.related_model): world.a.pk})
                rows = model._base_manager.filter(**{belongs_to(model): world.b.pk, f"{each.name}__in": theirs})
                found += [f"{model.__name__}.{each.name}" for _ in rows]
    return found


def test_a_body_cannot_assign_what_is_not_its_to_assign(world):
    before = snapshot(world.a)
    owners = {"organization": str(world.a.pk), "organization_id": str(world.a.pk), "org": CANARY}
    for operation in writes(world):
        extra = {name: value for name, value in {**SMUGGLED, **owners}.items() if name not in operation.body_names}
        for body in (operation.body(**extra), *(operation.body(**{name: value}) for name, value in extra.items())):
            answer = world.callers["owner"].request(operation.method.upper(), operation.at(world.ids(world.ours)), body)
            assert answer.status < 500, f"{operation}: {answer.text}"

    assert snapshot(world.a) == before
    for model in tenant_models():
        assert not model._base_manager.filter(pk=SENTINEL_ID).exists()
        names = {each.name for each in model._meta.concrete_fields}
        assert not [
            name
            for name in ("created_at", "approved_at")
            if name in names and model._base_manager.filter(**{name: SENTINEL_TIME}).exists()
        ]
    assert not User.objects.filter(is_superuser=True).exists()
    assert Membership.objects.get(user__email="viewer@globex.example").role == "viewer"


# REST: rights -------------------------------------------------------------------------------------------------------


def test_a_viewer_changes_nothing(world):
    before, allowed = snapshot(world.b), []
    for operation in world.operations:
        if operation.method == "get" or operation.path.startswith(THEIR_OWN):
            continue
        answer = world.callers["viewer"].request(
            operation.method.upper(), operation.at(world.ids(world.ours)), operation.body()
        )
        if answer.status != 403:
            allowed.append(f"{operation}: {answer.status} {answer.text[:200]}")

    assert allowed == []
    # What was refused is in the journal; nothing else is new.
    after = snapshot(world.b)
    assert {name: rows for name, rows in after.items() if name not in ("Entry", "ApiKey")} == {
        name: rows for name, rows in before.items() if name not in ("Entry", "ApiKey")
    }


def test_without_a_credential_nothing_opens(world):
    opened = [
        f"{each}: {answer.status}"
        for each in world.operations
        if each.needs_credential
        and (
            answer := world.callers["nobody"].request(each.method.upper(), each.at(world.ids(world.ours)), each.body())
        ).status
        != 401
    ]
    public = {str(each) for each in world.operations if not each.needs_credential}

    assert opened == []
    assert all(
        "auth/login" in each
        or "auth/refresh" in each
        or "auth/logout" in each
        or ".well-known" in each
        or "openapi" in each
        for each in public
    ), public


def test_what_belongs_to_the_platform_is_refused_to_an_owner(world):
    organizations, users = Organization.objects.count(), User.objects.count()

    made = world.callers["owner"].post("/api/v1/orgs", {"name": "New", "slug": "new"})
    stdio = world.callers["owner"].post(
        "/api/v1/mcp/servers", {"name": "Shell", "slug": "shell", "transport": "stdio", "command": ["sh"]}
    )

    assert (made.status, stdio.status) == (403, 403)
    assert (Organization.objects.count(), User.objects.count()) == (organizations, users)


def test_nobody_gives_a_key_more_than_they_hold(world):
    keys = ApiKey.objects.count()

    answers = [
        world.callers[role].post("/api/v1/auth/api-keys", {"name": "more", "scopes": [scope]}).status
        for role, scope in (("developer", "server.approve"), ("viewer", "server.write"), ("developer", "*"))
    ]

    assert answers == [403, 403, 403]
    assert ApiKey.objects.count() == keys


# REST: addresses and organisations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["slug", "id"])
def test_a_header_that_names_another_organisation_than_the_token_is_refused(world, named):
    both = User.objects.create_user(f"both-{named}@nowhere.example", PASSWORD)
    for organization in (world.a, world.b):
        Membership(organization=organization, user=both, role="developer").store()
    token_of_b = world.live.rest(Person(both, world.b, world.owner_of_b.actor))
    name = CANARY if named == "slug" else str(world.a.pk)

    by_header = token_of_b.get("/api/v1/mcp/servers", headers={"X-Organization": name})
    by_query = token_of_b.get("/api/v1/mcp/servers", query={"organization": name})
    plain = token_of_b.get("/api/v1/mcp/servers")

    assert (by_header.status, by_query.status, plain.status) == (400, 400, 200)
    assert all(shows_nothing(answer) for answer in (by_header, by_query, plain))


@pytest.mark.parametrize("caller", ["stranger", "owner", "key"])
def test_naming_an_organisation_does_not_make_a_member(world, caller):
    for name in (CANARY, str(world.a.pk)):
        answer = world.callers[caller].get("/api/v1/mcp/servers", headers={"X-Organization": name})

        assert answer.status in (400, 404)
        assert shows_nothing(answer)


def test_no_spelling_of_an_address_opens_more(world):
    server, servers = world.theirs[Server].pk, "/api/v1/mcp/servers"
    spellings = [
        f"{servers}/{server}/",
        f"/api/v1//mcp/servers/{server}",
        f"{servers}%2f{server}",
        f"/API/v1/mcp/servers/{server}",
        f"{servers}/{server};x",
        f"{servers}/{str(server).upper()}",
        f"{servers}/x/../{server}",
        f"{servers}/{server}%00",
        f"{servers}/{server}?page=1&page=2",
        f"{servers}/{{{server}}}",
        f"{servers}/{server.hex}",
        f"{servers}/urn:uuid:{server}",
        f"/mcp/{CANARY}/../servers/{server}",
        f"/mcp/..{servers}/{server}",
    ]
    for path in spellings:
        answer = world.callers["owner"].get(path)

        assert answer.status in (301, 400, 401, 403, 404, 405, 406), f"{path}: {answer.status} {answer.text[:200]}"
        assert shows_nothing(answer), path


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_header_cannot_change_the_method(world, header):
    own = world.ours[Server].pk

    answers = [
        world.callers["owner"].request(method, f"/api/v1/mcp/servers/{own}", headers={header: "DELETE"}).status
        for method in ("GET", "POST")
    ]

    assert answers == [200, 405]
    assert Server.objects.present().filter(pk=own).exists()


def test_a_parameter_given_twice_decides_nothing_new(world):
    once = world.callers["owner"].get("/api/v1/mcp/servers?page=1")
    twice = world.callers["owner"].get(f"/api/v1/mcp/servers?page=1&page=1&organization_id={world.a.pk}")

    assert once.status == 200
    assert twice.status == 400


# Services -----------------------------------------------------------------------------------------------------------


def service_calls() -> list[tuple[str, Any, list[str]]]:
    """Every service that takes an actor and nothing else but ids of known models and a page."""
    found = []
    for config in apps.get_app_configs():
        if not config.name.startswith("apps."):
            continue
        try:
            module = import_module(f"{config.name}.services")
        except ModuleNotFoundError:
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            needed = needed_ids(function)
            if needed and function.__module__.startswith(config.name):
                found.append((f"{config.label}.{name}", function, needed))
    return found


def needed_ids(function: Any) -> list[str] | None:
    """The ids that the service needs, if it needs nothing else; None otherwise."""
    every = list(inspect.signature(function).parameters.values())
    if not every or every[0].name != "actor" or inspect.iscoroutinefunction(function):
        return None
    needed = [each.name for each in every[1:] if each.default is inspect.Parameter.empty and each.name != "page"]
    return needed if needed and all(service_parameter(name) for name in needed) else None


def service_parameter(name: str) -> type[Model] | None:
    """The model whose id a service's parameter is."""
    return parameters().get({"key_id": "api_key_id"}.get(name, name))


@pytest.mark.parametrize(
    ("name", "function", "needed"), service_calls(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_service_knows_nothing_of_as(world, name, function, needed):
    before = snapshot(world.a)
    given = {each: world.theirs[service_parameter(each)].pk for each in needed}
    if "page" in inspect.signature(function).parameters:
        given["page"] = PageQuery()

    with pytest.raises((NotFound, NotPermitted)):
        function(world.owner_of_b.actor, **given)

    assert snapshot(world.a) == before


def wait_until(holds: Callable[[], bool]) -> None:
    """A change holds within a second; a busy machine may need another for the asking."""
    deadline = time.monotonic() + PROMISED_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# Admin --------------------------------------------------------------------------------------------------------------


def browser_of(person: Person) -> Browser:
    """A browser in which this person has signed in."""
    browser = Browser()
    browser.force_login(person.user)
    return browser


def page(name: str, model: type[Model], *arguments: Any) -> str:
    """The address of an admin page of this model."""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=arguments)


def shown_in_admin() -> list[type[Model]]:
    """The tenant models that have admin pages."""
    return [model for model in tenant_models() if model in admin.site._registry]


def seen(answer: Any) -> str:
    """The text of a page, also of one that streams."""
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return str(content.decode())


@pytest.mark.parametrize("model", shown_in_admin(), ids=lambda model: model.__name__)
def test_staff_of_a_sees_its_own_in_the_admin(world, model):
    answer = browser_of(world.owner_of_a).get(page("change", model, world.theirs[model].pk))

    assert answer.status_code == 200
    assert CANARY in seen(answer)


@pytest.mark.parametrize("model", shown_in_admin(), ids=lambda model: model.__name__)
def test_staff_of_b_sees_no_row_of_as_in_the_admin(world, model):
    browser, their_id, before = browser_of(world.owner_of_b), world.theirs[model].pk, snapshot(world.a)
    listing = page("changelist", model)
    foreign = [each for each in model._meta.concrete_fields if isinstance(each, ForeignKey)]
    queries = [
        "",
        "?q=canary",
        f"?q={their_id}",
        "?_to_field=organization",
        f"?id__exact={their_id}",
        "?all=",
        "?_popup=1",
    ]
    queries += [
        f"?{each.name}__id__exact={world.theirs[each.related_model].pk}"
        for each in foreign
        if each.related_model in world.theirs
    ]
    addresses = [f"{listing}{query}" for query in queries]
    addresses += [page(name, model, their_id) for name in ("change", "history", "delete")]
    addresses += [
        f"/admin/autocomplete/?app_label={model._meta.app_label}&model_name={model._meta.model_name}&field_name={each.name}&term=c"
        for each in foreign
    ]
    for address in addresses:
        answer = browser.get(address)
        assert answer.status_code < 500, address
        assert CANARY not in seen(answer).replace(f"q={CANARY}", ""), address

    for name in ("change", "delete"):
        assert browser.get(page(name, model, their_id)).status_code != 200
        browser.post(page(name, model, their_id), {"post": "yes", "name": "stolen", "slug": "stolen"})
    for action in actions(model):
        browser.post(listing, {"action": action, "_selected_action": str(their_id), "post": "yes"})
    assert snapshot(world.a) == before


def actions(model: type[Model]) -> list[str]:
    """The names of everything that the admin can do with chosen rows."""
    found = admin.site._registry[model].actions or []
    return ["delete_selected", *(each if isinstance(each, str) else each.__name__ for each in found)]


def test_the_dashboard_and_the_search_of_b_show_nothing_of_as(world):
    browser = browser_of(world.owner_of_b)

    for address in ("/admin/", "/admin/search/?s=canary", "/admin/jsi18n/"):
        assert CANARY not in seen(browser.get(address)), address


@pytest.mark.parametrize("role", ["developer", "viewer"])
def test_who_is_not_staff_does_not_come_into_the_admin(world, role):
    user = User.objects.get(email=f"{role}@globex.example")
    browser = Browser()
    browser.force_login(user)

    answer = browser.get("/admin/")

    assert answer.status_code == 302
    assert "/login/" in answer["Location"]


# MCP: last, because what an agent of B asks for by a name of A is in the usage of B --------------------------------

THEIR_TOOL = f"{CANARY}__tool"
UNKNOWN_TOOL = "nothing-a__tool"


def outcome(world: World, key: str, name: str, era: str = "2025-11-25", **arguments: Any) -> str:
    """How a call by this name ends, as text, without the name and the request's id."""
    try:
        text = str(call(world.live.mcp_url, key, name, arguments, era))
    except Exception as error:  # whatever the client makes of the refusal
        text = f"{error} {getattr(error, 'error', '')}"
    for word in (name, *map(str, arguments.values())):
        text = text.replace(word, "…")
    return re.sub(r"req_[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:.]+Z", "…", text)


@pytest.fixture(scope="module")
def keys(world):
    """A key of A's owner and one of B's."""
    return world.live.key(world.owner_of_a), world.live.key(world.owner_of_b)


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_the_tools_of_a_are_unknown_to_agents_of_b(world, keys, era):
    theirs, ours = (tool_names(world.live.mcp_url, key, era) for key in keys)

    assert THEIR_TOOL in theirs
    assert [name for name in ours if CANARY in name] == []
    unknown = outcome(world, keys[1], UNKNOWN_TOOL, era)
    for name in (THEIR_TOOL, THEIR_TOOL.upper(), f"{THEIR_TOOL} "):
        assert outcome(world, keys[1], name, era) == unknown
    assert CANARY not in unknown


def test_native_tools_show_an_agent_nothing_of_as(world, keys):
    def found(key: str) -> Any:
        return call(world.live.mcp_url, key, "search", {"query": "canary"})

    theirs, ours = found(keys[0]), found(keys[1])
    ids = re.findall(r'"id":\s*"([^"]+)"', theirs.content[0].text)

    assert CANARY in str(theirs)
    assert CANARY not in str(ours)
    assert ids
    for each in [*ids, *(str(row.pk) for row in world.theirs.values())]:
        assert CANARY not in outcome(world, keys[1], "fetch", id=each)
    assert any(CANARY in str(call(world.live.mcp_url, keys[0], "fetch", {"id": each})) for each in ids)


@pytest.mark.parametrize(("method", "parameters"), [
    ("resources/list", {}), ("resources/templates/list", {}), ("prompts/list", {}),
    ("resources/read", {"uri": "canary://tool"}), ("prompts/get", {"name": THEIR_TOOL}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": THEIR_TOOL}, "argument": {"name": "a"}}),
])  # fmt: skip
def test_other_methods_show_an_agent_nothing_of_as(world, keys, method, parameters):
    client = world.live.with_key(keys[1])
    accept = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25"}
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
    opened = client.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}, headers=accept)
    session = {"Mcp-Session-Id": opened.headers.get("mcp-session-id", "")}

    answer = client.post(
        "/mcp", {"jsonrpc": "2.0", "id": 2, "method": method, "params": parameters}, headers={**accept, **session}
    )

    assert answer.status in (200, 400, 404)
    assert CANARY not in answer.text.replace(THEIR_TOOL, "")


@pytest.fixture
def tool_of_initech(world):
    """A usable tool of a third organisation, the key of its owner, and its rows."""
    initech = make_person(f"peter-{new_id().hex[-6:]}", f"initech-{new_id().hex[-6:]}", "owner")
    server = make_row(Server, initech.organization, slug="printer")
    capability = make_row(Capability, initech.organization, server=server)
    open_to_agents(server, capability)
    Capability.objects.filter(pk=capability.pk).update(public_name="printer__print")
    auth.raise_revision(initech.organization.pk)
    return initech, world.live.key(initech), server, capability


@pytest.mark.parametrize(("model", "change"), [
    (Server, {"deleted_at": "2026-01-01T00:00:00Z"}), (Server, {"approved_at": None}), (Server, {"is_enabled": False}),
    (Capability, {"approved_digest": ""}), (Capability, {"is_enabled": False}),
    (Capability, {"removed_at": "2026-01-01T00:00:00Z"}),
], ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)))  # fmt: skip
def test_what_is_deleted_or_not_approved_cannot_be_called(world, tool_of_initech, model, change):
    initech, key, server, capability = tool_of_initech
    wait_until(lambda: "printer__print" in tool_names(world.live.mcp_url, key))

    model.objects.filter(pk=server.pk if model is Server else capability.pk).update(**change)
    auth.raise_revision(initech.organization.pk)

    wait_until(lambda: "printer__print" not in tool_names(world.live.mcp_url, key))
    assert outcome(world, key, "printer__print") == outcome(world, key, UNKNOWN_TOOL)


def test_a_deleted_server_is_not_found_and_not_listed(world, tool_of_initech):
    initech, _, server, _ = tool_of_initech
    client = world.live.rest(initech)
    assert client.delete(f"/api/v1/mcp/servers/{server.pk}").status == 204

    assert client.get(f"/api/v1/mcp/servers/{server.pk}").status == 404
    assert str(server.pk) not in client.get("/api/v1/mcp/servers").text
