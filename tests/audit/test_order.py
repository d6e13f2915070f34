"""Writers that share an organisation's rows wait for one another, never in a circle."""

import threading

import pytest
from django.db import connection, transaction

from apps.audit import services as audit
from apps.audit.models import Entry
from apps.auth import services as auth


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_recording_and_raising_the_revision_in_either_order_does_not_deadlock(alice):
    organization_id = alice.organization.id
    written = Entry.objects.for_org(organization_id).count()
    both, errors = threading.Barrier(2), []
    deeds = [lambda: audit.record(alice.actor, "thing.done"), lambda: auth.raise_revision(organization_id)]

    def work(first, second):
        try:
            for _ in range(5):
                both.wait(10)
                with transaction.atomic():
                    first()
                    threading.Event().wait(0.05)
                    second()
        except Exception as error:
            errors.append(error)
            both.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=order) for order in (deeds, deeds[::-1])]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)

    assert errors == []
    assert Entry.objects.for_org(organization_id).count() == written + 10
