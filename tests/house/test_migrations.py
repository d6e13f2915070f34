"""Migrations: complete, and forward and back on an empty database of the vendor under test (N01, OPS-4)."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from psycopg import sql

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
    call_command("migrate", label, "zero", verbosity=0)
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
