"""What holds a server's row keeps others from changing what is the server's, not from making rows that refer to it."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from django.db import connections, transaction

from apps.core.errors import Conflict
from apps.registry import services
from apps.registry.models import Credential
from apps.registry.services.servers import hold_server
from tests.factories.registry import CredentialFactory, ServerFactory
from tests.waiting import and_disconnect, somebody_waits_for_a_row, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres_only]


def add_credential(server):
    """In a connection of its own."""
    try:
        CredentialFactory(server=server)
    finally:
        connections.close_all()


def test_a_credential_is_added_while_the_row_of_its_server_is_held(alice):
    """Else: a check holds the server and waits for the journal, which whoever adds the credential holds already."""
    server = ServerFactory(organization=alice.organization)

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        hold_server(server)
        pool.submit(add_credential, server).result(timeout=60)

    assert Credential.objects.filter(server=server).count() == 1


def test_of_two_credentials_for_one_header_at_the_same_moment_one_is_kept(alice):
    server = ServerFactory(organization=alice.organization)

    def add(secret):
        try:
            services.add_credential(alice.actor, server_id=server.pk, kind="bearer", secret=secret)
        except Conflict:
            return "refused"
        return "kept"

    with ThreadPoolExecutor(2) as pool:
        with transaction.atomic():
            hold_server(server)
            both = [pool.submit(and_disconnect, partial(add, each)) for each in ("one", "two")]
            wait_until(somebody_waits_for_a_row)
        assert sorted(each.result() for each in both) == ["kept", "refused"]

    assert Credential.objects.filter(server=server).count() == 1
