"""Removes every `.for_org(…)` of the apps in turn, and expects the isolation test to notice each time.

    python tests/house/mutate_for_org.py                 all of them
    python tests/house/mutate_for_org.py registry        those whose path:line contains this word

Each mutant is a copy of the tree in a temporary folder with a database of its own; two run at a time. A table is
printed; the status is 1 if any mutant survives. About a quarter of an hour for all.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

PROJECT = Path(__file__).parent.parent.parent
COPIED = ("apps", "config", "templates", "static", "tests", "manage.py", "pyproject.toml")
TESTS = sorted(str(path.relative_to(PROJECT)) for path in Path(__file__).parent.glob("test_isolation*.py"))
AT_A_TIME = 2
SECONDS = 300
PYTEST_FAILED = 1


@dataclass(frozen=True)
class Mutation:
    """One call that is taken out of one file."""

    path: Path
    line: int
    mutant: bytes

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Outcome:
    """What the isolation test said about a mutant."""

    mutation: Mutation
    is_caught: bool
    by: str


def mutations(root: Path, word: str) -> Iterator[Mutation]:
    """Every call of `for_org` in the apps, taken out: every row, whoever owns it."""
    for path in sorted((root / "apps").rglob("*.py")):
        relative = path.relative_to(root)
        if "migrations" not in relative.parts:
            yield from (each for each in _mutations_in(relative, path.read_bytes()) if word in str(each))


def _mutations_in(path: Path, text: bytes) -> Iterator[Mutation]:
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "for_org":
            before = node.func.value
            start = lines[(before.end_lineno or 0) - 1] + (before.end_col_offset or 0)
            end = lines[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            yield Mutation(path, node.end_lineno or 0, text[:start] + b".all()" + text[end:])


def copy_of(root: Path, folder: Path) -> Path:
    """The tree without what it left behind."""
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        elif source.exists():
            shutil.copy2(source, folder / name)
    return folder


def judge(folder: Path, mutation: Mutation) -> Outcome:
    """Run the isolation tests on the copy with the mutation, and put the file back."""
    path = folder / mutation.path
    original = path.read_bytes()
    path.write_bytes(mutation.mutant)
    try:
        status, said = run_test(folder)
    finally:
        path.write_bytes(original)
    failed = [line.partition("::")[2][:70] for line in said.splitlines() if line.startswith("FAILED ")]
    is_caught = status == PYTEST_FAILED and bool(failed)
    return Outcome(mutation, is_caught, failed[0] if is_caught else said.strip().splitlines()[-1])


def run_test(folder: Path) -> tuple[int, str]:
    """The status and the output of the isolation test; it stops at the first failure."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GATEHOUSE_", "DATABASE_URL"))}
    options = ("-q", "-x", "-rf", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *TESTS, *options], cwd=folder, env={**env, "PYTHONDONTWRITEBYTECODE": ""},
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"no answer within {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def run(chosen: Sequence[Mutation], folder: Path, root: Path) -> Iterator[Outcome]:
    """The outcomes, as they come, from as many copies as run at a time."""
    free: SimpleQueue[Path] = SimpleQueue()
    for number in range(AT_A_TIME):
        free.put(copy_of(root, folder / str(number)))

    def one(mutation: Mutation) -> Outcome:
        copy = free.get()
        try:
            return judge(copy, mutation)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(max_workers=AT_A_TIME) as pool:
        yield from pool.map(one, chosen)


def main() -> int:
    """Judge every mutant; 0 if all are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only those whose path:line contains it")
    word = parser.parse_args().word
    with tempfile.TemporaryDirectory(prefix="gatehouse-mutants-") as name:
        folder = Path(name)
        root = copy_of(PROJECT, folder / "unchanged")  # the tree as it is now: it may be edited meanwhile
        chosen = list(mutations(root, word))
        status, said = run_test(root)
        if status != 0:
            print(f"Without any mutation the isolation tests fail already:\n{said[-3000:]}")
            return 1
        survivors = 0
        for outcome in run(chosen, folder, root):
            survivors += not outcome.is_caught
            print(f"{'caught  ' if outcome.is_caught else 'SURVIVED'} {outcome.mutation!s:48} {outcome.by}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
