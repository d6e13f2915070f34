"""What happens to migrations, on the database of the environment: `python -m tests.house.migrating killed|back|two`.

Each story begins with an empty database and prints one line of JSON. Processes are forked, so that a process that is
killed in the middle costs no imports.
"""

import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader

MIDWAY_EVERY = 3
MOST_BACK = 2
Wrapper = Callable[..., Any]
NOTED = ('INSERT INTO "django_migrations"', 'DELETE FROM "django_migrations"')


def migrate(*arguments: str, watch: Wrapper | None = None, **options: Any) -> None:
    """Our command, every statement of which `watch` sees first."""
    with connection.execute_wrapper(watch) if watch else contextlib.nullcontext():
        call_command("migrate", *arguments, verbosity=0, **options)


def forked(work: Callable[[], None]) -> int:
    """Do something in a process of its own, which starts without a connection; its id."""
    connection.close()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return pid


def ended_by(pid: int) -> int:
    """The signal that ended a child, 0 if none; its failure is ours."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        raise SystemExit(f"a child ended with {os.WEXITSTATUS(status)}")
    return 0


def in_order() -> list[tuple[str, str]]:
    """All migrations, each after those that it needs."""
    graph = MigrationLoader(None).graph
    found: dict[tuple[str, str], None] = {}
    for leaf in sorted(graph.leaf_nodes()):
        found.update(dict.fromkeys(graph.forwards_plan(leaf)))
    return list(found)


class Deadly:
    """Kills this process before a statement, by number or when the migration is noted; tells how many there were."""

    def __init__(self, told: int, before: int | None = None) -> None:
        self.told, self.before, self.seen = told, before, 0

    def __call__(self, execute: Wrapper, query: str, *arguments: Any) -> Any:
        """What Django calls for each statement."""
        self.seen += 1
        if self.seen == self.before or (self.before is None and query.startswith(NOTED)):
            os.write(self.told, str(self.seen).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(query, *arguments)


def kill(arguments: tuple[str, ...], before: int | None = None, **options: Any) -> int:
    """Migrate in a process that is killed before a statement, and say before which; 0 if it never came that far."""
    reader, writer = os.pipe()
    died = ended_by(forked(lambda: migrate(*arguments, watch=Deadly(writer, before), **options)))
    os.close(writer)
    with os.fdopen(reader) as told:
        return int(told.read()) if died else 0


def killed() -> dict[str, Any]:
    """Each migration of ours is killed when it is noted, some midway and some on the way back; all are repeated."""
    chance, kills = random.Random(7), {"noting": 0, "midway": 0, "back": 0}
    steps = [step for step in in_order() if step[0] in ours()]
    for number, step in enumerate(steps):
        last = kill(step)
        kills["noting"] += last > 0
        if number % MIDWAY_EVERY == 0:
            kills["midway"] += kill(step, before=chance.randrange(1, last)) > 0
        migrate(*step)
    for label, name in reversed(steps[-MOST_BACK:]):
        target = (label, previous(label, name))
        kills["back"] += kill(target, lose_data=True) > 0
        migrate(*target, lose_data=True)
    migrate()
    return {"steps": len(steps), "kills": kills, "schema": schema()}


def previous(label: str, name: str) -> str:
    """The migration of the app before this one, or zero."""
    names = sorted(each for app, each in MigrationLoader(None).graph.nodes if app == label)
    return names[names.index(name) - 1] if names.index(name) else "zero"


def ours() -> set[str]:
    """The labels of our apps."""
    from django.apps import apps

    return {config.label for config in apps.get_app_configs() if config.name.startswith("apps.")}


def schema() -> dict[str, Any]:
    """Tables with their columns and constraints."""
    found: dict[str, Any] = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            columns = connection.introspection.get_table_description(cursor, table)
            constraints = connection.introspection.get_constraints(cursor, table).values()
            found[table] = {
                "columns": sorted([column.name, str(column.type_code), bool(column.null_ok)] for column in columns),
                "constraints": sorted(
                    json.dumps([each["columns"], each["unique"], each["primary_key"], each["foreign_key"],
                                each["index"], each["check"]]) for each in constraints
                ),
            }  # fmt: skip
    return found


def back() -> dict[str, Any]:
    """Go back to every earlier state with data, and forward again: nothing may be lost, or it must be refused."""
    migrate()
    populate()
    outcomes: dict[str, str] = {}
    before = rows()
    for label, name in in_order():
        if label not in ours():
            continue
        target = previous(label, name)
        try:
            migrate(label, target)
        except CommandError as refusal:
            outcomes[f"{label} {target}"] = str(refusal)
        else:
            migrate()
            outcomes[f"{label} {target}"] = "came back"
        if rows() != before:
            outcomes[f"{label} {target}"] = "LOST"
            before = rows()
    return {"outcomes": outcomes, "rows": sum(len(each) for each in before.values())}


def populate() -> None:
    """One row of everything, which says something in every field that takes a text."""
    from apps.audit.models import Entry
    from tests.house.tenants import make_row, plant, tenant_models
    from tests.people import make_person

    alice = make_person("alice", "acme", "owner")
    made: dict[Any, Any] = {}
    for model in tenant_models():
        made[model] = make_row(model, alice.organization, made)
        if model is not Entry:
            plant(made[model])


def rows() -> dict[str, list[str]]:
    """Everything our tables say."""
    from django.apps import apps

    found = {}
    for label in sorted(ours()):
        for model in apps.get_app_config(label).get_models(include_auto_created=True):
            found[model._meta.label] = sorted(repr(sorted(row.items())) for row in model._base_manager.values())
    return found


def two() -> dict[str, Any]:
    """A second migrator comes while the first is in the middle: it waits, and finds nothing left to do."""
    begun, go = os.pipe(), os.pipe()
    noted = os.pipe()

    def pause(execute: Wrapper, query: str, *arguments: Any) -> Any:
        if query.startswith("CREATE TABLE") and not paused:
            paused.append(query)
            os.write(begun[1], b".")
            os.read(go[0], 1)
        return execute(query, *arguments)

    def count(execute: Wrapper, query: str, *arguments: Any) -> Any:
        if query.startswith("CREATE TABLE"):
            os.write(noted[1], b".")
        return execute(query, *arguments)

    paused: list[str] = []
    first = forked(lambda: migrate(watch=pause))
    os.read(begun[0], 1)
    second = forked(lambda: migrate(watch=count))
    waited = all(os.waitpid(second, os.WNOHANG) == (0, 0) for _ in pauses())
    os.write(go[1], b".")
    ended = [ended_by(first), ended_by(second)]
    os.close(noted[1])
    return {"waited": waited, "ended": ended, "tables_by_the_second": len(os.read(noted[0], 1000)), "schema": schema()}


def pauses() -> Iterator[None]:
    """Long enough for a migrator that does not wait to make its first table."""
    import time

    for _ in range(10):
        time.sleep(0.1)
        yield


if __name__ == "__main__":
    django.setup()
    print(json.dumps({"killed": killed, "back": back, "two": two}[sys.argv[1]]()))
