"""ContextForge as a target: started on its defaults, with authentication, one upstream and one virtual server.

    python contextforge.py --upstream http://127.0.0.1:9101/mcp      # starts it, prints the target, waits for Enter

Its limit of requests per minute is raised, for it would end any load test; everything else is as it comes.
"""

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environments

sys.path.append(str(environments.PROJECT))

from tests.fixtures.servers import Process, free_port

PACKAGE = "mcp-contextforge-gateway==1.1.0"
OLDEST_PYTHON = "3.12"
START_SECONDS = 180
TOOLS_SECONDS = 30
ADMIN = "admin@example.com"


def settings() -> dict[str, str]:
    """What it must be given, and what lets it call an upstream on the loopback."""
    return {
        "JWT_SECRET_KEY": secrets.token_urlsafe(48),
        "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(48),
        "PLATFORM_ADMIN_EMAIL": ADMIN,
        "PLATFORM_ADMIN_PASSWORD": made_up(),
        "BASIC_AUTH_PASSWORD": secrets.token_urlsafe(18),
        "DEFAULT_USER_PASSWORD": made_up(),
        "DATABASE_URL": "sqlite:///./mcp.db",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "LOG_LEVEL": "ERROR",
        "RATE_LIMITING_ENABLED": "false",
    }


def made_up() -> str:
    """A password with every kind of character that it asks for."""
    return "Aa1!" + secrets.token_urlsafe(18)


class Api:
    """Its REST API."""

    def __init__(self, base: str, token: str) -> None:
        self.base, self.token = base, token

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """Send JSON and read JSON; raises RuntimeError with its own words when it refuses."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.base + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refusal:
            raise RuntimeError(f"{method} {path}: {refusal.code} {refusal.read().decode()[:500]}") from refusal

    def tools(self) -> list[str]:
        """The ids of the tools that it has found."""
        deadline = time.monotonic() + TOOLS_SECONDS
        while time.monotonic() < deadline:
            found = self.ask("GET", "/tools?limit=0")
            items = found if isinstance(found, list) else found.get("tools", found.get("data", []))
            if items:
                return [each["id"] for each in items]
            time.sleep(0.5)
        raise RuntimeError("ContextForge found no tools.")


@contextlib.contextmanager
def contextforge(upstream: str) -> Iterator[dict[str, Any]]:
    """A running ContextForge as a target: its address, credential and process."""
    folder, port = environments.environment(PACKAGE, oldest_python=OLDEST_PYTHON), free_port()
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="contextforge-") as data:
        env = {**os.environ, **settings()}
        command = [str(folder / "mcpgateway"), "--host", "127.0.0.1", "--port", str(port)]
        with Process(command, env=env, cwd=Path(data), ready=f"{base}/health", start_seconds=START_SECONDS) as process:
            api = Api(base, token(folder, env, data))
            api.ask("POST", "/gateways", {"name": "up", "url": upstream, "transport": "STREAMABLEHTTP"})
            described = {"name": "bench", "description": "bench", "associated_tools": api.tools()}
            server = api.ask("POST", "/servers", {"server": described})
            yield {
                "name": "contextforge",
                "url": f"{base}/servers/{server['id']}/mcp",
                "headers": {"Authorization": f"Bearer {api.token}"},
                "pids": [process.pid],
            }


def token(folder: Path, env: dict[str, str], cwd: str) -> str:
    """A token of its admin, made by its own tool."""
    command = [
        str(folder / "python"), "-m", "mcpgateway.utils.create_jwt_token",
        "--username", ADMIN, "--admin", "--exp", "10080", "--secret", env["JWT_SECRET_KEY"],
    ]  # fmt: skip
    made = subprocess.run(command, env=env, cwd=cwd, check=True, capture_output=True, text=True)
    return made.stdout.strip().splitlines()[-1]


def main() -> None:
    """Start it by hand."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--upstream", required=True)
    with contextforge(ap.parse_args().upstream) as target:
        print(json.dumps(target, indent=1), flush=True)
        input()


if __name__ == "__main__":
    main()
