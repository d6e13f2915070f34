"""An alias that was given to another while its first owner was away stays with that other."""

from collections.abc import Callable

import pytest

from apps.audit.models import Entry
from apps.registry import services
from apps.registry.models import Capability, Server
from tests.factories.registry import CapabilityFactory, ServerFactory
from tests.people import Person
from tests.registry.conftest import Evil
from tests.registry.test_discovery import tool

pytestmark = [pytest.mark.django_db, pytest.mark.slow_process]


@pytest.fixture
def server(alice: Person, evil: Evil) -> Server:
    """An upstream of which agents know one tool by another name, and another by its own."""
    server = services.register_server(alice.actor, name="Evil", slug="evil", url=evil.url)
    evil.offer(tool("a"), tool("b"))
    services.discover_server(alice.actor, server_id=server.id)
    rename(alice, server, "a", "weather")
    return server


def rename(person: Person, server: Server, name: str, alias: str) -> None:
    """Give a capability an alias."""
    found = Capability.objects.get(server=server, name=name)
    services.update_capability(person.actor, capability_id=found.pk, alias=alias)


def known_as(server: Server) -> dict[str, tuple[str, str]]:
    """Alias and name for agents of each that is offered."""
    rows = Capability.objects.filter(server=server, removed_at=None)
    return {row.name: (row.alias, row.public_name) for row in rows}


def leave_and_come_back(alice: Person, evil: Evil, server: Server, meanwhile: Callable[[], None]) -> None:
    """The server stops to offer the first, and offers it again after something else has happened."""
    evil.offer(tool("b"))
    services.discover_server(alice.actor, server_id=server.id)
    meanwhile()
    evil.offer(tool("a"), tool("b"))
    services.discover_server(alice.actor, server_id=server.id)


def test_an_alias_is_kept_by_whoever_comes_back_to_it(alice: Person, evil: Evil, server: Server) -> None:
    leave_and_come_back(alice, evil, server, lambda: None)

    assert known_as(server)["a"] == ("weather", "weather")


@pytest.mark.parametrize("alias", ["weather", "Weather"])
def test_whoever_comes_back_to_an_alias_of_another_server_has_its_own_name(
    alice: Person, evil: Evil, server: Server, alias: str
) -> None:
    other = ServerFactory(organization=alice.organization)
    CapabilityFactory(server=other, name="forecast")

    leave_and_come_back(alice, evil, server, lambda: rename(alice, other, "forecast", alias))

    assert known_as(server) == {"a": ("", "evil__a"), "b": ("", "evil__b")}
    assert known_as(other)["forecast"] == (alias, alias)
    entry = Entry.objects.filter(action="capability.updated").latest("sequence")
    assert entry.subject == "capability:evil__a"
    assert entry.details["changes"] == {"alias": {"from": "weather", "to": ""}}


def test_of_two_that_come_back_to_one_alias_the_later_owner_has_it(alice: Person, evil: Evil, server: Server) -> None:
    evil.offer(tool("b"))
    services.discover_server(alice.actor, server_id=server.id)
    rename(alice, server, "b", "weather")
    evil.offer(tool("c"))
    services.discover_server(alice.actor, server_id=server.id)
    evil.offer(tool("a"), tool("b"), tool("c"))

    services.discover_server(alice.actor, server_id=server.id)

    assert known_as(server) == {"a": ("", "evil__a"), "b": ("weather", "weather"), "c": ("", "evil__c")}


def test_a_server_is_restored_without_an_alias_that_another_was_given(
    alice: Person, evil: Evil, server: Server
) -> None:
    other = ServerFactory(organization=alice.organization)
    CapabilityFactory(server=other, name="forecast")
    services.delete_server(alice.actor, server_id=server.id)
    rename(alice, other, "forecast", "weather")

    services.restore_server(alice.actor, server_id=server.id)

    assert known_as(server) == {"a": ("", "evil__a"), "b": ("", "evil__b")}
    assert Entry.objects.filter(action="capability.updated").latest("sequence").subject == "capability:evil__a"
