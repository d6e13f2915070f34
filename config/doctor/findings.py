"""What the doctor finds: one line for each part, with the cure typed out. Nothing here needs Django."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from config.env import BASE_DIR, given_in_file

State = Literal["ok", "note", "wrong", "skipped"]
_SIGNS: dict[State, str] = {"ok": "ok", "note": "note", "wrong": "WRONG", "skipped": "-"}
_INDENT = " " * 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One part: how it is, why, and, where it is not well, the command or setting to type.

    A note is a thing to know that keeps nothing from working; it has no part in the exit status.
    """

    what: str
    state: State
    why: str = ""
    cure: str = ""
    may_pass: bool = True
    """Whether it may be better in a moment, so that a start waits for it."""

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return self.state != "wrong"


def as_json(findings: Sequence[Finding]) -> str:
    """One object, for scripts."""
    return json.dumps({
        "ok": all(each.ok for each in findings),
        "findings": [
            {"what": each.what, "state": each.state, "why": each.why, "cure": each.cure, "ok": each.ok}
            for each in findings
        ],
    }, indent=2)  # fmt: skip


def as_text(findings: Sequence[Finding]) -> str:
    """Line by line, for a person; the sum last."""
    lines = []
    for each in findings:
        lines.append(_shown(f"{_SIGNS[each.state]:8}{each.what}{': ' + each.why if each.why else ''}"))
        if each.cure:
            lines.append(f"{_INDENT}Cure: {each.cure}")
    wrong = sum(not each.ok for each in findings)
    lines.append("Everything is well." if not wrong else f"{wrong} of {len(findings)} are not well.")
    return "\n".join(lines)


def _shown(text: str) -> str:
    """One line that a terminal only shows: a server's own words may be in it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def manage(*arguments: str) -> str:
    """A command of this installation, to be typed."""
    return shlex.join([sys.executable, str(BASE_DIR / "manage.py"), *arguments])


def set_variable(name: str, value: str) -> str:
    """How to give a setting another value, where it comes from now."""
    if name in given_in_file():
        return f"{drop_variable(name)} && echo {shlex.quote(f'{name}={shlex.quote(value)}')} >> {_env_file()}"
    return f"export {name}={shlex.quote(value)}"


def drop_variable(name: str) -> str:
    """How to go back to a setting's default, where it comes from now."""
    if name in given_in_file():
        return _edit_file(f"/{_line_of(name)}/d")
    return f"unset {name}"


def rename_variable(name: str, meant: str) -> str:
    """How to give a value its right name, without saying the value: it may be a secret."""
    if name in given_in_file():
        return _edit_file(f"s/{_line_of(name)}/{meant}=/")
    return f'export {meant}="${name}"; unset {name}'


def _line_of(name: str) -> str:
    return rf"^\s*\(export \)\?{name}="


def _edit_file(script: str) -> str:
    return f"sed -i {shlex.quote(script)} {_env_file()}"


def _env_file() -> str:
    return shlex.quote(str(BASE_DIR / ".env"))
