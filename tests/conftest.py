"""A data folder of its own, the people of the stories, and the whole platform on a real port."""

import gc
import os
import tempfile
from collections.abc import Iterator
from copy import copy
from typing import Any

import pytest

# Django is set up here and not by pyproject.toml: pytest-django would read the settings before this names their folder.
os.environ["GATEHOUSE_DATA"] = tempfile.mkdtemp(prefix="gatehouse-tests-")
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
os.environ.setdefault("GATEHOUSE_LOG_LEVEL", "warning")
for _name in ("GATEHOUSE_KEY", "GATEHOUSE_ENV", "GATEHOUSE_PUBLIC_URL", "REDIS_URL", "BROKER_URL"):
    os.environ.pop(_name, None)

import django  # noqa: E402 - the environment comes first

django.setup()
# A worker of xdist would inherit the variable, and pytest-django would read the settings before its folder is named.
del os.environ["DJANGO_SETTINGS_MODULE"]

from whitenoise.middleware import WhiteNoiseMiddleware  # noqa: E402 - Django before what uses it

from tests.fixtures.lock_order import watched  # noqa: E402 - Django before what uses it
from tests.fixtures.warm import hash_lightly  # noqa: E402 - Django before what uses it
from tests.people import Person, make_person  # noqa: E402 - and its models

hash_lightly()


def pytest_collection_finish() -> None:
    """Let the collector look at the tests' rubbish alone: a million objects that stay took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


LONG_FILES = frozenset({
    "tests/auth/test_tokens.py", "tests/gateway/test_door.py", "tests/gateway/test_road.py",
    "tests/house/test_hostile.py", "tests/registry/test_rest.py", "tests/staff/test_hostile.py",
    "tests/staff/test_pages.py", "tests/staff/test_scoping.py", "tests/usage/test_writer.py",
})  # fmt: skip
"""They take half a minute each, and a file is one worker's: begun last, it would keep the others waiting."""


WAITING_FILES = frozenset({
    "tests/gateway/test_early_tasks.py", "tests/gateway/test_giving_up.py", "tests/gateway/test_listening_to_tasks.py",
    "tests/gateway/test_lost_rights.py", "tests/gateway/test_questions.py", "tests/gateway/test_slots.py",
    "tests/gateway/test_tasks.py", "tests/gateway/test_unanswered.py",
})  # fmt: skip
"""They wait for seconds at a time; beside one another, at the end, they would leave the processor idle."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that wait first: whoever works beside others has short ones left at the end."""

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(item.config.rootpath).as_posix()
        if item.get_closest_marker("slow_process") or path in WAITING_FILES:
            return 0
        return 1 if path in LONG_FILES else 2

    items.sort(key=place)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The database, which at the end is dropped though a thread of the last test may still hold a connection to it."""
    from django.db import connection

    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
            )


@pytest.fixture(scope="session", autouse=True)
def _flush_passes_the_journals_guard() -> Iterator[None]:
    """Let a transactional test's flush empty the journal, which the database guards against everybody else.

    On PostgreSQL, TRUNCATE makes new files for every table and index; to delete the few rows costs a tenth of that.
    """
    from django.db import connection

    from apps.audit import services as audit

    original = connection.ops.sql_flush

    def filled(tables: list[str]) -> list[str]:
        rows = "SELECT %s WHERE EXISTS (SELECT 1 FROM {})"
        asked = " UNION ALL ".join(rows.format(connection.ops.quote_name(table)) for table in tables)
        with connection.cursor() as cursor:
            cursor.execute(asked, list(tables))
            return [name for (name,) in cursor.fetchall()]

    def sql_flush(style: object, tables: list[str], **options: object) -> list[str]:
        if connection.vendor == "postgresql" and not options.get("reset_sequences"):
            statements = [f"DELETE FROM {connection.ops.quote_name(each)}" for each in filled(tables)]  # noqa: S608
        else:
            statements = original(style, tables, **options)  # type: ignore[arg-type]
        drop, make = audit.guard_sql(connection.vendor)
        return [*drop, *statements, *make] if statements else statements

    connection.ops.sql_flush = sql_flush  # type: ignore[method-assign]
    yield
    connection.ops.sql_flush = original  # type: ignore[method-assign]


@pytest.fixture(scope="session", autouse=True)
def _static_files_are_looked_for_once() -> Iterator[None]:
    """Each client of Django makes the middleware anew, and WhiteNoise would look at two hundred files each time."""
    find = WhiteNoiseMiddleware.add_files_from_finders
    files: dict[str, Any] = {}

    def share(self: WhiteNoiseMiddleware) -> None:
        if not files:
            find(self)
            files.update(self.files)
        self.files.update(files)

    WhiteNoiseMiddleware.add_files_from_finders = share
    yield
    WhiteNoiseMiddleware.add_files_from_finders = find


@pytest.fixture(scope="session", autouse=True)
def _the_first_template_is_a_page_s_context() -> Iterator[None]:
    """Keep one context of each page, its own: Django's test client copies it for each of a thousand small templates."""
    from django.test import client

    def store(found: dict[str, Any], *, template: Any, context: Any, **_: Any) -> None:
        if "context" not in found:
            found["templates"], found["context"] = [template], client.ContextList([copy(context)])

    original = client.store_rendered_templates
    client.store_rendered_templates = lambda found, signal, sender, **told: store(found, **told)
    yield
    client.store_rendered_templates = original


@pytest.fixture(scope="session", autouse=True)
def _locks_out_of_order() -> Iterator[list[str]]:
    with watched() as found:
        yield found


@pytest.fixture(autouse=True)
def _locks_are_taken_in_order(_locks_out_of_order: list[str]) -> Iterator[None]:
    """Every test watches the order in which the transactions of this process hold rows."""
    _locks_out_of_order.clear()
    yield
    assert not _locks_out_of_order, "\n".join(_locks_out_of_order)


@pytest.fixture(autouse=True)
def _forget_what_processes_remember() -> Iterator[None]:
    """Caches that hold for a second in a process would outlive a test's database."""
    from django.core.cache import cache

    cache.clear()
    yield


@pytest.fixture
def alice(db: None) -> Person:
    """Owner of Acme."""
    return make_person("alice", "acme", "owner")


@pytest.fixture
def adam(db: None) -> Person:
    """Admin of Acme."""
    return make_person("adam", "acme", "admin")


@pytest.fixture
def dora(db: None) -> Person:
    """Developer of Acme."""
    return make_person("dora", "acme", "developer")


@pytest.fixture
def victor(db: None) -> Person:
    """Viewer of Acme."""
    return make_person("victor", "acme", "viewer")


@pytest.fixture
def bob(db: None) -> Person:
    """Owner of Globex, another organisation."""
    return make_person("bob", "globex", "owner")


@pytest.fixture
def root(db: None) -> Person:
    """Platform admin, member of nothing."""
    return make_person("root", None, "")


@pytest.fixture
def live(transactional_db: None) -> Iterator["object"]:
    """The whole application on a real port of this machine."""
    from tests.live import Live

    with Live() as running:
        yield running
