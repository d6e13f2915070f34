"""Bundles by REST, as a front end uses them."""

import pytest

from tests.gateway.shelf import offer, server_of
from tests.live import Live
from tests.people import Person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]
BUNDLES = "/api/v1/mcp/bundles"


def test_a_bundle_goes_from_its_making_to_its_end(live: Live, dora: Person, victor: Person, alice: Person) -> None:
    server = server_of(alice, "up")
    echo, plus = (offer(server, "tool", name) for name in ("echo", "add"))
    developer, viewer = live.rest(dora), live.rest(victor)

    made = developer.post(
        BUNDLES, {"name": "Desk", "slug": "desk", "items": [{"capability_id": str(echo.pk), "alias": "repeat"}]}
    )
    assert made.status == 201, made.text
    bundle = f"{BUNDLES}/{made.json()['id']}"
    assert made.json()["url"].endswith("/mcp/desk")
    [item] = made.json()["items"]
    assert (item["kind"], item["takes_in"], item["shows"], item["is_usable"]) == (
        "capability", "up__echo", "tool", True,
    )  # fmt: skip
    assert item["unusable_because"] == ""
    taken = developer.post(BUNDLES, {"name": "Desk", "slug": "desk"})
    assert (taken.status, list(taken.json()["error"]["details"]["fields"])) == (409, ["slug"])

    added = developer.post(f"{bundle}/items", {"capability_id": str(plus.pk)})
    assert added.status == 201, added.text
    clash = developer.patch(f"{bundle}/items/{added.json()['id']}", {"alias": "REPEAT"})
    assert (clash.status, clash.json()["error"]["code"]) == (409, "CONFLICT")
    assert developer.patch(f"{bundle}/items/{added.json()['id']}", {"alias": "plus"}).json()["alias"] == "plus"
    assert developer.delete(f"{bundle}/items/{item['id']}").status == 204
    assert [each["alias"] for each in viewer.get(bundle).json()["items"]] == ["plus"]

    whole = developer.patch(bundle, {"names_verbatim": True, "items": [{"server_id": str(server.pk)}]})
    assert (whole.status, whole.json()["names_verbatim"], len(whole.json()["items"])) == (200, True, 1)
    both = developer.request("PUT", f"{bundle}/items", {"items": [{"native": "search"}]})
    assert (both.status, list(both.json()["error"]["details"]["fields"])) == (422, ["names_verbatim"])
    said = viewer.get(f"{bundle}/connection", query={"client": "cursor"}).json()
    assert said["url"] in said["configuration"]
    assert viewer.get(f"{bundle}/connection", query={"client": "telnet"}).status == 400
    assert viewer.get(BUNDLES, query={"q": "desk", "is_enabled": "true"}).json()["total"] == 1

    assert viewer.delete(bundle).status == 403
    assert developer.delete(bundle).status == 204
    assert developer.get(bundle).status == 404
