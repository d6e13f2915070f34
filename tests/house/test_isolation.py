"""Organisation B, in every role and in none, cannot see or touch anything of A's (B01-B05, B11-B13, B15-B18).

The walk is generated: every tenant model with every operation of the OpenAPI document and every caller, and the
services below them; beside it stand MCP, the admin, and what no operation shows. `tests/house/mutate_for_org.py`
removes each `for_org` in turn and expects a failure in one of these files.
"""

import inspect
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from django.apps import apps
from django.db.models import ForeignKey, Model

from apps.auth.models import ApiKey, Membership, Organization, User
from apps.core.errors import NotFound, NotPermitted
from apps.core.ids import new_id
from apps.core.schemas import PageQuery
from apps.registry.models import Server
from tests.house.operations import Operation, operations
from tests.house.tenants import CANARY, belongs_to, parameters, snapshot, tenant_models
from tests.house.world import World, seen_by_their_owner, shows_nothing
from tests.live import Answer
from tests.people import PASSWORD, Person

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


def without_moment(answer: Answer) -> dict[str, Any]:
    """The error, without what differs from request to request."""
    error = answer.json()["error"]
    return {name: error[name] for name in ("code", "message", "details")}


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
        or "auth/invitations/accept" in each
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
