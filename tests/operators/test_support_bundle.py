"""`manage.py support_bundle`: enough to help, and no secret wherever one may hide."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from django.conf import settings

from config import support
from tests.fixtures import warm
from tests.fixtures.servers import PROJECT
from tests.journeys.platform import COMMAND_SECONDS, clean_environment

CANARY = "kanari"
"""Stands in every secret that the test plants, and nowhere else."""
PLANT = f"""
from apps.auth import services as auth
from apps.auth.models import Organization, User
from apps.core.actor import system_actor
from apps.registry import services as registry
from apps.registry.models import Server
organization = auth.create_organization(system_actor(surface="command"), name="Acme", slug="acme")
actor = system_actor(organization.id, surface="command")
user = auth.create_user(actor, email="alice@acme.example", password="{CANARY}-user-password")
auth.add_member(actor, organization_id=organization.id, user_id=user.id, role="owner")
print(auth.create_key(actor, name="ci", user_id=user.id).plain)
server = Server(organization=organization, name="Notes", slug="notes", url="https://notes.example.com/mcp").store()
registry.add_credential(actor, server_id=server.id, kind="bearer", secret="{CANARY}-credential")
Server(organization=organization, name="Tool", slug="tool", transport="stdio",
       command=["tool", "--access", "{CANARY}-argument"], env={{"API_TOKEN": "{CANARY}-variable"}},
).store()
from django.utils import timezone
Server.objects.filter(slug="notes").update(
    health="unhealthy", health_message="It said: token={CANARY}-message", checked_at=timezone.now())
"""
PARTS = {"ABOUT.txt", "settings.json", "doctor.json", "versions.json", "migrations.json", "health.json", "counts.json"}


def run(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the installation."""
    return warm.run([sys.executable, "manage.py", *arguments], cwd=PROJECT, env=env, timeout=COMMAND_SECONDS)


def read(path: Path) -> dict[str, str]:
    """Every file of the bundle."""
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name).decode() for name in bundle.namelist()}


def kept_secrets(data: Path) -> list[str]:
    """What the data folder keeps, line by line."""
    files = [path.read_text() for path in (data / "secrets").iterdir()]
    return [line for text in files for line in [text, *text.splitlines()] if not line.startswith("-----")]


@pytest.mark.slow_process
def test_no_secret_is_inside(tmp_path):
    data, out = tmp_path / "data", tmp_path / "bundle.zip"
    env = clean_environment(GATEHOUSE_DATA=str(data))
    assert run(env, "migrate").returncode == 0
    planted = run(env, "shell", "--command", PLANT)
    assert planted.returncode == 0, planted.stderr
    key = planted.stdout.strip().splitlines()[-1]
    pepper = (data / "secrets" / "gatehouse_key_pepper").read_text()
    lines = [
        json.dumps({"message": "a line to keep", "headers": {"authorization": f"{CANARY}-by-its-name"}}),
        f"password={CANARY}-in-a-line key {key} pepper {pepper}",
        f"redis is redis://user:{CANARY}-in-a-url@h:6379 and its password is {CANARY}-redis/word",
    ]
    (data / "gatehouse.log").write_text("\n".join(lines))
    env |= {
        "REDIS_URL": f"redis://:{CANARY}-redis%2Fword@127.0.0.1:1/0",
        "BROKER_URL": f"amqp://user:{CANARY}-broker@127.0.0.1:1//",
        "GATEHOUSE_KEY": f"{CANARY}-key-of-the-operator",
        "GATEHOUSE_STDIO_ALLOW": f"other-tool --access {CANARY}-allowed",
    }

    made = run(env, "support_bundle", "--out", str(out))

    assert made.returncode == 0, made.stderr
    files = read(out)
    assert set(files) == {*PARTS, "log.txt"}
    assert {name for name, text in files.items() if CANARY in text} == set()
    assert CANARY not in made.stdout + made.stderr
    for secret in [key, *kept_secrets(data)]:
        assert [name for name, text in files.items() if secret in text] == []
    assert "a line to keep" in files["log.txt"]
    assert out.stat().st_mode & 0o077 == 0
    tells_enough(files)


def tells_enough(files: dict[str, str]) -> None:
    """What is not secret is there."""
    given = {each["setting"]: each for each in json.loads(files["settings.json"])}
    assert given["REDIS_URL"] == {"setting": "REDIS_URL", "from": "environment", "is": "given"}
    assert given["GATEHOUSE_PORT"] == {"setting": "GATEHOUSE_PORT", "from": "default", "is": 8000}
    assert given["GATEHOUSE_STDIO_ALLOW"]["is"] == ["other-tool"]
    assert json.loads(files["counts.json"])["registry.Server"] == 2
    assert {"server acme/tool", "cache"} <= {each["what"] for each in json.loads(files["doctor.json"])}
    assert json.loads(files["migrations.json"])["missing"] == []
    assert "Django" in json.loads(files["versions.json"])["packages"]
    assert {"database", "cache"} <= {each["name"] for each in json.loads(files["health.json"])}


@pytest.mark.slow_process
def test_without_a_database_the_rest_is_told_and_none_is_made(tmp_path):
    env = clean_environment(GATEHOUSE_DATA=str(tmp_path / "data"))
    made = run(env, "support_bundle", "--out", str(tmp_path / "bundle.zip"))

    files = read(tmp_path / "bundle.zip")
    assert made.returncode == 0, made.stderr
    assert set(files) == PARTS
    assert "needs the database" in files["counts.json"]
    assert "There is no database yet" in files["doctor.json"]
    assert list((tmp_path / "data").glob("*.sqlite3")) == []

    again = run(env, "support_bundle", "--out", str(tmp_path / "bundle.zip"))
    assert (again.returncode, "exists already" in again.stderr) == (1, True)


def test_the_own_secrets_are_masked_wherever_they_stand():
    mask = support.masker()
    key = settings.SIGNING_KEY.splitlines()[1] if isinstance(settings.SIGNING_KEY, str) else None
    for secret in filter(None, (settings.SECRET_KEY, settings.JOURNAL_KEY, key)):
        assert mask(f"before {secret} after") == "before [redacted] after"
        assert secret not in mask(json.dumps({"any": f'"{secret}"'}))


def test_a_part_that_fails_leaves_the_others():
    def fail():
        raise ValueError("with a secret in it")

    assert support._told(fail) == {"error": "This could not be told: ValueError."}


def test_only_the_end_of_a_long_log_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(support, "LOG_LINES", 3)
    monkeypatch.setattr(support, "LOG_BYTES", 40)
    log = tmp_path / "a.log"
    log.write_text("\n".join(f"line {number}" for number in range(1000)))

    assert list(support.last_lines(log)) == ["line 997", "line 998", "line 999"]
