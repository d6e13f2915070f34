"""An organisation whose servers hang has its share of a round of checks, and leaves the rest to the others."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apps.registry import services
from apps.registry.models import HealthCheck, Server
from apps.registry.services import checks
from tests.people import Person
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
HANGING = 7
LONGEST_SECONDS = 60


@pytest.fixture
def silent(settings: Any) -> Iterator[socket.socket]:
    """A server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.setblocking(False)
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{listener.getsockname()[1]}"})
        yield listener


def register(person: Person, slug: str, url: str) -> Server:
    return services.register_server(
        person.actor, name=slug, slug=slug, url=url, check_timeout_seconds=LONGEST_SECONDS, check_retries=0
    )


def health(slug: str) -> str:
    return str(Server.objects.get(slug=slug).health)


def is_done(slug: str) -> bool:
    """Whether it was checked and its round has let it go, which comes after that."""
    return Server.objects.filter(slug=slug, checking_until=None).exclude(checked_at=None).exists()


@dataclass
class Callers:
    """Those who have called; they wait until they are let go."""

    listener: socket.socket
    waiting: list[socket.socket] = field(default_factory=list)

    def count(self) -> int:
        """How many there are by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.waiting.append(self.listener.accept()[0])
        return len(self.waiting)

    def let_go(self) -> None:
        """Hang up."""
        for each in [self.listener, *self.waiting]:
            each.close()


def round_of_checks() -> threading.Thread:
    """A round in another worker."""

    def work() -> None:
        try:
            services.check_due_servers()
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_hanging_servers_hold_one_round_and_their_share_of_it(
    alice: Person, bob: Person, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
    for number in range(HANGING):
        register(alice, f"hangs-{number}", address)
    register(bob, "bobs", "http://good.invalid/mcp")

    callers = Callers(silent)

    first = round_of_checks()
    wait_until(
        lambda: is_done("bobs") and callers.count() == checks.CHECKS_OF_ONE_ORGANIZATION, seconds=LONGEST_SECONDS / 2
    )
    register(bob, "bobs-second", "http://good.invalid/mcp")
    late = register(alice, "late", address)
    assert services.check_due_servers() == 1

    assert first.is_alive()
    assert health("bobs") == "unhealthy"
    assert health("bobs-second") == "unhealthy"
    assert callers.count() == checks.CHECKS_OF_ONE_ORGANIZATION
    monkeypatch.setattr(checks, "ROUND_SECONDS", 0)
    callers.let_go()
    first.join(LONGEST_SECONDS / 2)
    checked = HealthCheck.objects.filter(organization=alice.organization).count()
    due = list(Server.objects.due(timezone.now()).values_list("slug", flat=True))
    assert checked == checks.CHECKS_OF_ONE_ORGANIZATION
    assert len(due) == 1 + HANGING - checked and due[-1] == late.slug
    assert not Server.objects.exclude(checking_until=None).exists()


def test_a_round_that_died_keeps_its_organisation_for_a_while_only(alice: Person) -> None:
    for slug, until in (("one", checks.CLAIM_SECONDS), ("two", -1)):
        register(alice, slug, "http://good.invalid/mcp")
        lost = timezone.now() + timedelta(seconds=until)
        Server.objects.filter(slug=slug).update(checking_until=lost)
    assert services.check_due_servers() == 0

    Server.objects.update(checking_until=timezone.now())

    assert services.check_due_servers() == 2


def test_who_was_claimed_by_a_round_that_died_is_due_when_the_claim_ends(alice: Person) -> None:
    register(alice, "one", "http://good.invalid/mcp")
    now = timezone.now()
    assert [server.slug for server in checks._claim_due(now)] == ["one"]

    until = now + timedelta(seconds=checks.CLAIM_SECONDS)

    assert checks._claim_due(until - timedelta(seconds=1)) == []
    assert [server.slug for server in checks._claim_due(until)] == ["one"]


def test_a_server_deleted_while_it_is_checked_holds_its_organisation_no_longer(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = register(alice, "gone", "http://good.invalid/mcp")

    async def delete(plans: Any, tell: Any) -> None:
        await Server.objects.filter(pk=gone.pk).aupdate(deleted_at=timezone.now())
        tell((plans[0].server, checks._Finding("healthy", 1.0, "")))

    with monkeypatch.context() as patch:
        patch.setattr(checks, "_check_all", delete)
        assert services.check_due_servers() == 1
    register(alice, "next", "http://good.invalid/mcp")

    assert services.check_due_servers() == 1
    assert health("next") == "unhealthy"


def test_the_checks_of_a_round_begin_one_after_the_other(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    async def look(plan: Any, seconds: float) -> Any:
        begun.append(time.monotonic())
        return checks._Finding("healthy", 1.0, "")

    monkeypatch.setattr(checks, "_check_within", look)
    for number in range(2 * checks.CHECKS_OF_ONE_ORGANIZATION + 1):
        register(alice, f"s{number}", "http://good.invalid/mcp")

    assert services.check_due_servers() == len(begun) == 2 * checks.CHECKS_OF_ONE_ORGANIZATION + 1

    steps = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert len([step for step in steps if step > checks.PACE_SECONDS / 2]) == 2
