"""What no committed file may say."""

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent
# Put together here, so that this file does not say them either.
REGISTRY_HOSTS = [
    ".".join(parts) for parts in (("pypi", "org"), ("files", "pythonhosted", "org"), ("registry", "npmjs", "org"))
]


def tracked_files() -> list[Path]:
    """The files that git knows, or all of them where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [PROJECT / name for name in listed.stdout.split("\0") if name and (PROJECT / name).is_file()]


def files_that_say(words: list[str]) -> dict[str, str]:
    """Which file says which of the words."""
    found = {}
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found.update({str(path.relative_to(PROJECT)): word for word in words if word in text})
    return found


def test_no_file_names_the_host_of_a_package_registry():
    assert files_that_say(REGISTRY_HOSTS) == {}


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    # A checkout right below a system folder would make a word of every text out of that folder's name.
    folders = [str(folder) + "/" for folder in (PROJECT.parent, Path.home()) if len(folder.parts) > 2]

    assert files_that_say(["/home/" + "runner", str(PROJECT) + "/", *folders]) == {}


def test_a_word_that_is_there_is_found():
    assert "tests/house/test_sources.py" in files_that_say(["A checkout right below"])
