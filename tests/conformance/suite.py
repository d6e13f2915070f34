"""Runs the official conformance suite against a server, and reads what it says."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures import node_tools

SUITE = node_tools.MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
SUITE_SECONDS = 240
_LINE = re.compile(r"^([✓✗]) (\S+): \d+ passed, \d+ failed$", re.MULTILINE)
_UNSCORED = re.compile(r"^ {2}([✓✗]) (\S+) \(([\w-]+)\)$", re.MULTILINE)

CHOICES = {
    "2025-06-18": ("--suite", "all", "--spec-version", "2025-06-18"),
    "2025-11-25": ("--requirements", "2025-11-25"),
    "2026-07-28": ("--requirements", "2026-07-28"),
}
"""For the two newest revisions what an implementation must pass is a set; for the older one every scenario counts."""


@dataclass(frozen=True)
class Report:
    """The scored scenarios that passed and that failed, those of extensions, and everything that the suite printed."""

    passed: list[str]
    failed: list[str]
    extensions: dict[str, bool]
    """Whether a scenario of an extension passed; they are run and not scored."""
    output: str


def run_suite(url: str, revision: str, folder: Path) -> Report:
    """Run every scenario of a revision against the endpoint at `url`; the details are written to the folder."""
    done = subprocess.run(
        [node_tools.node(), str(SUITE), "server", "--url", url, *CHOICES[revision], "-o", str(folder)],
        capture_output=True, text=True, timeout=SUITE_SECONDS, check=False, env=node_tools.node_environment(),
    )  # fmt: skip
    summary, _, rest = done.stdout.partition("Not scored for")
    unscored = _UNSCORED.findall(rest)
    names = {name for _, name, _ in unscored}
    scored = [(sign, name) for sign, name in _LINE.findall(summary) if name not in names]
    return Report(
        passed=[name for sign, name in scored if sign == "✓"],
        failed=[name for sign, name in scored if sign == "✗"],
        extensions={name: sign == "✓" for sign, name, kind in unscored if kind == "extension"},
        output=done.stdout + done.stderr,
    )
