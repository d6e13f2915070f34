"""Every task may be delivered many times, also at once: it happens once (L16)."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.utils import timezone

from apps.audit import services as audit
from apps.auth.models import RefreshToken
from apps.jobs.models import Job, State
from apps.jobs.services import queue
from apps.registry import services
from apps.registry.models import Capability, Discovery, HealthCheck, Server
from apps.usage.models import Rollup
from config.celery import app
from tests.factories.auth import RefreshTokenFactory
from tests.factories.jobs import JobFactory
from tests.factories.usage import UsageEventFactory
from tests.people import Person
from tests.registry.conftest import Evil

pytestmark = pytest.mark.django_db(transaction=True)
AT_ONCE = 4
SIGNS_OF_LIFE = ("jobs.Heartbeat", "jobs.Firing")

Prepared = tuple[list[str], Callable[[], Any], Any]
"""The arguments of the message, a question about what happened, and its right answer."""


def discover(person: Person, evil: Evil) -> Prepared:
    server = services.register_server(person.actor, name="Evil", slug="evil", url=evil.url)
    job = services.start_discovery(person.actor, server_id=server.id)

    def found() -> Any:
        readings = Discovery.objects.filter(server=server)
        names = Capability.objects.filter(server=server, kind="tool").values_list("name", flat=True)
        return readings.count(), len(names) == len(set(names)) > 0, Job.objects.get(pk=job.id).state

    return [str(job.id)], found, (1, True, State.COMPLETED)


def check_due(person: Person, evil: Evil) -> Prepared:
    services.register_server(person.actor, name="Evil", slug="evil", url=evil.url)
    return [], lambda: (HealthCheck.objects.count(), Server.objects.get().health), (1, "healthy")


def requeue(person: Person, evil: Evil) -> Prepared:
    for _ in range(3):
        JobFactory(organization=person.organization, sent_at=None)
    return [], lambda: sorted(SENT), sorted(str(pk) for pk in Job.objects.values_list("pk", flat=True))


def forget_ended(person: Person, evil: Evil) -> Prepared:
    kept = RefreshTokenFactory(user=person.user, organization=person.organization)
    ended = RefreshTokenFactory(user=person.user, organization=person.organization)
    RefreshToken.objects.filter(pk=ended.pk).update(expires_at=timezone.now() - timedelta(days=1))
    return [], lambda: list(RefreshToken.objects.values_list("pk", flat=True)), [kept.pk]


def reconcile(person: Person, evil: Evil) -> Prepared:
    UsageEventFactory.create_batch(3, organization=person.organization, name="time__tool")
    right = sorted(Rollup.objects.values_list("period", "name", "calls"))
    Rollup.objects.all().delete()
    return [], lambda: sorted(Rollup.objects.values_list("period", "name", "calls")), right


TASKS = {
    "registry.discover": discover,
    "registry.check_due": check_due,
    "jobs.requeue": requeue,
    "auth.forget_ended": forget_ended,
    "usage.reconcile": reconcile,
}
SENT: list[str] = []


class Broker:
    """Takes every message and delivers none."""

    def send_task(self, kind: str, args: list[str], retry: bool) -> None:
        """What Celery's app does."""
        SENT.extend(args)


@pytest.fixture(autouse=True)
def broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages come from this test alone."""
    SENT.clear()
    monkeypatch.setattr(queue, "load", lambda path: Broker())
    monkeypatch.setattr(queue, "_leave_broker_until", 0.0)


def deliver(name: str, arguments: list[str], times: int) -> None:
    """Give the same message to so many workers at once."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            app.tasks[name](*arguments)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def everything() -> dict[str, list[str]]:
    """What our tables say."""
    models = [model for config in apps.get_app_configs() if config.name.startswith("apps.")
              for model in config.get_models() if model._meta.label not in SIGNS_OF_LIFE]  # fmt: skip
    return {model._meta.label: sorted(repr(row) for row in model._base_manager.values()) for model in models}


def test_every_task_is_delivered_again_here() -> None:
    app.loader.import_default_modules()
    ours = {name for name, task in app.tasks.items() if type(task).__module__.startswith("apps.")}

    assert ours == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_message_that_is_delivered_many_times_has_one_effect(alice: Person, evil: Evil, name: str) -> None:
    app.loader.import_default_modules()
    arguments, question, right = TASKS[name](alice, evil)

    deliver(name, arguments, AT_ONCE)
    assert question() == right
    once = everything()
    deliver(name, arguments, 2)

    assert question() == right
    assert everything() == once
    assert audit.verify() == []
