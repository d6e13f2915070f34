"""What holds a server's row lets others make rows that belong to the server."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections, transaction

from apps.registry.models import Credential
from apps.registry.services.servers import _locked
from tests.factories.registry import CredentialFactory, ServerFactory

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
        _locked(server)
        pool.submit(add_credential, server).result(timeout=60)

    assert Credential.objects.filter(server=server).count() == 1
