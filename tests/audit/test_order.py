"""Writers that share an organisation's rows wait for one another, never in a circle."""

import threading

import pytest
from django.db import connection, transaction

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import Role

ROUNDS = 5


def errors_of(*works):
    """What goes wrong when these are done at the same time, again and again, each in a transaction of its own."""
    both, errors = threading.Barrier(len(works)), []

    def repeat(work):
        try:
            for number in range(ROUNDS):
                both.wait(10)
                with transaction.atomic():
                    work(number)
        except Exception as error:
            errors.append(error)
            both.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    return errors


def pause():
    """Let the other one take its first lock."""
    threading.Event().wait(0.05)


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_recording_and_raising_the_revision_in_either_order_does_not_deadlock(alice):
    organization_id = alice.organization.id
    written = Entry.objects.for_org(organization_id).count()

    def record_first(_):
        audit.record(alice.actor, "thing.done")
        pause()
        auth.raise_revision(organization_id)

    def raise_first(_):
        auth.raise_revision(organization_id)
        pause()
        audit.record(alice.actor, "thing.done")

    assert errors_of(record_first, raise_first) == []
    assert Entry.objects.for_org(organization_id).count() == written + 2 * ROUNDS


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_changing_an_organisation_and_its_members_meanwhile_does_not_deadlock(alice, dora):
    organization_id = alice.organization.id
    membership_id = dora.user.memberships.get().id
    roles = (Role.VIEWER, Role.DEVELOPER)

    def record_first(_):
        audit.record(alice.actor, "thing.done")
        pause()
        auth.raise_revision(organization_id)

    def rename(number):
        auth.update_organization(alice.actor, organization_id=organization_id, name=f"Acme {number}")

    def change_role(number):
        auth.change_role(
            alice.actor, organization_id=organization_id, membership_id=membership_id, role=roles[number % 2]
        )

    assert errors_of(record_first, rename) == []
    assert errors_of(record_first, change_role) == []
