"""Registering servers, changing them, and deciding whether agents may use them."""

from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.core.errors import Conflict, InvalidInput, NotFound, NotPermitted
from apps.core.schemas import PageQuery
from apps.registry import services
from apps.registry.models import Capability, Server
from apps.registry.schemas import ServerFilters
from apps.secrets import services as secrets
from apps.secrets.models import Secret
from tests.factories.registry import CapabilityFactory
from tests.people import Person

pytestmark = pytest.mark.django_db
FIRST = PageQuery(page=1, page_size=50)


def register(person: Person, slug: str = "weather", **values: Any) -> Server:
    """A server of the person's."""
    return services.register_server(
        person.actor, **{"name": "Weather", "slug": slug, "url": "https://weather.example/mcp", **values}
    )


def listed(person: Person, **filters: Any) -> list[str]:
    """The slugs that a list shows."""
    found = services.list_servers(person.actor, filters=ServerFilters.model_validate(filters), page=FIRST)
    return [server.slug for server in found.items]


def actions() -> list[str]:
    """What the journal says, oldest first."""
    return list(Entry.objects.order_by("id").values_list("action", flat=True))


def platform_admin_in(person: Person, root: Person) -> Any:
    """The platform admin, acting in somebody's organisation."""
    return auth.actor_for_user(root.user, organization_id=person.organization.id, surface="rest")


def test_a_developer_registers_and_an_admin_approves(dora: Person, adam: Person) -> None:
    server = register(dora)
    tool = CapabilityFactory.create(server=server)

    assert not server.is_approved
    with pytest.raises(NotPermitted):
        services.approve_server(dora.actor, server_id=server.id)
    assert services.catalogue(dora.organization.id).tools == ()

    services.approve_server(adam.actor, server_id=server.id)

    assert [each.public_name for each in services.catalogue(dora.organization.id).tools] == [tool.public_name]
    assert actions() == ["server.registered", "server.approved"]


def test_a_viewer_only_looks(dora: Person, victor: Person) -> None:
    server = register(dora)

    assert services.get_server(victor.actor, server_id=server.id) == server
    for deed in (
        lambda: register(victor, "other"),
        lambda: services.update_server(victor.actor, server_id=server.id, name="Mine"),
        lambda: services.delete_server(victor.actor, server_id=server.id),
        lambda: services.disable_server(victor.actor, server_id=server.id),
        lambda: services.start_discovery(victor.actor, server_id=server.id),
        lambda: services.check_server(victor.actor, server_id=server.id),
        lambda: services.add_credential(victor.actor, server_id=server.id, kind="bearer", secret="x"),
    ):
        with pytest.raises(NotPermitted):
            deed()


def test_another_organisation_finds_nothing(dora: Person, bob: Person) -> None:
    server = register(dora)
    capability = CapabilityFactory.create(server=server)
    credential = services.add_credential(dora.actor, server_id=server.id, kind="bearer", secret="s3cret-token")

    for deed in (
        lambda: services.get_server(bob.actor, server_id=server.id),
        lambda: services.update_server(bob.actor, server_id=server.id, name="Mine"),
        lambda: services.delete_server(bob.actor, server_id=server.id),
        lambda: services.restore_server(bob.actor, server_id=server.id),
        lambda: services.approve_server(bob.actor, server_id=server.id),
        lambda: services.revoke_approval(bob.actor, server_id=server.id),
        lambda: services.discover_server(bob.actor, server_id=server.id),
        lambda: services.start_discovery(bob.actor, server_id=server.id),
        lambda: services.check_server(bob.actor, server_id=server.id),
        lambda: services.test_connection(bob.actor, server_id=server.id),
        lambda: services.get_health(bob.actor, server_id=server.id),
        lambda: services.list_checks(bob.actor, server_id=server.id, page=FIRST),
        lambda: services.list_discoveries(bob.actor, server_id=server.id, page=FIRST),
        lambda: services.list_credentials(bob.actor, server_id=server.id),
        lambda: services.add_credential(bob.actor, server_id=server.id, kind="bearer", secret="x"),
        lambda: services.remove_credential(bob.actor, credential_id=credential.id),
        lambda: services.get_capability(bob.actor, capability_id=capability.id),
        lambda: services.update_capability(bob.actor, capability_id=capability.id, risk="low"),
        lambda: services.approve_capability(bob.actor, capability_id=capability.id),
    ):
        with pytest.raises(NotFound):
            deed()
    assert listed(bob) == []
    assert register(bob).slug == server.slug  # a slug is one organisation's


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"slug": "Weather"}, "slug"),
        ({"slug": "x" * 21}, "slug"),
        ({"slug": "tools"}, "non_field"),
        ({"url": ""}, "url"),
        ({"url": "http://127.0.0.1/mcp"}, "url"),
        ({"url": "ftp://weather.example"}, "url"),
        ({"command": ["/bin/sh"]}, "command"),
        ({"env": {"A": "b"}}, "command"),
        ({"tags": ['a"b']}, "tags"),
        ({"tags": [7]}, "tags"),
        ({"approved_at": "2026-01-01"}, "approved_at"),
        ({"organization_id": "x"}, "organization_id"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"transport": "pigeon"}, "transport"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(dora: Person, values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        register(dora, **values)

    assert list(refusal.value.details["fields"]) == [field]
    assert not Server.objects.exists()


def test_a_slug_is_given_once(dora: Person) -> None:
    register(dora)

    with pytest.raises(Conflict):
        register(dora)


@pytest.mark.parametrize("change", [{"url": "https://weather.example/other"}, {"url": "https://evil.example/mcp"}])
def test_another_address_withdraws_the_approval(dora: Person, adam: Person, change: dict[str, Any]) -> None:
    server = register(dora)
    CapabilityFactory.create(server=server)
    services.approve_server(adam.actor, server_id=server.id)

    services.update_server(dora.actor, server_id=server.id, **change)

    assert services.catalogue(dora.organization.id).tools == ()
    assert "server.approval_revoked" in actions()


def test_another_name_leaves_the_approval(dora: Person, adam: Person) -> None:
    server = register(dora)
    services.approve_server(adam.actor, server_id=server.id)

    changed = services.update_server(dora.actor, server_id=server.id, name="Sky", url=server.url, tags=["a"])

    assert changed.is_approved
    assert (changed.name, changed.tags) == ("Sky", ["a"])


def test_a_credential_does_not_follow_the_server_to_another_host(dora: Person, adam: Person) -> None:
    server = register(dora)
    services.approve_server(adam.actor, server_id=server.id)
    services.add_credential(dora.actor, server_id=server.id, kind="bearer", secret="s3cret-token")

    services.update_server(dora.actor, server_id=server.id, url="https://weather.example/other")
    assert services.server_route(server.id).headers == {"Authorization": "Bearer s3cret-token"}
    services.update_server(dora.actor, server_id=server.id, url="https://evil.example/mcp")

    assert services.server_route(server.id).headers == {}
    assert not Secret.objects.exists()


def test_the_credential_of_a_deleted_server_can_be_destroyed(dora: Person) -> None:
    server = register(dora)
    credential = services.add_credential(dora.actor, server_id=server.id, kind="bearer", secret="s3cret-token")
    services.delete_server(dora.actor, server_id=server.id)

    services.remove_credential(dora.actor, credential_id=credential.id)

    assert not Secret.objects.exists()


def test_slug_and_transport_never_change(dora: Person) -> None:
    server = register(dora)

    for change in ({"slug": "sky"}, {"transport": "stdio"}, {"is_enabled": False}):
        with pytest.raises(InvalidInput):
            services.update_server(dora.actor, server_id=server.id, **change)


def test_a_deleted_server_is_gone_until_it_is_restored_and_approved_again(dora: Person, adam: Person) -> None:
    server = register(dora)
    CapabilityFactory.create(server=server)
    services.approve_server(adam.actor, server_id=server.id)

    services.delete_server(dora.actor, server_id=server.id)
    with pytest.raises(NotFound):
        services.get_server(dora.actor, server_id=server.id)
    with pytest.raises(NotFound):
        services.server_route(server.id)
    assert listed(dora) == []
    assert services.catalogue(dora.organization.id).tools == ()

    services.restore_server(dora.actor, server_id=server.id)
    assert listed(dora) == ["weather"]
    assert services.catalogue(dora.organization.id).tools == ()
    services.approve_server(adam.actor, server_id=server.id)
    assert len(services.catalogue(dora.organization.id).tools) == 1


def test_a_deleted_server_does_not_come_back_over_its_successor(dora: Person) -> None:
    server = register(dora)
    services.delete_server(dora.actor, server_id=server.id)
    CapabilityFactory.create(server=register(dora))

    with pytest.raises(Conflict):
        services.restore_server(dora.actor, server_id=server.id)


def test_switching_a_server_off_takes_its_tools_away_at_once(dora: Person, adam: Person) -> None:
    server = register(dora)
    CapabilityFactory.create(server=server)
    services.approve_server(adam.actor, server_id=server.id)
    before = auth.read_revision(dora.organization.id)

    services.disable_server(dora.actor, server_id=server.id)

    assert services.catalogue(dora.organization.id).tools == ()
    assert auth.read_revision(dora.organization.id) > before
    services.enable_server(dora.actor, server_id=server.id)
    assert len(services.catalogue(dora.organization.id).tools) == 1


def test_lists_are_filtered_by_all_conditions_together(dora: Person, adam: Person) -> None:
    first = register(dora, "alpha", name="Alpha", tags=["räte", "eu"], environment="staging")
    second = register(dora, "beta", name="Beta", tags=["eu"], description="Knows the weather")
    CapabilityFactory.create(server=first, name="get_forecast")
    CapabilityFactory.create(server=first, name="get_tides")
    services.approve_server(adam.actor, server_id=second.id)
    services.disable_server(dora.actor, server_id=second.id)

    assert listed(dora) == ["alpha", "beta"]
    assert listed(dora, ordering="-name") == ["beta", "alpha"]
    assert listed(dora, tag="räte") == ["alpha"]
    assert listed(dora, tag="eu") == ["alpha", "beta"]
    assert listed(dora, tag="e") == []
    assert listed(dora, environment="staging") == ["alpha"]
    assert listed(dora, q="KNOWS") == ["beta"]
    assert listed(dora, capability="get_") == ["alpha"]
    assert listed(dora, is_approved=True) == ["beta"]
    assert listed(dora, is_enabled=False) == ["beta"]
    assert listed(dora, health="healthy") == []
    assert listed(dora, transport="stdio") == []
    assert listed(dora, tag="eu", is_approved=False) == ["alpha"]


def test_only_a_platform_admin_makes_or_alters_a_stdio_server(
    dora: Person, alice: Person, root: Person, stdio_command: list[str]
) -> None:
    stdio = {"transport": "stdio", "url": "", "command": stdio_command}
    for person in (dora, alice):
        with pytest.raises(NotPermitted):
            register(person, **stdio)
    admin = platform_admin_in(alice, root)

    server = services.register_server(admin, name="Evil", slug="evil", **stdio)

    assert server.check_interval_seconds == 600
    for change in ({"name": "x"}, {"command": ["/bin/sh"]}, {"env": {"A": "b"}}, {"isolate_sessions": True}):
        with pytest.raises(NotPermitted):
            services.update_server(alice.actor, server_id=server.id, **change)
    services.approve_server(alice.actor, server_id=server.id)
    entry = Entry.objects.get(action="server.approved")
    assert entry.details["command"] == stdio_command  # the exact command stands in the journal


def test_each_change_of_a_command_withdraws_the_approval(
    alice: Person, root: Person, stdio_command: list[str], settings: Any
) -> None:
    settings.STDIO_ALLOW = (*settings.STDIO_ALLOW, "/bin/cat -u")
    admin = platform_admin_in(alice, root)
    server = services.register_server(admin, name="Evil", slug="evil", transport="stdio", command=stdio_command)

    for change in ({"env": {"CITY": "Riga"}}, {"command": ["/bin/cat", "-u"]}):
        assert services.approve_server(alice.actor, server_id=server.id).is_approved
        assert not services.update_server(admin, server_id=server.id, **change).is_approved


def test_a_credential_that_is_removed_while_a_call_reads_them_is_left_out(dora: Person, monkeypatch: Any) -> None:
    server = register(dora)
    services.add_credential(dora.actor, server_id=server.id, kind="bearer", secret="s3cret-token")
    leaving = services.add_credential(dora.actor, server_id=server.id, kind="header", secret="k3y", header="X-Passing")
    opening = secrets.open_secret

    def open_after_the_removal(secret_id: UUID, *, organization_id: UUID) -> str:
        if secret_id == leaving.secret_id:
            services.remove_credential(dora.actor, credential_id=leaving.id)
        return opening(secret_id, organization_id=organization_id)

    monkeypatch.setattr(secrets, "open_secret", open_after_the_removal)

    assert services.server_route(server.id).headers == {"Authorization": "Bearer s3cret-token"}


def test_a_credential_whose_secret_is_missing_is_no_credential_left_out(dora: Person) -> None:
    server = register(dora)
    credential = services.add_credential(dora.actor, server_id=server.id, kind="bearer", secret="s3cret-token")
    Secret.objects.filter(pk=credential.secret_id).delete()

    with pytest.raises(NotFound):
        services.server_route(server.id)


@pytest.mark.parametrize(
    "values",
    [
        {"command": ["/bin/sh", "-c", "touch /tmp/x"]},
        {"command": []},
        {"env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"url": "https://weather.example/"},
    ],
)
def test_a_platform_admin_too_is_held_to_the_operators_list(
    alice: Person, root: Person, stdio_command: list[str], values: dict[str, Any]
) -> None:
    given = {"name": "Evil", "slug": "evil", "transport": "stdio", "command": stdio_command, **values}

    with pytest.raises(InvalidInput):
        services.register_server(platform_admin_in(alice, root), **given)


def test_a_secret_is_presented_and_never_shown(dora: Person) -> None:
    server = register(dora)
    services.add_credential(dora.actor, server_id=server.id, kind="basic", secret="pässword-1", username="anna")
    services.add_credential(dora.actor, server_id=server.id, kind="header", secret="k3y-abcdef", header="X-Api-Key")

    route = services.server_route(server.id)

    assert route.headers == {"Authorization": "Basic YW5uYTpww6Rzc3dvcmQtMQ==", "X-Api-Key": "k3y-abcdef"}
    assert "k3y-abcdef" not in repr(route)
    written = repr(list(Secret.objects.values())) + repr(list(Entry.objects.values("details")))
    assert "k3y-abcdef" not in written
    assert "ssword-1" not in written


@pytest.mark.parametrize(
    "values",
    [
        {"secret": ""},
        {"secret": "two\nlines"},
        {"secret": "null\x00"},
        {"secret": "ümlaut"},
        {"secret": "x" * 9000},
        {"kind": "header"},
        {"kind": "header", "header": "Host"},
        {"kind": "header", "header": "Mcp-Session-Id"},
        {"kind": "header", "header": "X-Forwarded-For"},
        {"kind": "header", "header": "Content-Length"},
        {"kind": "header", "header": "Cookie"},
        {"kind": "header", "header": "X Y"},
        {"kind": "bearer", "header": "X-Key"},
        {"kind": "basic"},
        {"kind": "basic", "username": "a:b"},
        {"kind": "bearer", "username": "a"},
        {"kind": "magic"},
    ],
)
def test_a_credential_that_cannot_be_presented_is_refused(dora: Person, values: dict[str, Any]) -> None:
    server = register(dora)

    with pytest.raises(InvalidInput):
        services.add_credential(dora.actor, server_id=server.id, **{"kind": "bearer", "secret": "s3cret", **values})
    assert not Secret.objects.exists()


def test_two_credentials_do_not_fight_over_a_header(dora: Person) -> None:
    server = register(dora)
    first = services.add_credential(dora.actor, server_id=server.id, kind="bearer", secret="s3cret-1")

    for values in ({"kind": "basic", "username": "a"}, {"kind": "header", "header": "authorization"}):
        with pytest.raises(Conflict):
            services.add_credential(dora.actor, server_id=server.id, secret="s3cret-2", **values)
    services.remove_credential(dora.actor, credential_id=first.id)

    assert services.list_credentials(dora.actor, server_id=server.id) == []
    assert not Secret.objects.exists()


def test_staff_decide_how_agents_see_a_tool(dora: Person, adam: Person) -> None:
    server = register(dora)
    tool = CapabilityFactory.create(server=server, name="rm")
    services.approve_server(adam.actor, server_id=server.id)
    with pytest.raises(NotPermitted):
        services.update_capability(dora.actor, capability_id=tool.id, risk="low")

    services.update_capability(
        adam.actor,
        capability_id=tool.id,
        alias="remove_file",
        description_override="Removes a file.",
        risk="high",
        tags=["files"],
    )

    [seen] = services.catalogue(dora.organization.id).tools
    assert (seen.public_name, seen.name, seen.risk, seen.tags) == ("remove_file", "rm", "high", ("files",))
    assert (seen.definition["name"], seen.definition["description"]) == ("remove_file", "Removes a file.")
    services.update_capability(adam.actor, capability_id=tool.id, alias="")
    assert services.catalogue(dora.organization.id).tools[0].public_name == "weather__rm"
    services.update_capability(adam.actor, capability_id=tool.id, is_enabled=False)
    assert services.catalogue(dora.organization.id).tools == ()


def test_a_definition_discovered_meanwhile_is_not_lost_to_a_decision_of_staff(
    dora: Person, adam: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = register(dora)
    tool = CapabilityFactory.create(server=server)
    services.approve_server(adam.actor, server_id=server.id)
    newer = Capability.objects.filter(pk=tool.pk)
    monkeypatch.setattr(
        "apps.registry.services.capabilities._check_scopes", lambda scopes: newer.update(digest="0" * 64)
    )

    services.update_capability(adam.actor, capability_id=tool.id, risk="high")

    assert services.catalogue(dora.organization.id).tools == ()
    assert (newer.get().risk, newer.get().digest) == ("high", "0" * 64)


@pytest.mark.parametrize(
    "alias", ["platform_health", "Platform_Health", "other__rm", "a b", "weather__other", "x" * 45]
)
def test_an_alias_cannot_pass_for_another_tool(dora: Person, adam: Person, alias: str) -> None:
    server = register(dora)
    tool = CapabilityFactory.create(server=server, name="rm")
    CapabilityFactory.create(server=server, name="other")

    with pytest.raises((InvalidInput, Conflict)):
        services.update_capability(adam.actor, capability_id=tool.id, alias=alias)


def test_a_definition_that_changed_since_it_was_looked_at_is_not_approved(dora: Person, adam: Person) -> None:
    tool = CapabilityFactory.create(server=register(dora))

    with pytest.raises(Conflict):
        services.approve_capability(adam.actor, capability_id=tool.id, digest="0" * 64)
    assert services.approve_capability(adam.actor, capability_id=tool.id, digest=tool.digest).is_approved


@pytest.mark.parametrize(
    "change", [{"url": "https://elsewhere.example/mcp"}, {"env": {"A": "2"}}, {"discovered_at": timezone.now()}]
)
def test_a_server_that_changed_since_it_was_looked_at_is_not_approved(
    dora: Person, adam: Person, change: dict[str, Any]
) -> None:
    server = register(dora)
    seen = server.digest
    Server.objects.filter(pk=server.pk).update(**change)

    with pytest.raises(Conflict):
        services.approve_server(adam.actor, server_id=server.pk, digest=seen)
    server.refresh_from_db()
    assert not server.is_approved and server.digest != seen
    assert services.approve_server(adam.actor, server_id=server.pk, digest=server.digest).is_approved


def test_definitions_are_read_for_calls_and_for_no_check(dora: Person) -> None:
    from apps.registry.services.routes import route_of

    server = register(dora)
    region = {"type": "string", "x-mcp-header": "Region"}
    definition = {"name": "t", "inputSchema": {"type": "object", "properties": {"a": region}}}
    CapabilityFactory(server=server, definition=definition)

    with CaptureQueriesContext(connection) as caught:
        assert route_of(server).param_headers == {}
    assert "registry_capability" not in repr(caught.captured_queries)
    assert services.server_route(server.id).param_headers != {}
