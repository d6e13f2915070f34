"""Transactions hold rows in one order, so that none waits for another in a circle; every test watches that."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.apps import apps
from django.db import transaction

from apps.audit import services as audit
from apps.auth.models import RefreshToken
from apps.registry import services
from apps.registry.models import Server
from config.transfer.imports import import_document, rehearse
from config.transfer.items import read_document
from tests.factories.registry import ServerFactory
from tests.fixtures.lock_order import ORDER, UNORDERED
from tests.people import Person
from tests.waiting import and_disconnect, count_waiting_for_rows, wait_until


def test_every_table_of_ours_has_its_place() -> None:
    ours = {each._meta.db_table for each in apps.get_models() if each.__module__.startswith("apps.")}
    placed = {name for line in ORDER for name in line if " " not in name}

    assert placed | UNORDERED == ours
    assert not placed & UNORDERED


def said(found: list[str]) -> list[str]:
    """What was found, without where; the test's end finds nothing any more."""
    told = [each.partition(":")[0] for each in found]
    found.clear()
    return told


@pytest.mark.postgres_only
def test_a_chain_that_is_held_after_the_tokens_is_found(alice: Person, _locks_out_of_order: list[str]) -> None:
    with transaction.atomic():
        RefreshToken.objects.filter(user=alice.user).end()
        audit.hold_chain(alice.organization.id)

    assert said(_locks_out_of_order) == [f"the chain {alice.organization.id} is held after accounts_refreshtoken"]


@pytest.mark.postgres_only
def test_a_second_server_after_the_chain_is_found_and_one_that_was_just_made_is_not(
    alice: Person, _locks_out_of_order: list[str]
) -> None:
    first, second = ServerFactory.create_batch(2, organization=alice.organization)

    with transaction.atomic():
        third = ServerFactory(organization=alice.organization)
        for server in (first, third):
            services.disable_server(alice.actor, server_id=server.id)
    assert said(_locks_out_of_order) == []

    with transaction.atomic():
        for server in (first, second):
            services.enable_server(alice.actor, server_id=server.id)
            services.disable_server(alice.actor, server_id=server.id)

    assert said(_locks_out_of_order) == [
        f"registry_server is held after accounts_organization, the chain {alice.organization.id}"
    ]


@pytest.mark.postgres_only
def test_the_platform_s_chain_after_another_is_found(alice: Person, _locks_out_of_order: list[str]) -> None:
    with transaction.atomic():
        audit.hold_chain(alice.organization.id)
        audit.hold_chain(None)

    assert said(_locks_out_of_order) == [f"the platform's chain is held after the chain {alice.organization.id}"]


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_an_import_waits_for_whoever_holds_a_server_before_it_holds_the_journal(alice: Person) -> None:
    """It changes the first server and records that; the second may be held by somebody who then records as well."""
    for slug in ("first", "second"):
        ServerFactory(organization=alice.organization, slug=slug)
    file = read_document(
        b'{"gatehouse": 1, "servers": [{"slug": "first", "description": "1"}, {"slug": "second", "description": "2"}]}'
    )
    digest = rehearse(alice.actor, file).digest

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            Server.objects.select_for_update().get(slug="second")
            imported = pool.submit(and_disconnect, lambda: import_document(alice.actor, file, digest=digest))
            wait_until(count_waiting_for_rows)
            audit.record(alice.actor, "server.checked")
        assert [line.outcome for line in imported.result().lines] == ["change", "change"]
