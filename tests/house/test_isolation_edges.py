"""What no single operation shows: people of two organisations, last owners, names that both use, background work."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from apps.auth import services as auth
from apps.auth.models import ApiKey, Invitation, Membership, User
from apps.core.errors import InvalidInput, NotAuthenticated, NotFound
from apps.core.ids import new_id
from apps.jobs import services as jobs
from apps.jobs.models import Job, State
from apps.jobs.services import queue
from apps.registry.models import Capability, HealthCheck, HealthHour, Server
from apps.secrets import services as secrets
from apps.secrets.models import Secret
from apps.usage import services as usage
from apps.usage.models import UsageEvent
from tests.factories.auth import OrganizationFactory
from tests.house.tenants import CANARY, make_row
from tests.people import PASSWORD, Person


@pytest.fixture
def both(world) -> User:
    """Somebody who belongs to A and to B."""
    user = User.objects.create_user(f"both-{new_id().hex[-8:]}@nowhere.example", PASSWORD)
    for organization in (world.a, world.b):
        Membership(organization=organization, user=user, role="developer").store()
    return user


def test_a_key_of_b_lists_b_alone_although_its_owner_is_in_both(world, both):
    actor = auth.actor_for_user(both, organization_id=world.b.id, surface="rest")
    client = world.live.with_key(world.live.key(Person(both, world.b, actor)))

    listed = client.get("/api/v1/orgs").json()["items"]

    assert [each["slug"] for each in listed] == [world.b.slug]


def test_leaving_b_ends_the_keys_of_b_and_no_others(world, both):
    keys = {}
    for organization in (world.a, world.b):
        actor = auth.actor_for_user(both, organization_id=organization.id, surface="rest")
        keys[organization.slug] = auth.create_key(actor, name="ci").key
    membership = Membership.objects.for_org(world.b.id).get(user=both)

    world.callers["owner"].delete(f"/api/v1/orgs/{world.b.id}/members/{membership.id}")

    assert ApiKey.objects.get(pk=keys[world.b.slug].pk).revoked_at
    assert ApiKey.objects.get(pk=keys[CANARY].pk).revoked_at is None


def test_owners_of_a_do_not_count_as_owners_of_b(world):
    last = Membership.objects.for_org(world.b.id).get(role="owner")

    answer = world.callers["owner"].patch(f"/api/v1/orgs/{world.b.id}/members/{last.id}", {"role": "viewer"})

    assert answer.status == 409
    assert Membership.objects.get(pk=last.pk).role == "owner"


def test_a_key_cannot_be_made_for_a_person_of_as(world):
    with pytest.raises(InvalidInput):
        auth.create_key(world.owner_of_b.actor, name="theirs", user_id=world.owner_of_a.user.id)


def test_a_job_of_b_does_not_find_a_key_of_as(world):
    with pytest.raises(NotAuthenticated):
        auth.actor_for_job("key", world.theirs[ApiKey].pk, world.b.id)


def test_who_one_is_does_not_show_a_key_of_as(world):
    odd = replace(world.owner_of_b.actor, kind="key", key_id=world.theirs[ApiKey].pk)

    assert auth.describe_me(odd).key is None


def test_a_secret_of_as_is_not_opened_for_b(world):
    secret = world.theirs[Secret]

    assert secrets.open_secret(secret.pk, organization_id=world.a.id)
    with pytest.raises(NotFound):
        secrets.open_secret(secret.pk, organization_id=world.b.id)


def test_a_name_that_a_uses_is_free_at_b(world):
    taken = "only-a-has-this"
    make_row(Capability, world.a, server=world.theirs[Server], public_name=taken, name=taken)
    own = make_row(Capability, world.b, server=world.ours[Server])

    answer = world.callers["owner"].patch(f"/api/v1/mcp/capabilities/{own.pk}", {"alias": taken})

    assert answer.status == 200, answer.text
    slug = world.callers["owner"].post(
        "/api/v1/mcp/servers", {"name": "Same", "slug": world.theirs[Server].slug, "url": "https://example.com/mcp"}
    )
    assert slug.status == 201, slug.text


def test_b_can_invite_whom_a_has_and_touches_no_invitation_of_as(world):
    over = timezone.now() - timedelta(days=1)
    email = world.owner_of_a.email
    theirs = make_row(Invitation, world.a, email=email, expires_at=over)
    ours = make_row(Invitation, world.b, email=email, expires_at=over)

    invited = world.callers["owner"].post(f"/api/v1/orgs/{world.b.id}/invitations", {"email": email, "role": "viewer"})

    assert invited.status == 201, invited.text
    assert Invitation.objects.filter(pk=theirs.pk).exists()
    assert not Invitation.objects.filter(pk=ours.pk).exists()


def test_the_figures_of_b_count_nothing_of_as(world):
    before = usage.look_back(world.b.id, span=usage.SPANS["30d"])
    make_row(type(usage.latest_denials(world.a.id, limit=1)[0]), world.a, status="denied")

    assert usage.look_back(world.b.id, span=usage.SPANS["30d"]) == before
    assert usage.look_back(None, span=usage.SPANS["30d"]).total.calls > before.total.calls
    assert {tool.name for tool in usage.busiest_tools(world.b.id, span=usage.SPANS["30d"], limit=50)}.isdisjoint(
        tool.name for tool in usage.busiest_tools(world.a.id, span=usage.SPANS["30d"], limit=50)
    )
    assert [event for event in usage.latest_denials(world.b.id, limit=50) if event.organization_id != world.b.id] == []


def test_the_health_of_a_server_of_bs_is_told_by_rows_of_bs_alone(world):
    ours, hour = {Server: world.ours[Server]}, timezone.now().replace(minute=0, second=0, microsecond=0)
    address = f"/api/v1/mcp/servers/{world.ours[Server].pk}/health?period=7d"
    before = world.callers["owner"].get(address).json()

    make_row(HealthHour, world.a, ours, at=hour - timedelta(hours=100), passed=0)
    make_row(HealthCheck, world.a, ours, health="unhealthy", at=timezone.now() - timedelta(hours=23, minutes=59))
    make_row(HealthCheck, world.a, ours, health="unhealthy")

    assert world.callers["owner"].get(address).json() == before


def test_a_call_of_as_is_not_the_first_call_of_another(world):
    new = OrganizationFactory()
    make_row(UsageEvent, world.a, status="ok")

    assert usage.has_been_called(world.a.id)
    assert not usage.has_been_called(new.id)


def test_what_runs_for_a_takes_no_place_of_bs(world, settings):
    for _ in range(settings.JOBS_PER_ORGANIZATION):
        make_row(Job, world.a, state=State.RUNNING, lease=new_id(), heartbeat_at=timezone.now())
    ours = make_row(Job, world.b)

    jobs.run(ours.pk, lambda actor, **_: {})

    ours.refresh_from_db()
    assert ours.state == State.COMPLETED


def test_a_place_that_is_free_at_b_is_given_to_a_job_of_bs(world, monkeypatch):
    theirs, ours = (make_row(Job, organization, sent_at=None) for organization in (world.a, world.b))
    assert theirs.pk < ours.pk
    sent = []
    monkeypatch.setattr(queue, "send", lambda job_id, kind: sent.append(job_id))

    queue.send_held_back(world.b.id)

    assert sent == [ours.pk]
    theirs.refresh_from_db()
    assert theirs.sent_at is None


def test_what_a_has_deleted_b_cannot_bring_back(world):
    deleted = make_row(Server, world.a, deleted_at=timezone.now())
    address = f"/api/v1/mcp/servers/{deleted.pk}/restore"

    refused = world.callers["owner"].post(address)

    assert refused.status == 404
    assert Server.objects.get(pk=deleted.pk).deleted_at
    assert world.callers["owner of A"].post(address).status == 200
