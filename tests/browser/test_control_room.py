"""From signing in to an approved server, and the key that is shown once, as people see it."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import expect

from apps.auth.models import Membership
from apps.jobs.models import Job
from apps.registry.models import Server
from tests.fixtures.servers import evil_upstream, free_port

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


def work(task, *arguments):
    """Do what a worker does, in a thread without the browser's event loop."""
    with ThreadPoolExecutor(1) as worker:
        worker.submit(task, *arguments).result()
