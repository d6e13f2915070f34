"""What staff do in the control room is done by services: the journal knows, and a refusal is a sentence on the page."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import ApiKey, Invitation, Membership, Organization, User
from apps.core.errors import BackendError, InvalidInput
from apps.jobs.models import Job, State
from apps.registry.models import Capability, Credential, Server
from apps.registry.services import Step
from tests.factories.auth import ApiKeyFactory, InvitationFactory, MembershipFactory
from tests.factories.jobs import JobFactory
from tests.factories.registry import CapabilityFactory, CredentialFactory, ServerFactory
from tests.staff.rooms import deed_url, enter, list_url, make_schedule, page_url


def actions(organization) -> list[str]:
    """What the journal says happened, the newest first."""
    return list(Entry.objects.for_org(organization.pk).values_list("action", flat=True))


def do(client: Client, row, name: str, **sent) -> str:
    """Do a deed, and return the page that answers."""
    answer = client.post(deed_url(row, name), sent, follow=True)
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize(
    ("name", "entry", "holds"),
    [
        ("approve", "server.approved", lambda server: server.approved_at),
        ("disable", "server.disabled", lambda server: not server.is_enabled),
        ("remove", "server.deleted", lambda server: server.deleted_at),
        ("discover", "discovery.started", lambda server: Job.objects.filter(organization=server.organization).exists()),
    ],
)
def test_a_deed_on_a_server_is_done_and_journalled(alice, name, entry, holds, monkeypatch):
    monkeypatch.setattr("apps.jobs.services.queue.send", lambda *_: True)
    server = ServerFactory(organization=alice.organization)

    do(enter(alice), server, name)

    server.refresh_from_db()
    assert holds(server)
    assert entry in actions(alice.organization) or name == "discover"


def test_what_was_done_to_a_server_can_be_undone(alice):
    server = ServerFactory(organization=alice.organization, approved_at=timezone.now())
    client = enter(alice)

    for name in ("disable", "enable", "revoke", "remove", "restore"):
        do(client, server, name)

    server.refresh_from_db()
    assert server.is_enabled and not server.deleted_at and not server.approved_at
    assert actions(alice.organization)[0] == "server.restored"


def test_a_deed_needs_a_post_with_a_token(alice):
    server = ServerFactory(organization=alice.organization)

    asked = enter(alice).get(deed_url(server, "approve"))
    refused = enter(alice, checks_csrf=True).post(deed_url(server, "approve"))

    server.refresh_from_db()
    assert asked.status_code == 200 and refused.status_code == 403
    assert not server.approved_at


def test_a_deed_that_does_not_exist_is_not_found(alice):
    server = ServerFactory(organization=alice.organization)

    for name in ("nothing", "get_queryset", "save_model", "create"):
        assert enter(alice).post(deed_url(server, name)).status_code == 404


def test_what_a_service_refuses_is_a_sentence_on_the_page(alice, monkeypatch):
    def refuse(*_, **__):
        raise BackendError("weather.example did not answer in time.")

    server = ServerFactory(organization=alice.organization)
    monkeypatch.setattr("apps.registry.services.check_server", refuse)

    assert "weather.example did not answer in time." in do(enter(alice), server, "check_now")


def test_a_tested_connection_is_shown_step_by_step(alice, monkeypatch):
    steps = [
        Step("resolve", True, "203.0.113.7", 3.2),
        Step("connect", False, "<b>refused</b>", 12.0),
        Step("TLS", False, "Not tried.", None, True),
    ]
    server = ServerFactory(organization=alice.organization)
    monkeypatch.setattr("apps.registry.services.test_connection", lambda actor, *, server_id: steps)

    page = do(enter(alice), server, "test_connection")

    assert "203.0.113.7" in page and "12 ms" in page and "&lt;b&gt;refused" in page
    assert page.count("gh-step-good") == page.count("gh-step-bad") == page.count("gh-step-skipped") == 1


def test_an_action_on_a_list_says_for_how_many_it_worked_and_why_not_for_others(alice, monkeypatch):
    from apps.registry import services

    good, bad = (ServerFactory(organization=alice.organization, name=name) for name in ("Good", "Bad"))
    real = services.approve_server

    def approve(actor, *, server_id, digest):
        if server_id == bad.pk:
            raise InvalidInput("Discover it first.")
        return real(actor, server_id=server_id, digest=digest)

    monkeypatch.setattr("apps.registry.services.approve_server", approve)
    sent = {"action": "approve", "_selected_action": [good.pk, bad.pk], "index": "0", "select_across": "0"}
    page = enter(alice).post(list_url(Server), sent, follow=True).text

    good.refresh_from_db()
    assert good.approved_at
    assert "Approve: done for 1 server." in page and "Bad: Discover it first." in page


def test_a_capability_that_changed_while_one_read_it_is_not_approved(alice):
    capability = CapabilityFactory(server=ServerFactory(organization=alice.organization))
    client, seen = enter(alice), capability.digest
    page = client.get(page_url(capability)).text

    Capability.objects.filter(pk=capability.pk).update(digest="f" * 64)
    answer = do(client, capability, "approve", seen=seen)

    capability.refresh_from_db()
    assert f'name="seen" value="{seen}"' in page
    assert "has changed since you looked at it" in answer
    assert not capability.is_approved


@pytest.mark.parametrize("changes", [
    {"url": "https://elsewhere.example/mcp"}, {"discovered_at": timezone.now()},
])  # fmt: skip
def test_a_server_that_changed_while_one_looked_at_it_is_not_approved(alice, changes):
    server = ServerFactory(organization=alice.organization)
    CapabilityFactory(server=server)
    client = enter(alice)
    seen = re.search(r'name="seen" value="(\w{64})"', client.get(page_url(server)).text)[1]

    Server.objects.filter(pk=server.pk).update(**changes)
    answer = do(client, server, "approve", seen=seen)

    server.refresh_from_db()
    assert "has changed since you looked at it" in answer
    assert not server.is_approved

    do(client, server, "approve", seen=re.search(r'name="seen" value="(\w{64})"', client.get(page_url(server)).text)[1])
    server.refresh_from_db()
    assert server.is_approved


def test_what_waits_is_not_approved_where_more_has_come_since_one_looked(alice):
    server = ServerFactory(organization=alice.organization, approved_at=timezone.now(), discovered_at=timezone.now())
    capability = CapabilityFactory(server=server)
    client = enter(alice)
    asked = re.search(
        rf'href="({deed_url(server, "approve_waiting")}\?seen=\w{{64}})"', client.get(page_url(server)).text
    )[1]
    seen = re.search(r'name="seen" value="(\w{64})"', client.get(asked).text)[1]

    Server.objects.filter(pk=server.pk).update(discovered_at=timezone.now())
    answer = do(client, server, "approve_waiting", seen=seen)

    capability.refresh_from_db()
    assert "has changed since you looked at it" in answer
    assert not capability.is_approved


def test_staff_decide_about_a_capability(alice):
    capability = CapabilityFactory(server=ServerFactory(organization=alice.organization))
    client = enter(alice)

    do(client, capability, "approve", seen=capability.digest)
    do(client, capability, "disable")
    client.post(
        page_url(capability),
        {"risk": "high", "tags": "a, b", "required_scopes": "tool.call", "alias": "", "description_override": ""},
    )

    capability.refresh_from_db()
    assert capability.is_approved and not capability.is_enabled
    assert (capability.risk, capability.tags, capability.required_scopes) == ("high", ["a", "b"], ["tool.call"])
    assert {"capability.approved", "capability.updated"} <= set(actions(alice.organization))


def test_a_server_is_added_changed_and_refused_by_the_form(alice):
    client = enter(alice)
    sent = {
        "name": "Weather",
        "slug": "weather",
        "transport": "streamable_http",
        "url": "https://weather.example/mcp",
        "environment": "production",
        "tags": "core, team-a",
        "max_concurrency": "16",
        "check_interval_seconds": "60",
        "check_timeout_seconds": "10",
        "check_retries": "1",
    }

    added = client.post(list_url(Server) + "add/", sent)
    shown = client.get(added.headers["Location"])
    twice = client.post(list_url(Server) + "add/", sent)
    private = client.post(list_url(Server) + "add/", {**sent, "slug": "inside", "url": "http://169.254.169.254/"})
    server = Server.objects.get(slug="weather")
    changed = client.post(page_url(server), {**sent, "name": "Weather and tides"})

    server.refresh_from_db()
    assert added.status_code == changed.status_code == 302
    assert added.headers["Location"] == page_url(server) and "Gatehouse reads what it offers" in shown.text
    assert Job.objects.get().kind == "registry.discover"
    assert (
        server.tags == ["core", "team-a"]
        and server.name == "Weather and tides"
        and server.organization == alice.organization
    )
    assert twice.status_code == private.status_code == 200
    assert "A server with this slug exists already." in twice.text
    assert Server.objects.count() == 1
    assert actions(alice.organization)[:2] == ["server.updated", "server.registered"]


def test_only_a_platform_admin_adds_or_changes_a_stdio_server(alice, root, settings):
    settings.STDIO_ALLOW = ("mcp-server-time",)
    sent = {
        "name": "Time",
        "slug": "time",
        "transport": "stdio",
        "command": "mcp-server-time",
        "env": "TZ=UTC\nSECRET=canary-of-env",
        "environment": "production",
        "max_concurrency": "16",
        "check_interval_seconds": "60",
        "check_timeout_seconds": "10",
        "check_retries": "1",
    }

    refused = enter(alice).post(list_url(Server) + "add/", sent)
    added = enter(root, alice.organization).post(list_url(Server) + "add/", sent)
    server = Server.objects.get(slug="time")
    changed = enter(alice).post(page_url(server), {**sent, "command": "sh"})
    page = enter(alice).get(page_url(server)).text
    form = enter(root).get(page_url(server)).text

    server.refresh_from_db()
    assert refused.status_code == 200 and added.status_code == 302 and changed.status_code == 403
    assert server.command == ["mcp-server-time"] and server.env == {"TZ": "UTC", "SECRET": "canary-of-env"}
    assert "mcp-server-time" in page
    assert "canary-of-env" not in page + form


def test_saving_a_stdio_server_without_writing_its_variables_keeps_them(alice, root, settings):
    settings.STDIO_ALLOW = ("mcp-server-time",)
    server = ServerFactory(
        organization=alice.organization, transport="stdio", url="", command=["mcp-server-time"], env={"TZ": "UTC"}
    )
    sent = {
        "name": "Time",
        "command": "mcp-server-time",
        "env": "",
        "environment": "production",
        "max_concurrency": "16",
        "check_interval_seconds": "60",
        "check_timeout_seconds": "10",
        "check_retries": "1",
    }

    answer = enter(root).post(page_url(server), sent)

    server.refresh_from_db()
    assert answer.status_code == 302
    assert server.name == "Time" and server.env == {"TZ": "UTC"}


def test_a_credential_is_sealed_and_never_shown(alice):
    server = ServerFactory(organization=alice.organization)
    client = enter(alice)
    sent = {"server": server.pk, "kind": "bearer", "secret": "canary-of-a-secret"}

    refused = client.post(list_url(Credential) + "add/", {**sent, "kind": "basic"})
    client.post(list_url(Credential) + "add/", sent)
    credential = Credential.objects.get(server=server)
    pages = [client.get(address).text for address in (page_url(credential), page_url(server), list_url(Credential))]

    assert refused.status_code == 200
    assert not [page for page in [refused.text, *pages] if "canary-of-a-secret" in page]
    do(client, credential, "remove")
    assert not Credential.objects.exists()


def test_members_are_invited_changed_and_removed(alice):
    client = enter(alice)
    shown = client.post(list_url(Invitation) + "add/", {"email": "Nina@acme.example", "role": "viewer"})
    auth.accept_invitation(token=re.search(r"gate_invitation_[\w-]+", shown.text)[0], password="a much longer password")

    member = Membership.objects.get(user__email="nina@acme.example")
    client.post(page_url(member), {"role": "developer"})
    member.refresh_from_db()
    role = member.role
    do(client, member, "remove")

    assert role == "developer"
    assert not Membership.objects.filter(pk=member.pk).exists()
    assert actions(alice.organization)[:1] == ["member.removed"]


def test_the_link_of_an_invitation_is_shown_once(alice):
    client, body = enter(alice), {"email": "nina@acme.example", "role": "viewer"}

    shown = client.post(list_url(Invitation) + "add/", body)
    again = client.post(list_url(Invitation) + "add/", body)

    token, invitation = re.search(r"gate_invitation_[\w-]+", shown.text)[0], Invitation.objects.get()
    pages = [again, *(client.get(address) for address in (list_url(Invitation), page_url(invitation)))]
    assert "no-store" in shown["Cache-Control"]
    assert "has an open invitation" in again.text
    assert not [page for page in pages if "gate_invitation_" in page.text or token in page.text]


def test_an_invitation_is_withdrawn(alice):
    invitation = InvitationFactory(organization=alice.organization)

    said = do(enter(alice), invitation, "withdraw")

    assert "is not invited any more" in said and not Invitation.objects.exists()
    assert actions(alice.organization)[:1] == ["invitation.withdrawn"]


def test_the_last_owner_stays(alice):
    member = Membership.objects.get(user=alice.user)
    client = enter(alice)

    assert "last owner" in do(client, member, "remove")
    assert "last owner" in client.post(page_url(member), {"role": "viewer"}).text


def test_an_admin_makes_nobody_an_owner(alice, adam):
    member = MembershipFactory(organization=alice.organization, role="viewer")

    page = enter(adam).post(page_url(member), {"role": "owner"}).text

    member.refresh_from_db()
    assert member.role == "viewer"
    assert "Only an owner" in page


def test_platform_admins_give_passwords_and_switch_people_off(alice, dora, root):
    client = enter(root)

    weak = do(client, dora.user, "set_password", password="password1234")
    do(client, dora.user, "set_password", password="a much longer password")
    do(client, dora.user, "deactivate")

    dora.user.refresh_from_db()
    assert "too common" in weak and "password1234" not in weak
    assert dora.user.check_password("a much longer password") and not dora.user.is_active


def test_those_who_run_an_organisation_do_neither(alice, dora):
    client = enter(alice)

    for name in ("set_password", "deactivate"):
        assert client.post(deed_url(dora.user, name), {"password": "a much longer password"}).status_code == 403
    assert "Set password" not in client.get(page_url(dora.user)).text
    dora.user.refresh_from_db()
    assert dora.user.is_active and dora.user.check_password(dora.password)


def test_platform_admins_make_users_and_organisations(root):
    client = enter(root)

    client.post(list_url(Organization) + "add/", {"name": "Initech", "slug": "initech", "plan": "free"})
    client.post(
        list_url(User) + "add/",
        {"email": "peter@initech.example", "name": "Peter", "password": "a much longer password"},
    )
    taken = client.post(list_url(Organization) + "add/", {"name": "Again", "slug": "initech", "plan": "free"})

    assert Organization.objects.filter(slug="initech").count() == 1
    assert User.objects.get(email="peter@initech.example").check_password("a much longer password")
    assert "An organisation with this slug exists already." in taken.text


def test_jobs_are_cancelled_and_repeated(alice, monkeypatch):
    monkeypatch.setattr("apps.jobs.services.queue.send", lambda *_: True)
    job = JobFactory(organization=alice.organization)
    client = enter(alice)

    do(client, job, "cancel")
    again = do(client, job, "cancel")
    do(client, job, "repeat")

    job.refresh_from_db()
    assert job.state == State.CANCELLED
    assert "has ended" in again
    assert Job.objects.filter(organization=alice.organization, state=State.PENDING).count() == 1


def test_a_key_is_revoked(alice):
    key = ApiKeyFactory(organization=alice.organization, expires_at=timezone.now() + timedelta(days=1))

    do(enter(alice), key, "revoke")

    key.refresh_from_db()
    assert key.revoked_at
    assert ApiKey.objects.usable().count() == 0
    assert "key.revoked" in actions(alice.organization)


def test_a_platform_admin_acts_in_the_organisation_of_the_row(alice, root):
    server = ServerFactory(organization=alice.organization)

    do(enter(root), server, "approve")

    assert actions(alice.organization)[0] == "server.approved"


def test_the_journal_is_verified_from_its_page(alice):
    from django.urls import reverse

    ServerFactory(organization=alice.organization)
    client = enter(alice)
    do(client, Server.objects.get(), "approve")

    assert "The chain is whole" in client.post(reverse("admin:audit_entry_verify"), follow=True).text


def test_the_history_of_a_row_is_what_the_journal_says(alice):
    server = ServerFactory(organization=alice.organization)
    client = enter(alice)
    do(client, server, "approve")

    page = client.get(page_url(server).replace("/change/", "/history/")).text

    assert "server.approved" in page and alice.email in page


def test_a_changed_schedule_is_journalled(root):
    from apps.audit.models import PLATFORM_CHAIN

    schedule = make_schedule()
    page = enter(root).post(
        page_url(schedule),
        {
            "name": schedule.name,
            "task": schedule.task,
            "enabled": "",
            "interval": schedule.interval_id,
            "args": "[]",
            "kwargs": "{}",
            "headers": "{}",
            "priority": "",
        },
    )

    schedule.refresh_from_db()
    assert page.status_code == 302 and not schedule.enabled
    assert Entry.objects.filter(chain_id=PLATFORM_CHAIN, action="schedule.changed").exists()


def test_removing_a_credential_by_list_action_works_for_several(alice):
    rows = [CredentialFactory(server=ServerFactory(organization=alice.organization)) for _ in range(2)]
    sent = {"action": "remove", "_selected_action": [row.pk for row in rows], "index": "0", "select_across": "0"}

    enter(alice).post(list_url(Credential), sent)

    assert not Credential.objects.exists()
