"""The control room for people with a screen reader, with a keyboard only, or on a phone.

axe-core looks at each page in one of four settings, and at the main pages in all of them; with TEST_THOROUGH set it
looks at each page in all, and at the documents of the API, whose markup is Swagger's and ReDoc's and not ours to mend.
"""

import json
import os
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from apps.auth.models import ApiKey, Invitation, Membership
from apps.gateway.models import Bundle, BundleItem
from apps.registry.admin.health import health_url
from apps.registry.models import Capability, Credential, Server
from tests.browser.conftest import DESKTOP, PHONE
from tests.factories.registry import CapabilityFactory, ServerFactory
from tests.staff.rooms import deed_url, list_url, page_url, rows_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]

SETTINGS = [
    {"viewport": DESKTOP, "color_scheme": "light"},
    {"viewport": DESKTOP, "color_scheme": "dark"},
    {"viewport": PHONE, "color_scheme": "light"},
    {"viewport": PHONE, "color_scheme": "dark"},
]
NAMES = ["desktop-light", "desktop-dark", "phone-light", "phone-dark"]
GRAVE = {"serious", "critical"}
MOST_TABS = 150
SMALLEST = 3
IS_THOROUGH = bool(os.environ.get("TEST_THOROUGH"))
DOCUMENT = json.dumps({
    "gatehouse": 1,
    "servers": [{"slug": "maps", "name": "Maps", "url": "https://maps.example.com/mcp"}, {"slug": "x"}],
    "bundles": [{"slug": "all-maps", "items": [{"server": "maps"}]}, {"slug": "x", "items": [{"server": "gone"}]}],
    "members": [{"email": "new@acme.example", "role": "viewer"}],
})  # fmt: skip
axe = Axe()


def grave_findings(page: Page) -> list[str]:
    """What axe-core finds serious or critical, with the first place of each."""
    found = axe.run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in GRAVE]


def assert_good(page: Page, where: str, *, with_axe: bool = True) -> None:
    """Nothing grave, no sideways scrolling, one main part, a heading that names the page."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), where
    assert page.evaluate("document.querySelectorAll('main').length") == 1, where
    assert page.locator("h1").first.inner_text().strip(), where
    assert not with_axe or grave_findings(page) == [], where


def others(rows: dict[Any, Any]) -> list[str]:
    """The pages besides the main ones: lists, rows, forms, histories."""
    histories = [page_url(rows[model]).replace("/change/", "/history/") for model in (Capability, Membership, ApiKey)]
    forms = [f"{list_url(model)}add/" for model in (Server, Credential, Invitation, ApiKey, Bundle, BundleItem)]
    choose = page_url(rows[Bundle]).replace("/change/", "/choose/")
    own = ["/admin/password_change/", "/admin/second-factor/", "/admin/connect/", "/invitation"]
    rest = [address for model in rows for address in (list_url(model), page_url(rows[model])) if model is not Server]
    return [*rest, *histories, *forms, choose, health_url(rows[Server]), deed_url(rows[Server], "remove"), *own]


@pytest.mark.parametrize(
    ("visitor", "setting"), list(zip(SETTINGS, range(4), strict=True)), ids=NAMES, indirect=["visitor"]
)
def test_no_page_has_a_grave_finding_and_every_page_fits(visitor, setting, alice):
    rows = rows_of(alice.organization)
    server = page_url(rows[Server])
    page = visitor.page
    visitor.go("/admin/login/")
    assert_good(page, "login")
    visitor.sign_in(alice)

    main = ["/admin/", server]
    more = [list_url(Server), server.replace("/change/", "/history/"), "/admin/configuration/", *others(rows)]
    looked_at = [*main, *(more if IS_THOROUGH else more[setting::4])]
    for address in [*main, *more] if setting == SMALLEST else looked_at:
        assert visitor.go(address) == 200, address
        assert_good(page, address, with_axe=address in looked_at)

    visitor.go("/admin/configuration/")
    page.get_by_label("Or paste it").fill(DOCUMENT)
    page.get_by_role("button", name="Show what would be done").click()
    expect(page.get_by_text("Line by line")).to_be_visible()
    assert_good(page, "preview of an import")


@pytest.mark.skipif(not IS_THOROUGH, reason="Takes half a minute: set TEST_THOROUGH.")
def test_the_documents_of_the_api_have_no_finding_that_we_could_mend(visitor):
    for address, theirs in (("/docs", {"nested-interactive", "color-contrast"}), ("/redoc", set())):
        visitor.go(address)
        visitor.page.wait_for_selector("h1, h2")
        assert {each.partition(":")[0] for each in grave_findings(visitor.page)} <= theirs, address


def test_a_finding_would_be_found(visitor):
    visitor.go("/admin/login/")
    visitor.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<button></button>')")

    assert any(each.startswith("button-name") for each in grave_findings(visitor.page))


# With a keyboard only


def reach(page: Page, name: str, *, kind: str = "a, button") -> None:
    """Press Tab until this control has the focus, which must be seen at each step."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        said, is_kind, is_seen = page.evaluate(FOCUS, kind)
        assert is_seen, f"The focus on {said!r} cannot be seen."
        if is_kind and name in said:
            return
    raise AssertionError(f"{MOST_TABS} times Tab, and {name!r} was not there.")


FOCUS = """(kind) => {
  const at = document.activeElement;
  const label = at.id && document.querySelector(`label[for="${CSS.escape(at.id)}"]`);
  const named = at.getAttribute("aria-label") || (label && label.innerText);
  const said = named || at.innerText || at.title || at.value || "";
  const marked = (element) => { const style = getComputedStyle(element);
    return style.outlineStyle !== "none" || style.boxShadow !== "none"; };
  const box = at.getBoundingClientRect();
  const isMarked = marked(at) || (at.parentElement && marked(at.parentElement));
  const seen = at === document.body || (box.width > 0 && isMarked);
  return [said, at.matches(kind), seen];
}"""


def type_into(page: Page, name: str, text: str) -> None:
    """Reach a field and write."""
    reach(page, name, kind="input, textarea")
    page.keyboard.type(text)


def press(page: Page, name: str) -> None:
    """Reach a link or button and press Enter; the next page is there afterwards."""
    reach(page, name)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_everything_is_reached_with_a_keyboard(visitor, alice):
    server = ServerFactory(organization=alice.organization, name="Notes", slug="notes")
    CapabilityFactory(server=server)
    page = visitor.page
    visitor.go("/admin/login/")
    page.evaluate("document.activeElement.blur()")
    type_into(page, "E-mail", alice.email)
    type_into(page, "Password", alice.password)
    press(page, "Log in")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"

    visitor.go("/admin/")
    press(page, "Servers")
    press(page, "Notes")
    press(page, "Approve")
    server.refresh_from_db()
    assert server.is_approved

    press(page, "API keys")
    press(page, "Add")
    type_into(page, "Name", "ci")
    press(page, "Save")
    expect(page.locator("#new-key")).to_contain_text("gate_")

    visitor.go("/admin/")
    reach(page, "Your account")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    page.keyboard.press("Enter")
    page.evaluate("document.querySelector('.gh-skip').focus()")  # the menu stands above its button
    press(page, "Log out")
    assert visitor.go("/admin/") == 200 and "/login/" in page.url


@pytest.mark.parametrize("visitor", [SETTINGS[2]], ids=["phone"], indirect=True)
def test_the_menu_of_a_phone_opens_and_closes_with_a_keyboard(visitor, alice):
    page = visitor.page
    visitor.sign_in(alice)
    expect(page.locator("#nav-sidebar")).to_be_hidden()

    reach(page, "Menu")
    page.keyboard.press("Enter")
    expect(page.locator("#nav-sidebar")).to_be_visible()
    page.evaluate("document.querySelector('.gh-skip').focus()")
    reach(page, "Close the menu")
    page.keyboard.press("Enter")
    expect(page.locator("#nav-sidebar")).to_be_hidden()
