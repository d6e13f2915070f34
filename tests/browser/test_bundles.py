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
    expect(page.get_by_text("Nothing yet. Add a tool")).to_be_visible()
    page.get_by_role("link", name="Add something").click()
    # The select itself stays in the page, unseen, under the same label.
    page.get_by_role("combobox", name="One thing of a server").and_(page.locator("span")).click()
    page.get_by_label("Search: One thing of a server").fill("ech")
    found = page.get_by_role("option", name="up__echo")
    expect(found).to_be_visible()
    assert_good(page, "the open list")
    found.click()
    page.get_by_label("Name in this bundle").fill("repeat")
    page.get_by_role("button", name="Save", exact=True).click()

    expect(page.get_by_text("repeat is in Help desk now.")).to_be_visible()
    expect(page.get_by_text(f"desk {Bundle.objects.get().url}")).to_be_visible()
    assert list(seen_by(alice, bundle="desk").tools) == ["repeat"]
