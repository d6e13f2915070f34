"""A platform as its users have it: `manage.py up` in a process of its own, with a data folder of its own."""

import json
import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.fixtures import warm
from tests.fixtures.servers import PROJECT, Process, free_port

READY = "is ready."
START_SECONDS = 180
COMMAND_SECONDS = 180
OUR_VARIABLES = ("GATEHOUSE_", "DATABASE_URL", "REDIS_URL", "BROKER_URL", "UPSTREAM_", "BREAKER_", "DJANGO_")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of a newcomer: nothing of ours is set."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(OUR_VARIABLES)}, **more}


class Platform(Process):
    """`manage.py up` on a free port; it is ready when it says so."""

    is_warm = True

    def __init__(self, data: Path, *flags: str, port: int = 0, **env: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = data
        settings = clean_environment(GATEHOUSE_DATA=str(data), GATEHOUSE_PORT=str(self.port), **env)
        command = [sys.executable, "manage.py", "up", *flags]
        super().__init__(command, ready=f"{self.url}/ready", env=settings, start_seconds=START_SECONDS)

    def wait_ready(self) -> None:
        """Return when it has said that it is ready, which comes right after /ready answers."""
        super().wait_ready()
        deadline = time.monotonic() + START_SECONDS
        while READY not in self.output() and time.monotonic() < deadline:
            time.sleep(0.02)

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run another command on the same installation."""
        return warm.run([sys.executable, "manage.py", *arguments], cwd=PROJECT, env=self.env, timeout=COMMAND_SECONDS)

    @cache  # noqa: B019 - a handful of platforms, each as long as its test
    def provision(self, slug: str = "acme") -> dict[str, Any]:
        """An organisation with its accounts and keys."""
        made = self.manage("provision", "--org", slug, "--json")
        assert made.returncode == 0, made.stderr
        provisioned: dict[str, Any] = json.loads(made.stdout)
        return provisioned

    def account(self, role: str) -> dict[str, str]:
        """E-mail and password of the member with this role."""
        account: dict[str, str] = self.provision()["users"][role]
        return account

    def demo_key(self) -> str:
        """The key that was printed at the first start."""
        found = re.search(r"Demo key\s+(gate_\S+)", self.output())
        assert found, self.output()
        return found[1]

    def admin_account(self) -> dict[str, str]:
        """E-mail and password of the platform's first admin, printed at the first start."""
        found = re.search(r"Admin account\s+(\S+)\s+(\S+)", self.output())
        assert found, self.output()
        return {"email": found[1], "password": found[2]}


class ColdPlatform(Platform):
    """A platform whose command line, first environment and memory are its own, for those who look at them."""

    is_warm = False
