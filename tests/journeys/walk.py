"""The walk of docs/start.md, with a real browser in the place of the newcomer's hands.

python -m tests.journeys.walk       from a clone to the call, in an empty home, with the seconds of each step
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.fixtures.servers import PROJECT, Process, free_port
from tests.journeys.platform import Platform

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
FOUND_SECONDS = 120
FENCE = r"```{}\n(.*?)```"


@dataclass(frozen=True)
class Start:
    """What docs/start.md tells the newcomer to type, with the ports of this walk in the place of the usual ones."""

    platform: int
    upstream: int

    @property
    def server(self) -> str:
        """The server of one's own."""
        return self._read("python")[0]

    @property
    def call(self) -> str:
        """The call by hand."""
        return next(block for block in self._read("bash") if block.startswith("curl"))

    def _read(self, language: str) -> list[str]:
        text = (PROJECT / "docs" / "start.md").read_text(encoding="utf-8")
        found: list[str] = re.findall(FENCE.format(language), text, re.DOTALL)
        ports = {"127.0.0.1:8000": f"127.0.0.1:{self.platform}", "3001": str(self.upstream)}
        for usual, ours in ports.items():
            found = [block.replace(usual, ours) for block in found]
        return found


@contextmanager
def own_server(start: Start, folder: Path) -> Iterator[None]:
    """The newcomer's server runs."""
    (folder / "notes.py").write_text(start.server)
    with Process([sys.executable, str(folder / "notes.py")], ready=f"http://127.0.0.1:{start.upstream}/mcp"):
        yield


def make_known_and_approve(page: Page, url: str, account: dict[str, str], upstream: int) -> None:
    """Step 3: log in, add the server, wait until it was read, approve it."""
    page.goto(f"{url}/admin/")
    page.get_by_label("E-mail address").fill(account["email"])
    page.get_by_label("Password").fill(account["password"])
    page.get_by_role("button", name="Log in").click()
    page.goto(f"{url}/admin/registry/server/add/")
    page.locator("[name=name]").fill("Notes")
    page.locator("[name=slug]").fill("notes")
    page.locator("[name=url]").fill(f"http://127.0.0.1:{upstream}/mcp")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("Gatehouse reads what it offers").wait_for()
    deadline = time.monotonic() + FOUND_SECONDS
    while not page.get_by_text("add_note").count():
        assert time.monotonic() < deadline, page.content()
        page.reload()
    page.get_by_role("button", name="Approve", exact=True).click()
    page.get_by_text("Agents can use what it offers now").wait_for()


def call_by_hand(start: Start, key: str) -> str:
    """Step 4, in a shell; a change holds within a second, so the first try may come too early."""
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", start.call],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "KEY": key}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "Kept note" in done.stdout:
            break
        time.sleep(1)
    return done.stdout + done.stderr


@contextmanager
def at_a_browser() -> Iterator[Page]:
    """An empty page of an empty browser."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser.new_page()
        browser.close()


class Cloned(Platform):
    """`make up` in a fresh clone, in an empty home."""

    def __init__(self, clone: Path, home: Path, start: Start) -> None:
        super().__init__(clone / "data", port=start.platform)
        self.command = ["make", "up"]
        self.cwd = clone
        self.env = {
            "PATH": self.env["PATH"], "HOME": str(home), "GATEHOUSE_PORT": str(start.platform),
            "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{start.upstream}",
        }  # fmt: skip
        self.start_seconds = 600


def main() -> None:
    """Walk, and print how long each step took."""
    start, began = Start(free_port(), free_port()), time.monotonic()

    def done(step: str) -> None:
        nonlocal began
        print(f"{time.monotonic() - began:6.1f} s  {step}", flush=True)
        began = time.monotonic()

    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder / "gatehouse")], check=True)
        done("clone")
        platform = held.enter_context(Cloned(folder / "gatehouse", folder, start))
        done("make up: installed and ready")
        held.enter_context(own_server(start, folder))
        done("the server of one's own runs")
        with at_a_browser() as page:
            make_known_and_approve(page, platform.url, platform.admin_account(), start.upstream)
        done("logged in, added, read, approved")
        assert "Kept note 1." in call_by_hand(start, platform.demo_key())
        done("the first call")


if __name__ == "__main__":
    main()
