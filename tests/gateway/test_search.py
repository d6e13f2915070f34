"""Search and fetch over everything that a caller may use, at the endpoint where they are called."""

import pytest

from apps.core.errors import NotFound
from apps.gateway import services as gateway
from apps.gateway.schemas import BundleItemIn
from apps.gateway.services.catalogue import called_at
from tests.gateway.shelf import offer, server_of
from tests.people import Person

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _up(alice: Person) -> None:
    server = server_of(alice, "up")
    offer(server, "tool", "weather", description="Tells the weather.")
    offer(server, "prompt", "forecast", description="Asks for the weather of tomorrow.")
    offer(server, "resource", "test://weather/now", title="The weather")
    offer(server, "resource_template", "test://weather/{day}")
    gateway.forget_snapshots()


def found(person: Person, query: str) -> list[str]:
    """The ids of a search."""
    return [each.id for each in gateway.search_offers(person.actor, query=query, limit=50).results]


def test_every_kind_is_found_and_fetched(dora: Person) -> None:
    ids = found(dora, "weather")

    assert set(ids) == {
        "up__weather", "prompt:up__forecast", "resource:test://weather/now", "template:test://weather/{day}",
    }  # fmt: skip
    fetched = {each: gateway.fetch_offer(dora.actor, id=each) for each in ids}
    assert {each.metadata["kind"] for each in fetched.values()} == {"tool", "prompt", "resource", "template"}
    assert fetched["resource:test://weather/now"].title == "The weather"
    assert len({each.url for each in fetched.values()}) == len(ids)


def test_what_the_caller_may_not_use_is_not_found(victor: Person, bob: Person) -> None:
    assert found(victor, "weather") == found(bob, "weather") == []
    for person in (victor, bob):
        with pytest.raises(NotFound):
            gateway.fetch_offer(person.actor, id="prompt:up__forecast")


def test_in_a_bundle_they_see_what_the_bundle_shows(dora: Person) -> None:
    tool = gateway.read_view(dora.actor).find_tool("up__weather").upstream
    assert tool is not None
    items = [BundleItemIn(capability_id=tool.id, alias="sky")]
    gateway.create_bundle(dora.actor, name="Desk", slug="desk", items=items)
    gateway.forget_snapshots()

    with called_at("desk"):
        assert found(dora, "") == ["sky"]
        with pytest.raises(NotFound):
            gateway.fetch_offer(dora.actor, id="up__weather")
    assert "up__weather" in found(dora, "")
