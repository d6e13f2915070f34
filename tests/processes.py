"""Python processes of our own that work on the database of the running test."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection

from tests.fixtures import warm

PROJECT = Path(__file__).parent.parent
_SETUP = "import django; django.setup()\n"


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the test's own database and the secrets that go with it."""
    ours = {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": database_url(),
        "GATEHOUSE_DATA": str(settings.DATA_DIR),
    }
    return {**os.environ, **ours, **more}


def database_url() -> str:
    """The address of the database that this test uses."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite://{name}"
    parts = connection.settings_dict
    password = f":{quote(parts['PASSWORD'], safe='')}" if parts["PASSWORD"] else ""
    return f"postgres://{quote(parts['USER'], safe='')}{password}@{parts['HOST']}:{parts['PORT']}/{name}"


def start_python(code: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """Run code in a new process after Django is set up; its standard output can be read."""
    return subprocess.Popen(
        [sys.executable, "-c", _SETUP + code, *arguments],
        cwd=PROJECT,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(code: str, *arguments: str, seconds: float = 120, **env: str) -> str:
    """Run code to its end and return what it printed; raises AssertionError with its errors when it fails."""
    command = [sys.executable, "-c", _SETUP + code, *arguments]
    done = warm.run(command, cwd=PROJECT, env=environment(**env), timeout=seconds)
    assert done.returncode == 0, done.stderr
    return done.stdout
