"""A bundle as people make it: on a phone, one thing searched for among all that servers offer."""

import pytest
from playwright.sync_api import expect

from apps.gateway.models import Bundle
from tests.browser.conftest import PHONE
from tests.browser.test_accessibility import assert_good
from tests.gateway.shelf import offer, seen_by, server_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]


@pytest.mark.parametrize("visitor", [{"viewport": PHONE}], indirect=True)
def test_a_bundle_is_made_filled_by_search_and_tells_how_to_connect(visitor, alice):
    server = server_of(alice, "up")
    for name in ("echo", "add"):
        offer(server, "tool", name)
    page = visitor.page
    visitor.sign_in(alice)

    visitor.go("/admin/gateway/bundle/add/")
    page.get_by_label("Name").first.fill("Help desk")
    page.get_by_label("Slug").fill("desk")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Nothing yet. Choose tools")).to_be_visible()
    page.get_by_role("link", name="Choose things").click()
    assert_good(page, "the page to choose from")
    page.get_by_label("Search by name, server or kind").press_sequentially("tool ech")
    expect(page.get_by_text("1 thing has these words.")).to_be_visible()
    expect(page.get_by_role("checkbox", name="up__add")).to_be_hidden()
    page.get_by_role("checkbox", name="up__echo").check()
    page.get_by_label("Search by name, server or kind").fill("tool add")
    page.get_by_role("checkbox", name="up__add").check()
    expect(page.get_by_text("2 things chosen")).to_be_visible()
    assert_good(page, "things chosen")
    page.get_by_role("button", name="Add chosen").click()

    expect(page.get_by_text("2 things are in Help desk now.")).to_be_visible()
    expect(page.get_by_text("An agent at this address sees 2 tools")).to_be_visible()
    page.get_by_role("button", name="Take out up__add").click()
    page.get_by_text("Rename or describe anew: up__echo").click()
    page.get_by_label("Name in this bundle").fill("repeat")
    assert_good(page, "a thing that is named anew")
    page.get_by_role("button", name="Save up__echo").click()
    expect(page.get_by_text("repeat is changed.")).to_be_visible()
    assert list(seen_by(alice, bundle="desk").tools) == ["repeat"]

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text("cursor", exact=True).click()
    page.get_by_role("button", name="Copy the configuration of cursor").click()
    expect(page.get_by_role("button", name="Copied the configuration of cursor")).to_be_visible()
    assert Bundle.objects.get().url in page.evaluate("navigator.clipboard.readText()")
