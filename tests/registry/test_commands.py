"""What may run as a stdio server: whole command lines of the operator's, and nothing that looks like them."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from apps.core.errors import InvalidInput
from apps.registry.backends import commands

NPX = "/usr/bin/env node server.js --root=/data/* --name *"
HIDDEN = "/usr/bin/env cat /data/.* --from=*"


@pytest.fixture(autouse=True)
def _listed(settings: Any) -> None:
    settings.STDIO_ALLOW = (
        NPX,
        HIDDEN,
        "/bin/echo 'two words'",
        "mcp-server-time",
        "no-such-program",
        "bin/relative",
        'broken "quote',
    )


def test_an_equal_line_is_allowed_and_its_program_found_once() -> None:
    assert commands.resolve(["/bin/echo", "two words"]) == ("/bin/echo", "two words")
    assert commands.resolve(["/usr/bin/env", "cat", "/data/.a/..b", "--from=a..b/c"])
    assert (
        commands.resolve(["/usr/bin/env", "node", "server.js", "--root=/data/a/b", "--name", "x"])[0] == "/usr/bin/env"
    )


@pytest.mark.parametrize(
    "command",
    [
        [],
        [""],
        ["/bin/echo"],
        ["/bin/echo", "two words", "three"],
        ["/bin/echo", "two words; touch /tmp/x"],
        ["/bin/echo", "two words\ntouch"],
        ["/bin/echo", "two words\x00"],
        ["/bin/echo", "$(touch /tmp/x)"],
        ["/bin/echo", "two", "words"],
        ["echo", "two words"],
        ["./echo", "two words"],
        ["/bin/../bin/echo", "two words"],
        ["/tmp/echo", "two words"],
        ["npx", "evil"],
        ["/usr/bin/env", "node", "server.js", "--root=/data/../etc", "--name", "x"],
        ["/usr/bin/env", "node", "server.js", "--root=/data/..", "--name", "x"],
        ["/usr/bin/env", "node", "server.js", "--root=/etc", "--name", "x"],
        ["/usr/bin/env", "node", "server.js", "--root=/data/a", "--name", "--inspect"],
        ["/usr/bin/env", "node", "-e", "--root=/data/a", "--name", "x"],
        ["/usr/bin/env", "cat", "/data/../etc/passwd", "--from=a"],
        ["/usr/bin/env", "cat", "/data/..", "--from=a"],
        ["/usr/bin/env", "cat", "/data/.a/../../etc/passwd", "--from=a"],
        ["/usr/bin/env", "cat", "/data/.a", "--from=../a"],
        ["/usr/bin/env", "cat", "/data/.a", "--from=.."],
        ["bin/relative"],
        ["broken", "quote"],
        [7],
        ["/bin/echo", "x" * 5000],
        ["x"] * 100,
    ],
)
def test_anything_else_is_refused(command: list[Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        commands.resolve(command)

    assert "command" in refusal.value.details["fields"]


def test_a_bare_name_is_looked_for_beside_this_installation_and_never_in_the_working_folder(
    tmp_path: Path, monkeypatch: Any
) -> None:
    hijack = tmp_path / "mcp-server-time"
    hijack.write_text("#!/bin/sh\n")
    hijack.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    commands._program.cache_clear()

    assert commands.resolve(["mcp-server-time"]) == (str(Path(sys.executable).parent / "mcp-server-time"),)
    hijack.rename(tmp_path / "no-such-program")
    with pytest.raises(InvalidInput, match="not installed"):
        commands.resolve(["no-such-program"])


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD", "ld_preload", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "NODE_PATH",
        "PATH", "HOME", "IFS", "ENV", "BASH_ENV", "DYLD_INSERT_LIBRARIES", "PERL5OPT", "RUBYOPT", "JAVA_TOOL_OPTIONS",
        "GIT_SSH_COMMAND",
        "GATEHOUSE_SECRET_KEY", "GLIBC_TUNABLES", "A=B", "", "1X", "A B", "Ä", "A\n", "X" * 65,
    ],
)  # fmt: skip
def test_variables_that_choose_which_code_runs_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        commands.check_env({name: "x"})


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "x" * 5000, 7, None])
def test_values_that_no_process_can_be_given_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        commands.check_env({"CITY": value})


def test_other_variables_are_allowed() -> None:
    commands.check_env({"CITY": "Riga", "API_BASE": "https://api.example/v1?a=b", "EMPTY": ""})
