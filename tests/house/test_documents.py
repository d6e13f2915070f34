"""Every command block of the documents is run here, or says which test shows it, or why nothing runs it."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.journeys.platform import Platform

PROJECT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:<!-- (?P<word>not run|shown by): (?P<why>[^>]+) -->\n)?```(?:bash|sh|shell|console)\n(?P<text>.*?)```",
    re.DOTALL,
)
ANY_FENCE = re.compile(r"^```(\w*)$", re.MULTILINE)
QUIET_FENCES = {"json", "python", "", "yaml", "text"}


@dataclass(frozen=True)
class Block:
    """One command block, with the mark above it."""

    document: str
    number: int
    word: str | None
    why: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.number}"


def blocks() -> Iterator[Block]:
    """Every command block of every document."""
    for path in DOCUMENTS:
        for number, match in enumerate(BLOCK.finditer(path.read_text(encoding="utf-8")), start=1):
            yield Block(
                str(path.relative_to(PROJECT)), number, match["word"], (match["why"] or "").strip(), match["text"]
            )


RUN_HERE = [block for block in blocks() if block.word is None]
SHOWN = [block for block in blocks() if block.word == "shown by"]


def test_the_readme_names_both_commands():
    text = (PROJECT / "README.md").read_text(encoding="utf-8")

    assert "make up" in text
    assert "make test" in text


def test_every_fence_is_either_commands_or_known_not_to_be():
    fences = {fence for path in DOCUMENTS for fence in ANY_FENCE.findall(path.read_text(encoding="utf-8"))}

    assert fences - QUIET_FENCES <= {"bash", "sh", "shell", "console"}


@pytest.mark.parametrize("block", SHOWN, ids=str)
def test_a_block_that_is_shown_elsewhere_names_a_test_that_exists(block):
    path, _, name = block.why.partition("::")
    functions = {
        node.name for node in ast.walk(ast.parse((PROJECT / path).read_text())) if isinstance(node, ast.FunctionDef)
    }

    assert name in functions


def test_every_link_between_the_documents_leads_somewhere():
    broken = [
        f"{path.relative_to(PROJECT)}: {target}"
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]

    assert broken == []


@pytest.fixture(scope="module")
def platform(tmp_path_factory) -> Iterator[Platform]:
    """A platform with its demo, as a reader of the README has it."""
    with Platform(tmp_path_factory.mktemp("documents")) as started:
        yield started


@pytest.mark.slow_process
@pytest.mark.parametrize("block", RUN_HERE, ids=str)
def test_a_block_does_what_it_says(block, platform):
    owner = platform.account("owner")
    env = {**platform.env, "KEY": platform.demo_key(), "EMAIL": owner["email"], "PASSWORD": owner["password"]}
    text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{platform.port}")
    text = text.replace(".venv/bin/python", sys.executable)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=PROJECT, env={**os.environ, **env}, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
