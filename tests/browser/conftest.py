"""A Chromium that notes what it asks for and what it complains about.

The browser's driver runs an event loop in the thread that uses it, and Django would give that thread's tests another
database connection than their fixtures. So the browser, and the tests that use it, have a thread of their own.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connections
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.people import Person

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
WAIT_MILLISECONDS = 60_000

driver = ThreadPoolExecutor(1, thread_name_prefix="browser")


@dataclass
class Visitor:
    """Somebody at a browser."""

    page: Page
    url: str
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note requests to other hosts, and errors that the page reports."""
        own = (f"{self.url}/", "data:", "blob:")
        self.page.on(
            "request", lambda request: None if request.url.startswith(own) else self.outside.append(request.url)
        )
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def go(self, path: str) -> int:
        """Open an address of ours; returns the status of the answer."""
        answer = self.page.goto(self.url + path)
        return answer.status if answer else 0

    def sign_in(self, person: Person) -> None:
        """Through the form."""
        self.go("/admin/login/")
        self.page.get_by_label("E-mail address").fill(person.email)
        self.page.get_by_label("Password").fill(person.password)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(f"{self.url}/admin/")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Run a test in the browser's thread."""
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    driver.submit(pyfuncitem.obj, **arguments).result()
    return True


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; without one these tests are skipped."""
    found = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium", path="/usr/bin")
    if not found:
        pytest.skip("There is no Chromium.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        playwright = driver.submit(lambda: sync_playwright().start()).result()
        browser = driver.submit(_launch, playwright, found).result()
        yield browser
        driver.submit(browser.close).result()
        driver.submit(playwright.stop).result()


@pytest.fixture
def visitor(chromium: Browser, live: Any, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """A visitor with an empty browser; whatever they do, nothing leaves this machine and no page complains."""
    options = getattr(request, "param", {"viewport": DESKTOP})
    visitor: Visitor = driver.submit(_arrive, chromium, live.url, options).result()
    yield visitor
    driver.submit(_leave, visitor).result()
    assert not visitor.outside
    assert not visitor.complaints


def _launch(playwright: Playwright, path: str) -> Browser:
    return playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))


def _arrive(browser: Browser, url: str, options: dict[str, Any]) -> Visitor:
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MILLISECONDS)
    visitor = Visitor(context.new_page(), url)
    visitor.watch()
    return visitor


def _leave(visitor: Visitor) -> None:
    visitor.page.context.close()
    connections.close_all()
