"""What holds a server's row keeps others from changing what is the server's, not from making rows that refer to it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from apps.auth import services as auth
from apps.auth.models import RecoveryCode, User
from apps.core.errors import Conflict, NotFound, ServiceError
from apps.jobs.models import Job
from apps.registry import services
from apps.registry.models import Capability, Credential, Health, Server
from apps.registry.services import checks
from apps.registry.services.servers import hold_server
from tests.authenticator import enrol
from tests.factories.registry import CapabilityFactory, CredentialFactory, ServerFactory
from tests.people import Person
from tests.waiting import and_disconnect, count_waiting_for_rows, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres_only]


def twice(hold: Callable[[], object], deed: Callable[[], Any], meanwhile: Callable[[], object] = lambda: None) -> Any:
    """What becomes of a deed that is done twice at the same moment, after what somebody does who came before."""

    def outcome() -> Any:
        try:
            return deed()
        except ServiceError as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        with transaction.atomic():
            hold()
            both = [pool.submit(and_disconnect, outcome) for _ in range(2)]
            wait_until(lambda: count_waiting_for_rows() == 2)
            meanwhile()
        return [each.result() for each in both]


def add_credential(server: Server) -> None:
    """In a connection of its own."""
    and_disconnect(partial(CredentialFactory.create, server=server))


def test_a_credential_is_added_while_the_row_of_its_server_is_held(alice: Person) -> None:
    """Else: a check holds the server and waits for the journal, which whoever adds the credential holds already."""
    server = ServerFactory.create(organization=alice.organization)

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        hold_server(server)
        pool.submit(add_credential, server).result(timeout=60)

    assert Credential.objects.filter(server=server).count() == 1


def test_of_two_credentials_for_one_header_at_the_same_moment_one_is_kept(alice: Person) -> None:
    server = ServerFactory.create(organization=alice.organization)

    outcomes = twice(
        lambda: hold_server(server),
        lambda: services.add_credential(alice.actor, server_id=server.pk, kind="bearer", secret="one"),
    )

    assert Conflict in outcomes
    assert Credential.objects.filter(server=server).count() == 1


def test_a_credential_for_a_host_is_not_kept_for_another_to_which_the_server_goes_meanwhile(alice: Person) -> None:
    server = ServerFactory.create(organization=alice.organization, url="https://one.example/mcp")

    outcomes = twice(
        lambda: hold_server(server),
        lambda: services.add_credential(alice.actor, server_id=server.pk, kind="bearer", secret="one"),
        lambda: services.update_server(alice.actor, server_id=server.pk, url="https://other.example/mcp"),
    )

    assert outcomes == [Conflict, Conflict]
    assert not Credential.objects.exists()


def test_what_is_deleted_twice_comes_back_with_all_that_it_offered(alice: Person) -> None:
    server = ServerFactory.create(organization=alice.organization)
    CapabilityFactory.create(server=server)

    outcomes = twice(lambda: hold_server(server), lambda: services.delete_server(alice.actor, server_id=server.pk))
    services.restore_server(alice.actor, server_id=server.pk)

    assert NotFound in outcomes
    assert Capability.objects.present().filter(server=server).exists()


def test_two_who_discover_at_the_same_moment_get_one_job(alice: Person) -> None:
    server = ServerFactory.create(organization=alice.organization)

    first, second = twice(
        lambda: hold_server(server), lambda: services.start_discovery(alice.actor, server_id=server.pk).id
    )

    assert first == second
    assert Job.objects.count() == 1


def test_codes_that_are_renewed_twice_at_the_same_moment_are_ten(alice: Person) -> None:
    enrol(alice)

    twice(
        lambda: User.objects.select_for_update(no_key=True).get(pk=alice.user.pk),
        lambda: auth.renew_recovery_codes(alice.actor),
    )

    assert RecoveryCode.objects.count() == 10


def test_a_server_that_is_held_for_long_keeps_nobody_else_s_check_from_being_noted(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = ServerFactory.create(organization=alice.organization, check_due_at=timezone.now())
    other = ServerFactory.create(organization=bob.organization, check_due_at=timezone.now())
    fine = checks._Finding(Health.HEALTHY, 1.0, "")
    monkeypatch.setattr(checks, "_findings", lambda due: [(each, fine) for each in due])
    monkeypatch.setattr(checks, "_claim_due", lambda now: [held, other])

    def check() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 300")
        return services.check_due_servers()

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        hold_server(held)
        assert pool.submit(and_disconnect, check).result(timeout=60) == 2

    other.refresh_from_db()
    held.refresh_from_db()
    assert (held.health, other.health) == (Health.UNKNOWN, Health.HEALTHY)


def test_what_was_found_at_an_address_is_not_noted_of_another(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerFactory.create(organization=alice.organization, url="https://one.example/mcp")

    def find(_: Any) -> Any:
        services.update_server(alice.actor, server_id=server.pk, url="https://other.example/mcp")
        return checks._Finding(Health.HEALTHY, 1.0, "", "2026-07-28")

    monkeypatch.setattr(checks, "run_short", find)

    with pytest.raises(Conflict):
        services.check_server(alice.actor, server_id=server.pk)

    server.refresh_from_db()
    assert (server.health, server.protocol_version) == (Health.UNKNOWN, "")
