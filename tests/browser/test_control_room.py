"""From signing in to an approved server, and the key that is shown once, as people see it."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import expect

from apps.auth.models import ApiKey, Membership
from apps.jobs.models import Job
from apps.registry.models import Credential, Server
from tests.browser.conftest import DESKTOP, PHONE
from tests.fixtures.servers import evil_upstream, free_port
from tests.staff.rooms import list_url, page_url, rows_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]


@pytest.fixture
def upstream(settings):
    """A real MCP server on loopback, which this platform may call."""
    port = free_port()
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    with evil_upstream(port):
        yield f"http://127.0.0.1:{port}/mcp"


def test_a_server_is_added_tested_discovered_and_approved(visitor, alice, upstream):
    from apps.registry import tasks

    page = visitor.page
    visitor.sign_in(alice)
    expect(page.get_by_text("Welcome to Gatehouse")).to_be_visible()

    page.get_by_role("link", name="Add a server").click()
    page.get_by_label("Name").first.fill("Upstream")
    page.get_by_label("Slug").fill("upstream")
    page.get_by_label("URL").fill(upstream)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name="Upstream").first.click()
    expect(page.get_by_text("Waiting for approval")).to_be_visible()

    page.get_by_role("button", name="Test connection").click()
    expect(page.locator(".gh-step-good").first).to_be_visible()
    expect(page.locator(".gh-step-bad")).to_have_count(0)
    page.get_by_role("link", name="Back to the server").click()

    page.get_by_role("button", name="Discover").click()
    expect(page.get_by_text("is being discovered")).to_be_visible()
    job = str(Job.objects.get(kind="registry.discover").pk)
    work(tasks.discover, job)
    page.reload()
    expect(page.locator(".gh-panel").first.get_by_role("link", name="echo")).to_be_visible()

    page.get_by_role("button", name="Approve", exact=True).click()
    expect(page.get_by_text("is approved. Agents can use")).to_be_visible()
    assert Server.objects.usable().filter(slug="upstream").exists()
    visitor.go("/admin/")
    expect(page.get_by_text("server.approved")).to_be_visible()


def test_a_new_key_is_gone_after_reload_and_after_back(visitor, alice):
    page = visitor.page
    visitor.sign_in(alice)
    visitor.go("/admin/accounts/apikey/add/")
    page.get_by_label("Name").fill("ci")
    page.get_by_role("button", name="Save", exact=True).click()
    key = page.locator("#new-key").inner_text()
    assert re.fullmatch(r"gate_\w+", key)

    page.reload()
    assert key not in page.content()
    expect(page.get_by_role("heading", name="ci")).to_be_visible()
    page.go_back()
    page.go_forward()
    assert key not in page.content()

    visitor.go("/admin/accounts/apikey/add/")
    page.get_by_label("Name").fill("another")
    page.get_by_role("button", name="Save", exact=True).click()
    another = page.locator("#new-key").inner_text()
    page.get_by_role("link", name="I have copied it").click()
    page.wait_for_load_state()
    page.go_back()
    page.wait_for_load_state()
    assert another not in page.content()


def test_the_switcher_changes_the_organisation(visitor, alice, bob):
    Membership(organization=bob.organization, user=alice.user, role="admin").store()
    page = visitor.page
    visitor.sign_in(alice)

    page.locator("#nav-sidebar").get_by_text("Acme").first.click()
    page.get_by_role("button", name="Globex").click()

    expect(page.locator("#nav-sidebar").get_by_text("Globex").first).to_be_visible()
    page.get_by_role("link", name="Members").click()
    expect(page.get_by_text(bob.email).first).to_be_visible()


@pytest.mark.parametrize(
    ("visitor", "is_thorough"),
    [
        ({"viewport": DESKTOP, "color_scheme": "light"}, True),
        ({"viewport": DESKTOP, "color_scheme": "dark"}, False),
        ({"viewport": PHONE, "color_scheme": "light"}, False),
        ({"viewport": PHONE, "color_scheme": "dark"}, True),
    ],
    ids=["desktop-light", "desktop-dark", "phone-light", "phone-dark"],
    indirect=["visitor"],
)
def test_every_page_fits_the_screen_and_can_be_read(visitor, is_thorough, alice):
    rows = rows_of(alice.organization)
    page = visitor.page
    visitor.sign_in(alice)
    addresses = ["/admin/", list_url(Server), page_url(rows[Server])]
    if is_thorough:
        addresses += [*map(list_url, rows), *map(page_url, rows.values())]
        addresses += [f"{list_url(model)}add/" for model in (Server, Credential, Membership, ApiKey)]

    for address in addresses:
        assert visitor.go(address) == 200, address
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), address
        assert page.evaluate(WORST_CONTRAST) >= 4.5, address


def work(task, *arguments):
    """Do what a worker does, in a thread without the browser's event loop."""
    with ThreadPoolExecutor(1) as worker:
        worker.submit(task, *arguments).result()


WORST_CONTRAST = """() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((part) => part / 255)
    .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  let worst = 21;
  for (const element of document.querySelectorAll("[class^=gh-], [class*=' gh-']")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.offsetParent) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const back = ["#fff", ...behind];
    const [a, b] = [light(over(back)), light(over([...back, getComputedStyle(element).color]))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
}"""
