"""Pictures of the control room for the documents, taken in a real Chromium.

python -m tests.pictures            writes docs/images/: light, dark and phone width

Everything on them comes from the platform itself: `manage.py up` with servers of our own, registered, discovered and
approved by REST, called over MCP. The hours before now are lived through by the same services with the clock set back.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.fixtures.servers import PROJECT, Process, free_port
from tests.journeys.platform import Platform
from tests.journeys.rest import finished, signed_in
from tests.live import Client

IMAGES = PROJECT / "docs" / "images"
CHROMIUM = os.environ.get("TEST_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--hide-scrollbars")
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
DAYS = 7
SEED = 7
PATIENCE_SECONDS = 300
SERVERS: dict[str, dict[str, Any]] = {
    "weather": {"tools": ("forecast", "current", "alerts"), "environment": "production", "tags": ["data"]},
    "tickets": {"tools": ("search", "create", "comment", "close"), "environment": "production", "tags": ["support"]},
    "wiki": {"tools": ("read_page", "search"), "environment": "staging", "tags": ["text"]},
}
STANDARD = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


def serve(name: str, port: int) -> None:
    """One of the servers that agents use on the pictures."""
    from fastmcp import FastMCP

    mcp: Any = FastMCP(name.title())

    def make(tool: str) -> None:
        def answer(text: str = "") -> str:
            return f"{tool}: {text}"

        answer.__name__, answer.__doc__ = tool, f"{tool.replace('_', ' ').capitalize()} of {name}."
        mcp.tool(answer)

    for tool in SERVERS[name]["tools"]:
        make(tool)
    mcp.run(transport="http", host="127.0.0.1", port=port, show_banner=False)


# What happened before


def live_through(slug: str) -> None:
    """The last days: calls of two agents, and checks of every server, each with the clock of its moment."""
    from unittest.mock import patch

    import django

    django.setup()
    from django.utils import timezone

    from apps.auth import services as auth
    from apps.auth.models import ApiKey, Organization
    from apps.core.actor import system_actor
    from apps.registry import services as registry
    from apps.registry.models import Server
    from apps.usage import services as usage

    chance = random.Random(SEED)
    organization = Organization.objects.get(slug=slug)
    keys = list(ApiKey.objects.for_org(organization.pk).select_related("user"))
    agents = [auth.actor_for_job("key", key.pk, organization.pk).at("mcp") for key in keys]
    servers = list(Server.objects.for_org(organization.pk).usable())
    now = timezone.now()
    for minutes in range(DAYS * 24 * 60, 3, -10):
        moment = now - timedelta(minutes=minutes)
        with patch.object(timezone, "now", lambda moment=moment: moment):
            for _ in range(chance.randrange(0, 4 if 7 <= moment.hour <= 19 else 2)):
                _call(usage, chance.choice(agents), chance)
            if minutes % 60 == 0:
                for server in servers:
                    registry.check_server(system_actor(organization.pk), server_id=server.pk)
    usage.flush()


def _call(usage: Any, agent: Any, chance: random.Random) -> None:
    server = chance.choices(list(SERVERS), weights=(6, 4, 1))[0]
    name = f"{server}__{chance.choice(SERVERS[server]['tools'])}"
    status, code = chance.choices(
        [("ok", ""), ("error", "BACKEND_FAILED"), ("denied", "NOT_PERMITTED")], weights=(90, 5, 3)
    )[0]
    usage.record_call(
        agent, endpoint="/mcp", method="tools/call", name=name, server=server, status=status, error_code=code,
        latency_ms=round(chance.lognormvariate(3.6, 0.7), 1), bytes_in=chance.randrange(80, 900),
        bytes_out=chance.randrange(200, 9_000),
    )  # fmt: skip


# What staff and agents do now


def furnish(platform: "PicturePlatform", ports: dict[str, int]) -> None:
    """Servers, decisions, a person and calls, as an organisation has them after a while."""
    owner, developer = signed_in(platform, "owner"), signed_in(platform, "developer")
    here = platform.provision()["org"]["id"]
    owner.patch(f"/api/v1/orgs/{here}", {"name": "Acme"})
    made = {name: _register(developer, name, port) for name, port in ports.items()}
    for name in ("weather", "tickets"):
        owner.post(f"/api/v1/mcp/servers/{made[name]}/approve").json()
    owner.post(f"/api/v1/mcp/servers/{made['tickets']}/credentials", {"kind": "bearer", "secret": "not-a-real-token"})
    owner.patch(
        f"/api/v1/mcp/servers/{made['weather']}", {"description": "Forecasts for the offices.", "is_critical": True}
    )
    developer.patch(f"/api/v1/mcp/servers/{made['weather']}", {"description": "Forecasts and alerts for every office."})
    owner.patch(f"/api/v1/mcp/servers/{made['weather']}", {"max_concurrency": 8, "tags": ["data", "public"]})
    platform.manage_python("live_through", "acme")
    for _ in range(12):
        _ask(platform, platform.provision()["keys"]["developer"], "weather__forecast")
    _ask(platform, platform.provision()["keys"]["viewer"], "tickets__close")


def _register(developer: Client, name: str, port: int) -> str:
    body = {"name": name.title(), "slug": name, "url": f"http://127.0.0.1:{port}/mcp"}
    body |= {part: value for part, value in SERVERS[name].items() if part != "tools"}
    made: dict[str, Any] = developer.post("/api/v1/mcp/servers", body).json()
    started = developer.post(f"/api/v1/mcp/servers/{made['id']}/discover").json()
    finished(developer, started)
    return str(made["id"])


def _ask(platform: Platform, key: str, tool: str) -> None:
    call = {"name": tool, "arguments": {"text": "Lisbon"}, "_meta": STANDARD}
    Client(platform.url, {"Authorization": f"Bearer {key}"}).post(
        "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
        headers={"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
                 "Mcp-Method": "tools/call", "Mcp-Name": tool},
    )  # fmt: skip


class PicturePlatform(Platform):
    """A platform on whose installation Python of ours can run."""

    def manage(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """As elsewhere, with more patience: nobody waits for pictures."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT, env=self.env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip

    def manage_python(self, function: str, *arguments: str) -> None:
        """Run a function of this module on the same installation."""
        env = {**self.env, "DJANGO_SETTINGS_MODULE": "config.settings"}
        with Process([sys.executable, "-m", "tests.pictures", function, *arguments], env=env) as process:
            assert process.popen is not None
            if process.popen.wait(PATIENCE_SECONDS):
                raise RuntimeError(process.output())


# The pictures


def take(platform: Platform) -> None:
    """One after the other, in a browser of its own for each setting."""
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        settings: dict[str, dict[str, Any]] = {
            "light": {"viewport": DESKTOP, "color_scheme": "light"},
            "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
            "phone": {"viewport": PHONE, "color_scheme": "light"},
        }
        for setting, options in settings.items():
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(60_000)
            for name in _walk(page, platform, setting):
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(500)  # charts draw themselves in steps
                shot = page.screenshot(animations="disabled")
                (IMAGES / f"{name}-{setting}.png").write_bytes(packed(shot))


def _walk(page: Any, platform: Platform, setting: str) -> Iterator[str]:
    account = platform.account("owner")
    page.goto(f"{platform.url}/admin/login/")
    page.get_by_label("E-mail address").fill(account["email"])
    page.get_by_label("Password").fill(account["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{platform.url}/admin/")
    page.goto(f"{platform.url}/admin/?span=7d")
    yield "overview"
    page.goto(f"{platform.url}/admin/registry/server/")
    if setting != "dark":
        yield "servers"
    page.get_by_role("link", name="Weather").first.click()
    yield "server"
    if setting == "light":
        page.goto(page.url.partition("?")[0].replace("/change/", "/history/"))
        yield "history"
        page.goto(f"{platform.url}/admin/configuration/")
        page.get_by_label("Or paste it").fill(json.dumps(BROUGHT))
        page.get_by_role("button", name="Show what would be done").click()
        page.get_by_text("Line by line").wait_for()
        yield "import"
        page.goto(f"{platform.url}/admin/usage/usageevent/")
        yield "usage"


BROUGHT = {
    "gatehouse": 1,
    "organization": "globex",
    "servers": [
        {
            "slug": "weather", "description": "Forecasts and alerts for every office, hour by hour.",
            "capabilities": [{"kind": "tool", "name": "alerts", "risk": "low"}],
        },
        {"slug": "maps", "name": "Maps", "url": "https://maps.example.com/mcp", "missing": ["credential: bearer"]},
        {"slug": "inside", "name": "Inside", "url": "http://127.0.0.1:5432/"},
    ],
    "members": [{"email": "new@acme.example", "role": "developer"}],
}  # fmt: skip


def packed(picture: bytes) -> bytes:
    """The same PNG, its pixels compressed as well as zlib can; Chromium prefers to be quick."""
    chunks, place = [], 8
    while place < len(picture):
        (length,) = struct.unpack(">I", picture[place : place + 4])
        chunks.append((picture[place + 4 : place + 8], picture[place + 8 : place + 8 + length]))
        place += 12 + length
    pixels = zlib.compress(zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")), 9)
    kept = [(b"IHDR", chunks[0][1]), (b"IDAT", pixels), (b"IEND", b"")]
    return picture[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in kept
    )


def main() -> None:
    """Start everything, fill it, take the pictures, and say how large they are."""
    ports = {name: free_port() for name in SERVERS}
    allowed = ",".join(f"127.0.0.1:{port}" for port in ports.values())
    started = time.monotonic()
    with ExitStack() as running, tempfile.TemporaryDirectory() as data:
        for name, port in ports.items():
            command = [sys.executable, "-m", "tests.pictures", "serve", name, str(port)]
            running.enter_context(Process(command, ready=port))
        platform = running.enter_context(PicturePlatform(Path(data), "--no-demo", GATEHOUSE_EGRESS_ALLOW=allowed))
        furnish(platform, ports)
        take(platform)
    written = sorted(IMAGES.glob("*.png"))
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} pictures, {size / 1024:,.0f} KiB, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name, port]:
            serve(name, int(port))
        case ["live_through", slug]:
            live_through(slug)
        case _:
            main()
