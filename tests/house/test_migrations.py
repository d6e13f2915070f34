"""Migrations: complete, and forward and back on an empty database of the vendor under test (N01, OPS-4)."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from psycopg import sql

from tests.house import migrating

PROJECT = Path(__file__).parent.parent.parent
OURS = [
    config.label
    for config in apps.get_app_configs()
    if config.name.startswith("apps.") and find_spec(f"{config.name}.migrations")
]
TABLES = """
from django.core.management import call_command
from django.db import connection
import django, json, sys
django.setup()
def tables():
    return sorted(connection.introspection.table_names())
first = (call_command("migrate", verbosity=0), tables())[1]
for label in json.loads(sys.argv[1]):
    call_command("migrate", label, "zero", verbosity=0, lose_data=True)
back = tables()
again = (call_command("migrate", verbosity=0), tables())[1]
print(json.dumps({"first": first, "back": back, "again": again}))
"""


@pytest.mark.django_db
def test_no_migration_is_missing():
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


@pytest.fixture
def empty_database(tmp_path) -> Iterator[dict[str, str]]:
    """The environment of a process with an empty database of the vendor under test."""
    env = {**os.environ, "GATEHOUSE_DATA": str(tmp_path), "DJANGO_SETTINGS_MODULE": "config.settings"}
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        env.pop("DATABASE_URL", None)
        yield env
        return
    name = f"gatehouse_migrations_{uuid.uuid4().hex[:8]}"
    server = os.environ["DATABASE_URL"].rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield {**env, "DATABASE_URL": f"{server}/{name}"}
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_every_app_migrates_forward_and_back_on_an_empty_database(empty_database):
    done = subprocess.run(
        [sys.executable, "-c", TABLES, json.dumps(OURS)],
        cwd=PROJECT, env=empty_database, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    tables = json.loads(done.stdout.splitlines()[-1])
    own = {model._meta.db_table for label in OURS for model in apps.get_app_config(label).get_models()}
    assert own <= set(tables["first"])
    assert own.isdisjoint(tables["back"])
    assert tables["again"] == tables["first"]


def story(name: str, env: dict[str, str]) -> dict[str, Any]:
    """What a story of `tests.house.migrating` came to."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.house.migrating", name],
        cwd=PROJECT, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def own_schema(db) -> dict[str, Any]:
    """The tables of this test's own database, which nobody has killed or taken back."""
    found: dict[str, Any] = json.loads(json.dumps(migrating.schema()))
    return found


def test_a_migration_that_is_killed_at_any_statement_is_simply_repeated(empty_database, own_schema):
    found = story("killed", empty_database)

    assert found["kills"]["noting"] == found["steps"] > len(OURS)
    assert found["kills"]["midway"] > found["steps"] / 4
    assert found["kills"]["back"] == migrating.MOST_BACK
    assert found["schema"] == own_schema


def test_going_back_to_an_earlier_state_loses_nothing_or_is_refused(empty_database):
    found = story("back", empty_database)

    outcomes = found["outcomes"]
    assert [state for state, outcome in outcomes.items() if outcome == "LOST"] == []
    assert outcomes["registry zero"].startswith("Going back would lose data:")
    assert "--lose-data" in outcomes["registry zero"]
    assert "came back" in outcomes.values()
    assert found["rows"] > len(OURS)


def test_of_two_migrators_the_second_waits_and_finds_nothing_to_do(empty_database, own_schema):
    found = story("two", empty_database)

    assert (found["waited"], found["ended"], found["tables_by_the_second"]) == (True, [0, 0], 0)
    assert found["schema"] == own_schema
