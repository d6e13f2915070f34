"""What a real browser makes of our rules: policies, forged requests, foreign origins, links (O01 to O06, K11)."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product

import pytest
from django.db import models
from django.test import RequestFactory
from django.utils.crypto import get_random_string
from playwright.sync_api import Page, expect

from apps.auth.models import ApiKey, Membership
from apps.registry.models import Capability, Server
from config.entrance import safe_next
from tests.authenticator import Authenticator, enrol
from tests.browser.conftest import PHONE, WAIT_MILLISECONDS
from tests.factories.registry import CapabilityFactory, ServerFactory
from tests.people import Person
from tests.staff.rooms import list_url, page_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow_process]

BAD_LINK = "javascript:window.pwned=1"
PAYLOAD = f'<a href="{BAD_LINK}">x</a> [x]({BAD_LINK}) {BAD_LINK} <img src=x onerror=window.pwned=1>'
RUNS = f"""() => {{
  document.body.insertAdjacentHTML("beforeend", `<a id="bad" href="{BAD_LINK}" onclick="window.pwned=2">x</a>`);
  const script = document.createElement("script"); script.textContent = "window.pwned=3"; document.body.append(script);
  document.getElementById("bad").click();
}}"""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A page of another origin on the same host: cookies go along with what it sends, so that only our rules help."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Set-Cookie", "csrftoken=" + "a" * 32 + "; Path=/")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def press_until(page: Page, name: str) -> None:
    """Go by Tab to the button of this name, and press Enter."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if name in page.evaluate("document.activeElement.innerText || ''"):
            page.keyboard.press("Enter")
            return
    raise AssertionError(f"The keyboard does not reach {name}.")


def sign_in_by_keyboard(page: Page, person: Person) -> None:
    """Where the page has put the cursor, and on from there."""
    expect(page.get_by_label("E-mail address")).to_be_focused()
    page.keyboard.type(person.email)
    page.keyboard.press("Tab")
    page.keyboard.type(person.password)
    page.keyboard.press("Enter")


def taken_complaints(visitor) -> list[str]:
    """What the browser has complained about; it is forgotten."""
    taken = list(visitor.complaints)
    visitor.complaints.clear()
    return taken


@pytest.mark.parametrize("visitor", [{"viewport": PHONE, "color_scheme": "dark"}], indirect=True)
def test_o01_o06_no_page_breaks_its_policy_and_a_keyboard_is_enough_for_a_second_factor(visitor, alice):
    page = visitor.page
    for path, shown in (("/docs", "/api/v1/auth/login"), ("/redoc", "Exchange e-mail address")):
        assert visitor.go(path) == 200
        expect(page.get_by_text(shown).first).to_be_visible(timeout=WAIT_MILLISECONDS)
        assert page.evaluate("[...document.images].every((image) => image.src.startsWith('data:'))")
    assert visitor.go("/nothing") == 404
    assert [said for said in taken_complaints(visitor) if "404 (Not Found)" not in said] == []
    assert visitor.go("/health") == 200

    visitor.go("/admin/login/?next=/admin/second-factor/")
    sign_in_by_keyboard(page, alice)
    page.wait_for_url(f"{visitor.url}/admin/second-factor/")
    press_until(page, "Set it up")
    authenticator = Authenticator(page.locator(".gh-ways code").inner_text())
    assert page.locator(".gh-qr").evaluate("(image) => image.naturalWidth > 100")
    page.get_by_label("Code").press_sequentially(authenticator.code())
    page.keyboard.press("Enter")
    codes = page.locator("#new-key").inner_text().split()
    assert len(codes) == 10

    page.reload()  # K11: what is shown once
    assert not any(code in page.content() for code in codes)
    page.go_back()
    page.go_forward()
    assert not any(code in page.content() for code in codes)

    page.context.clear_cookies()
    visitor.go("/admin/login/")
    sign_in_by_keyboard(page, alice)
    page.wait_for_url("**/login/code/**")
    expect(page.get_by_label("Code")).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    page.keyboard.type(authenticator.code(seconds_from_now=30))  # that of now is spent
    page.keyboard.press("Enter")
    page.wait_for_url(f"{visitor.url}/admin/")
    visitor.go("/admin/confirm/?next=/admin/second-factor/")
    expect(page.get_by_label("Code")).to_be_focused()
    page.keyboard.type(codes[0])
    page.keyboard.press("Enter")
    expect(page.get_by_text("9 recovery codes left")).to_be_visible()


def test_o01_what_somebody_smuggles_into_a_page_does_not_run(visitor, alice):
    visitor.sign_in(alice)

    for path in ("/admin/", "/docs", "/nothing"):
        visitor.go(path)
        taken_complaints(visitor)
        visitor.page.evaluate(RUNS)
        assert visitor.page.evaluate("window.pwned") is None, path
        refused = [said for said in taken_complaints(visitor) if "Content Security Policy" in said]
        assert len(refused) >= 2, path


def test_o02_o03_a_page_of_another_origin_changes_and_reads_nothing(visitor, alice, elsewhere):
    visitor.sign_in(alice)
    evil = visitor.page.context.new_page()
    evil.goto(elsewhere)
    name = get_random_string(12)
    forms = {
        "/admin/accounts/apikey/add/": {"name": name, "user": str(alice.user.pk), "csrfmiddlewaretoken": "a" * 32},
        "/admin/accounts/membership/add/": {"email": f"{name}@evil.example", "role": "owner"},
        "/admin/second-factor/begin/": {},
        "/admin/login/": {"username": alice.email, "password": alice.password},
        "/admin/logout/": {},
    }

    for path, values in forms.items():
        for enctype in ("application/x-www-form-urlencoded", "text/plain"):
            evil.goto(elsewhere)
            with evil.expect_navigation() as navigation:
                evil.evaluate(SENDS_FORM, [visitor.url + path, values, enctype])
            assert navigation.value.status == 403, (path, enctype)
    evil.goto(elsewhere)
    reads = ["/admin/", "/health/detailed", "/api/v1/auth/me", "/api/openapi.json", "/mcp"]
    assert evil.evaluate(READS, [visitor.url, reads]) == ["refused"] * len(reads)
    sent = evil.evaluate(SENDS_BLINDLY, [visitor.url, ["/api/v1/auth/api-keys", "/mcp", "/admin/logout/"]])
    assert sent == ["opaque"] * 3
    evil.evaluate(FRAMES, f"{visitor.url}/admin/")
    assert not any(frame.url.startswith(visitor.url) for frame in evil.frames)

    assert not ApiKey.objects.exists()
    assert Membership.objects.count() == 1
    assert visitor.go("/admin/") == 200
    assert visitor.page.url == f"{visitor.url}/admin/"
    evil.close()


def test_o04_what_we_let_through_stays_inside_as_a_browser_reads_it(visitor, alice):
    request = RequestFactory().get("/admin/login/")
    parts = (
        "/", "//", "\\", "/admin/", "admin", "evil.example", "@", ":", "..", "/.", "%2f", "%5c", "%2e", "\t", "\n",
        "?x=", "#", ";", "\uff0f", "\u2044", "\u3002", "http:", "javascript:", " ", "\0",
    )  # fmt: skip
    made = {"".join(each) for count in (2, 3) for each in product(parts, repeat=count)}
    made |= {f"/admin/{''.join(each)}" for each in product(parts, repeat=3)}
    let_through = sorted(each for each in made if safe_next(request, each) == each)
    visitor.go("/admin/login/")

    assert len(made) > 30_000 and len(let_through) > 100
    assert visitor.page.evaluate(LEAVES, [visitor.url, let_through]) == []

    for goal in ("//evil.example/", "/%5Cevil.example", "%EF%BC%8F%EF%BC%8Fevil.example", "/%09/evil.example"):
        visitor.page.context.clear_cookies()
        visitor.go(f"/admin/login/?next={goal}")
        visitor.page.get_by_label("E-mail address").fill(alice.email)
        visitor.page.get_by_label("Password").fill(alice.password)
        visitor.page.get_by_role("button", name="Log in").click()
        visitor.page.wait_for_url(f"{visitor.url}/admin/")


def test_o05_stored_links_of_strangers_are_inert(visitor, alice):
    server = ServerFactory(organization=alice.organization, tags=[PAYLOAD[:40]])
    capability = CapabilityFactory(server=server)
    spoil(server, alice.organization, alice.user)
    Capability.objects.filter(pk=capability.pk).update(definition={
        **capability.definition, "description": PAYLOAD, "title": PAYLOAD, "icons": [{"src": BAD_LINK}],
        "_meta": {"websiteUrl": BAD_LINK},
    })  # fmt: skip
    visitor.sign_in(alice)

    for path in (
        "/admin/", list_url(Server), page_url(server), list_url(Capability), page_url(capability),
        page_url(server).replace("change/", "history/"), page_url(alice.user),
    ):  # fmt: skip
        assert visitor.go(path) == 200
        links = visitor.page.evaluate(PROTOCOLS)
        assert visitor.page.locator("img[onerror]").count() == 0, path
        assert set(links) <= {"http:"}, path
        assert visitor.page.evaluate("window.pwned") is None, path
    visitor.go(page_url(server))
    assert BAD_LINK in visitor.page.content()  # it was there to be shown


def test_k11_a_rotated_key_is_gone_after_reload_and_after_back(visitor, alice):
    from apps.auth import services as auth

    key = auth.create_key(alice.actor, name="ci").key
    page = visitor.page
    visitor.sign_in(alice)
    visitor.go(page_url(key))
    page.get_by_role("link", name="Rotate").click()
    page.get_by_role("button", name="Rotate").click()
    plain = page.locator("#new-key").inner_text()
    assert plain.startswith("gate_")

    page.reload()
    assert plain not in page.content()
    page.go_back()
    page.go_forward()
    assert plain not in page.content()
    assert ApiKey.objects.count() == 2


def test_o06_an_open_browser_makes_no_key_until_somebody_proves_who_they_are(visitor, alice, settings):
    authenticator, _ = enrol(alice)
    page = visitor.page
    visitor.go("/admin/login/")
    page.get_by_label("E-mail address").fill(alice.email)
    page.get_by_label("Password").fill(alice.password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_label("Code").fill(authenticator.code())
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{visitor.url}/admin/")
    settings.CONFIRM_SECONDS = 0.5
    time.sleep(0.6)

    visitor.go("/admin/accounts/apikey/add/")
    expect(page.get_by_text("Confirm that it is you")).to_be_visible()
    settings.CONFIRM_SECONDS = 600
    page.get_by_label("Code").fill(authenticator.code(seconds_from_now=30))
    page.get_by_role("button", name="Confirm").click()
    page.get_by_label("Name").fill("ci")
    page.get_by_role("button", name="Save", exact=True).click()

    expect(page.locator("#new-key")).to_be_visible()


def spoil(*rows: models.Model) -> None:
    """Put what a stranger might have written into every free text of these rows, past all checks."""
    for row in rows:
        texts = {
            field.name: PAYLOAD[: field.max_length]
            for field in row._meta.concrete_fields
            if isinstance(field, models.CharField | models.TextField)
            and not (field.unique or field.choices or field.name in ("password", "transport", "slug"))
        }
        if isinstance(row, Server):
            texts["url"] = BAD_LINK
        type(row)._default_manager.filter(pk=row.pk).update(**texts)


SENDS_FORM = """([url, values, enctype]) => {
  const form = document.createElement("form"); form.method = "post"; form.action = url; form.enctype = enctype;
  for (const [name, value] of Object.entries(values)) {
    const field = document.createElement("input"); field.name = name; field.value = value; form.append(field);
  }
  document.body.append(form); form.submit();
}"""
FRAMES = """(url) => new Promise((done) => {
  const frame = document.createElement("iframe"); frame.onload = done; frame.src = url; document.body.append(frame);
})"""
PROTOCOLS = """() => [...document.querySelectorAll("a[href], form, img, iframe, object, embed")].map((each) =>
  each.protocol || new URL(each.action || each.src || each.data || "", location).protocol)"""
READS = """async ([url, paths]) => Promise.all(paths.map((path) =>
  fetch(url + path, { credentials: "include" }).then((answer) => answer.text(), () => "refused")))"""
SENDS_BLINDLY = """async ([url, paths]) => Promise.all(paths.map((path) =>
  fetch(url + path, { method: "POST", mode: "no-cors", credentials: "include", body: '{"name": "evil"}' })
    .then((answer) => answer.type, () => "opaque")))"""
LEAVES = """([base, addresses]) => addresses.filter((address) => {
  const url = new URL(address, base + "/admin/login/");
  return url.origin !== base || !url.pathname.startsWith("/admin/");
})"""
