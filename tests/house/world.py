"""Organisations A and B, each with one row of everything, and everybody who may try to reach from B into A."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db.models import F, Model
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services as auth
from apps.auth.models import Organization, User
from apps.registry.models import Capability, Server
from apps.usage.models import UsageEvent
from tests.house.operations import Operation, operations
from tests.house.tenants import CANARY, make_row, parameters, plant, tenant_models
from tests.live import Answer, Client, Live
from tests.people import PASSWORD, Person, make_person

PROMISED_SECONDS = 2.0
THEIR_TOOL = f"{CANARY}__tool"


@dataclass
class World:
    """Organisations A and B, each with one row of everything, and everybody who may try."""

    live: Live
    a: Organization
    b: Organization
    theirs: dict[type[Model], Model]
    ours: dict[type[Model], Model]
    owner_of_a: Person
    owner_of_b: Person
    callers: dict[str, Client] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def operations(self) -> list[Operation]:
        """Every operation of the document."""
        return list(operations(self.document))

    def ids(self, rows: dict[type[Model], Model]) -> dict[str, UUID]:
        """The path parameters that lead to these rows."""
        return {name: rows[model].pk for name, model in parameters().items()}


def build(live: Live) -> World:
    """Make both organisations, their rows and B's callers."""
    alice = make_person("alice", CANARY, "owner")
    bob = make_person("bob", "globex", "owner")
    made = World(live, alice.organization, bob.organization, {}, {}, alice, bob)
    for person, rows in ((alice, made.theirs), (bob, made.ours)):
        for model in tenant_models():
            # The journal takes no change afterwards: its canary is there from the start.
            canary = {"subject": CANARY} if model is Entry and person is alice else {}
            rows[model] = make_row(model, person.organization, rows, **canary)
        rows[Organization], rows[User] = person.organization, person.user
    for model, row in made.theirs.items():
        if model is not Entry:
            plant(row)
    User.objects.filter(memberships__organization=made.a).update(name=CANARY)
    open_to_agents(made.theirs[Server], made.theirs[Capability], THEIR_TOOL)
    add_what_went_wrong(made)
    add_what_lies_across(made)
    people = {role: make_person(role, "globex", role) for role in ("admin", "developer", "viewer")}
    made.callers = {
        "owner": live.rest(bob),
        **{role: live.rest(person) for role, person in people.items()},
        "key": live.with_key(live.key(bob)),
        "stranger": live.rest(stranger()),
        "nobody": live.anonymous(),
        "owner of A": live.rest(alice),
    }
    made.document = live.anonymous().get("/api/openapi.json").json()
    return made


def add_what_went_wrong(world: World) -> None:
    """A's troubles: a denied call, which the dashboard shows, and a server that fails, which lists mention.

    B has a server by the same slug, which is well.
    """
    plant(make_row(UsageEvent, world.a, status="denied"))
    for organization, health, said in ((world.a, "unhealthy", CANARY), (world.b, "healthy", "")):
        server = make_row(
            Server, organization, slug="shared", health=health, health_message=said, checked_at=timezone.now()
        )
        open_to_agents(server, make_row(Capability, organization, server=server), "shared__tool")


def add_what_lies_across(world: World) -> None:
    """Rows of A that name a row of B's as their parent: no service makes them, and still no list of B's shows them."""
    for model in tenant_models():
        parents = {each.related_model for each in model._meta.concrete_fields if each.is_relation} & set(
            tenant_models()
        )
        if parents:
            plant(make_row(model, world.a, {parent: world.ours[parent] for parent in parents}))


def stranger() -> Person:
    """Somebody with an account and no organisation."""
    user = User.objects.create_user("charlie@nowhere.example", PASSWORD)
    return Person(user, None, auth.actor_for_user(user, organization_id=None, surface="rest"))


def open_to_agents(server: Model, capability: Model, name: str) -> None:
    """Let the agents of an organisation use a tool by this name."""
    Server.objects.filter(pk=server.pk).update(approved_at=timezone.now(), is_enabled=True, deleted_at=None)
    Capability.objects.filter(pk=capability.pk).update(
        kind="tool", server=server, approved_digest=F("digest"), approved_definition=F("definition"), is_enabled=True,
        removed_at=None, public_name=name,
    )  # fmt: skip
    auth.raise_revision(server.organization_id)


def shows_nothing(answer: Answer) -> bool:
    """Whether the answer holds nothing of A's."""
    return CANARY not in answer.text and CANARY not in json.dumps(answer.headers)


def seen_by_their_owner(world: World, operation: Operation) -> bool:
    """Whether A's owner finds the canary there: what nobody could see would prove nothing."""
    return CANARY in world.callers["owner of A"].get(operation.at(world.ids(world.theirs))).text


def wait_until(holds: Callable[[], bool]) -> None:
    """A change holds within a second; a busy machine may need another for the asking."""
    deadline = time.monotonic() + PROMISED_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
