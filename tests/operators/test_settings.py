"""`manage.py settings` shows an installation without its secrets; `check --deploy` has nothing to say (M07)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from apps.core.keyfiles import new_sealing_key, new_signing_key
from tests.fixtures import warm
from tests.fixtures.servers import PROJECT
from tests.journeys.platform import COMMAND_SECONDS, clean_environment

CANARY = "kanari"
SECRETS = {
    "GATEHOUSE_SECRET_KEY": f"{CANARY}-secret-key-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEF",
    "GATEHOUSE_KEY_PEPPER": f"{CANARY}-pepper-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEF",
    "GATEHOUSE_JOURNAL_KEY": f"{CANARY}-journal-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEF",
    "GATEHOUSE_KEY": f"{CANARY}-key-of-the-operator",
    "REDIS_URL": f"redis://:{CANARY}-redis@127.0.0.1:1/0?password={CANARY}-query",
    "BROKER_URL": f"amqp://user:{CANARY}-broker@127.0.0.1:1//",
    "DATABASE_URL": f"postgres://user:{CANARY}-database@127.0.0.1:1/gatehouse",
    "GATEHOUSE_STDIO_ALLOW": f"other-tool --access {CANARY}-argument; /bin/cat",
}


def production(folder: Path) -> dict[str, str]:
    """A whole production installation, with a canary wherever a secret may be given."""
    kept = folder / "signing.pem"
    kept.write_text(new_signing_key())
    return clean_environment(
        **SECRETS,
        GATEHOUSE_DATA=str(folder / "data"), GATEHOUSE_ENV="production",
        GATEHOUSE_PUBLIC_URL="https://gate.example.org", GATEHOUSE_SEALING_KEYS=new_sealing_key(1),
        GATEHOUSE_SIGNING_KEY_FILE=str(kept), GATEHOUSE_TRUSTED_PROXIES="1",
    )  # fmt: skip


def manage(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the installation."""
    return warm.run([sys.executable, "manage.py", *arguments], cwd=PROJECT, env=env, timeout=COMMAND_SECONDS)


@pytest.mark.slow_process
def test_settings_are_shown_with_where_they_come_from_and_no_secret(tmp_path):
    env = production(tmp_path)

    printed, listed = manage(env, "settings"), manage(env, "settings", "--json")

    assert (printed.returncode, listed.returncode) == (0, 0), printed.stderr
    shown = {each["setting"]: (each["is"], each["from"]) for each in json.loads(listed.stdout)}
    for text in (printed.stdout, listed.stdout, printed.stderr, listed.stderr):
        assert CANARY not in text
        assert env["GATEHOUSE_SEALING_KEYS"].partition(":")[2] not in text
        assert "PRIVATE KEY" not in text
    assert shown["GATEHOUSE_PUBLIC_URL"] == ("https://gate.example.org", "environment")
    assert shown["GATEHOUSE_SIGNING_KEY"] == ("given", "a file that the environment names")
    assert shown["GATEHOUSE_STDIO_ALLOW"] == (["other-tool", "/bin/cat"], "environment")
    assert shown["GATEHOUSE_PORT"] == (8000, "default")
    assert all(name in printed.stdout for name in shown)


@pytest.mark.slow_process
def test_the_deployment_check_has_nothing_to_say_in_production(tmp_path):
    checked = manage(production(tmp_path), "check", "--deploy", "--fail-level", "WARNING")

    assert (checked.returncode, checked.stdout) == (
        0,
        "System check identified no issues (3 silenced).\n",
    ), checked.stderr
