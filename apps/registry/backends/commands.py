"""Which command lines stdio servers may run: exactly those that the operator lists in GATEHOUSE_STDIO_ALLOW.

An entry is a whole command line, written as in a shell, though no shell ever sees it. Each argument must be equal;
one that ends in `*` matches whatever begins like it. A program without a path is looked for once, in the folders of
this installation and of the operator's own PATH; the child's variables and folder have no part in that.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from django.conf import settings

from apps.core.errors import InvalidInput

LONGEST_ARGUMENT = 4096
MOST_ARGUMENTS = 64
NOT_LISTED = (
    "This command is not one that may run here. The operator lists whole command lines in GATEHOUSE_STDIO_ALLOW; they"
    " are compared argument by argument."
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z", re.ASCII)
_FORBIDDEN_VARIABLES = re.compile(
    r"(?:LD_|DYLD_|PYTHON|NODE_|NPM_|PERL|RUBY|GEM_|JAVA_|_JAVA|JDK_|GIT_|UV_|PIP_|BASH|GATEHOUSE_|GLIBC_|MALLOC_|GCONV_|DENO_|BUN_"
    r"|DOTNET_|CORECLR_|COMPLUS_|LUA_|PHP)"
    r"|(?:PATH|HOME|IFS|ENV|SHELL|SHELLOPTS|PS4|PROMPT_COMMAND|CDPATH|TMPDIR|NLSPATH|LOCPATH|OPENSSL_CONF|SSLKEYLOGFILE|EDITOR"
    r"|VISUAL|PAGER|BROWSER|ZDOTDIR|CLASSPATH|HOSTALIASES|RES_OPTIONS)\Z",
    re.IGNORECASE,
)


def check_command(command: Sequence[object]) -> None:
    """Raise InvalidInput unless the operator allows this very command line."""
    resolve(command)


def resolve(command: Sequence[object]) -> tuple[str, ...]:
    """The command line with the program's full path; raises InvalidInput where it is not allowed or not there."""
    if not command or len(command) > MOST_ARGUMENTS:
        raise _refused("A stdio server needs a command: the program and its arguments, as a list of texts.")
    given = [argument for argument in command if isinstance(argument, str)]
    if len(given) != len(command) or any(len(each) > LONGEST_ARGUMENT or _CONTROL.search(each) for each in given):
        raise _refused("Arguments are texts without line breaks or other control characters.")
    for entry in settings.STDIO_ALLOW:
        if matches(entry, given):
            return (_program(given[0]), *given[1:])
    raise _refused(NOT_LISTED)


def check_env(env: Mapping[str, object]) -> None:
    """Raise InvalidInput for variables that change which code runs, or that no process can be given."""
    for name, value in env.items():
        if not _VARIABLE.match(name):
            raise InvalidInput.for_field("env", "A variable's name has letters, digits and underscores, at most 64.")
        if _FORBIDDEN_VARIABLES.match(name):
            raise InvalidInput.for_field("env", f"{name} may not be set: it can change which code the server runs.")
        if not isinstance(value, str) or len(value) > LONGEST_ARGUMENT or _CONTROL.search(value):
            raise InvalidInput.for_field("env", f"The value of {name} must be a text without control characters.")


def matches(entry: str, command: Sequence[str]) -> bool:
    """Whether an entry of the operator's list allows this command line."""
    patterns = _entry(entry)
    if len(patterns) != len(command) or patterns[0] != command[0]:
        return False
    return all(_argument_matches(pattern, given) for pattern, given in zip(patterns[1:], command[1:], strict=True))


def _argument_matches(pattern: str, given: str) -> bool:
    """Equal, or beginning alike. What `*` stands for neither climbs out of a folder nor becomes an option."""
    if not pattern.endswith("*"):
        return pattern == given
    begin = pattern[:-1]
    rest = given[len(begin) :]
    # The second half: `/data/.*` must not become `/data/../etc`.
    climbs = ".." in rest.split("/") or given.split("/").count("..") > begin.split("/").count("..")
    return given.startswith(begin) and not climbs and not (not begin and rest.startswith("-"))


@cache
def _entry(entry: str) -> tuple[str, ...]:
    try:
        parts = shlex.split(entry)
    except ValueError:
        return ("",)
    return tuple(parts) or ("",)


@cache
def _program(name: str) -> str:
    """The full path of a listed program."""
    if "/" in name:
        if not name.startswith("/"):
            raise _refused("The program must be given by its full path, or by its bare name.")
        found: str | None = name if os.access(name, os.X_OK) and Path(name).is_file() else None
    else:
        folders = [str(Path(sys.executable).parent), *os.get_exec_path()]
        found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder.startswith("/")))
    if found is None:
        raise _refused(f"The program {name} is not installed here.")
    return found


def _refused(message: str) -> InvalidInput:
    return InvalidInput.for_field("command", message)
