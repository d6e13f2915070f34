"""Rules of this house that no linter knows: what code in apps and config must not do.

    python -m tests.static.rules

A line that has a reason to break one says so, at its end or right above it: `# allowed: <reason>`.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
FOLDERS = ("apps", "config")
ALLOWED = re.compile(r"#\s*allowed: \S+")
HTTP_CLIENTS = frozenset({"aiohttp", "httpx", "httpx2", "requests", "urllib3", "urllib.request", "http.client"})
GUARDED = "apps/core/egress.py"
SHELLS = frozenset({"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"})
ONE_ROW = frozenset({"get", "aget", "get_or_create", "aget_or_create", "update_or_create", "in_bulk", "first", "last"})
SHORTCUTS = frozenset({"get_object_or_404", "get_list_or_404"})
SCOPES = frozenset({"for_org", "organization", "organization_id", "chain_id"})
UNVERIFIED = frozenset({"CERT_NONE", "_create_unverified_context"})


@dataclass(frozen=True)
class Problem:
    """Where a rule is broken, and how."""

    path: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}"


def find_problems(path: str, text: str) -> list[Problem]:
    """Every line of a file that breaks a rule and gives no reason."""
    lines = text.splitlines()
    found = [
        Problem(path, getattr(node, "lineno", 1), why)
        for node in ast.walk(ast.parse(text))
        for rule in RULES
        for why in rule(path, node)
    ]
    return [each for each in dict.fromkeys(found) if not is_allowed(lines, each.line)]


def is_allowed(lines: list[str], number: int) -> bool:
    """Whether a reason stands at the end of this line, or alone on the one above."""
    above = lines[number - 2].strip() if number > 1 else ""
    return bool(ALLOWED.search(lines[number - 1]) or ALLOWED.match(above))


def raw_client(path: str, node: ast.AST) -> Iterator[str]:
    """There is one way out: everything else would bypass the allowlist."""
    names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    for name in names:
        clients = [client for client in HTTP_CLIENTS if f"{name}.".startswith(f"{client}.")]
        if clients and path != GUARDED:
            yield f"{clients[0]} is a way out of its own; use {GUARDED}."


def unscoped(_: str, node: ast.AST) -> Iterator[str]:
    """A row of an organisation that is found by anything but its organisation may be somebody else's."""
    if not isinstance(node, ast.Call):
        return
    name = dotted(node.func)
    model = name.partition(".")[0]
    if name in SHORTCUTS:
        model = dotted(node.args[0]).partition(".")[0] if node.args else ""
    elif (
        not re.match(r"\w+\.(objects|_base_manager|_default_manager)\b", name) or name.rpartition(".")[2] not in ONE_ROW
    ):
        return
    if model in tenant_models() and not SCOPES & words_of(node):
        yield f"{model} belongs to organisations: start with for_org, or name the organisation."


def template(_: str, node: ast.AST) -> Iterator[str]:
    """Templates of users are rendered in a process with limits, never here."""
    if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2].endswith("Environment") and is_jinja(node):
        yield "An environment of Jinja runs what a template says, in this process."


def shell(_: str, node: ast.AST) -> Iterator[str]:
    """A shell reads what it is given once more."""
    if not isinstance(node, ast.Call):
        return
    if dotted(node.func) in SHELLS or any(each.arg == "shell" and not is_false(each.value) for each in node.keywords):
        yield "A shell reads its arguments once more; give the command as a list."


def unverified(_: str, node: ast.AST) -> Iterator[str]:
    """Whoever is in between could answer."""
    name = node.attr if isinstance(node, ast.Attribute) else ""
    keywords = node.keywords if isinstance(node, ast.Call) else []
    if name in UNVERIFIED or any(
        each.arg in ("verify", "ssl", "verify_ssl") and is_false(each.value) for each in keywords
    ):
        yield "A certificate is not checked."


RULES: tuple[Callable[[str, ast.AST], Iterator[str]], ...] = (raw_client, unscoped, template, shell, unverified)


def dotted(node: ast.AST) -> str:
    """A chain of names as text; calls in between are left out: `Server.objects.all().get`."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def words_of(node: ast.Call) -> set[str]:
    """The names of the chain, and those of all its keywords."""
    words = set(dotted(node.func).split("."))
    words.update(each.arg.split("__")[0] for each in ast.walk(node) if isinstance(each, ast.keyword) and each.arg)
    return words


def is_jinja(node: ast.Call) -> bool:
    """Whether this may be Jinja's: another class of that name takes a value and no options."""
    name = dotted(node.func)
    return "jinja" in name or "Sandbox" in name or not node.args


def is_false(node: ast.AST) -> bool:
    """Whether this is the constant False."""
    return isinstance(node, ast.Constant) and node.value is False


@cache
def tenant_models() -> frozenset[str]:
    """The names of the models whose rows belong to organisations, read from the source."""
    found: set[str] = set()
    for path in [*PROJECT.glob("apps/*/models.py"), *PROJECT.glob("apps/*/models/*.py")]:
        classes = [each for each in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(each, ast.ClassDef)]
        scoped = {"TenantRecord", *(each.name for each in classes if defines(each, "for_org"))}
        found.update(each.name for each in classes if scoped & names_above(each))
    return frozenset(found)


def defines(node: ast.ClassDef, name: str) -> bool:
    """Whether the class has a method of this name."""
    return any(isinstance(each, ast.FunctionDef) and each.name == name for each in node.body)


def names_above(model: ast.ClassDef) -> set[str]:
    """What a model inherits from, and the queryset of its `objects`."""
    values = [
        each.value for each in model.body if isinstance(each, ast.Assign) and dotted(each.targets[0]) == "objects"
    ]
    texts = [dotted(each) for each in [*model.bases, *values]]
    return {name for text in texts for name in text.split(".")}


def sources() -> Iterator[Path]:
    """The code that the rules are about."""
    for folder in FOLDERS:
        yield from sorted((PROJECT / folder).rglob("*.py"))


def main() -> int:
    """Print every problem; the status is 0 only if there is none."""
    problems = [
        each
        for path in sources()
        for each in find_problems(path.relative_to(PROJECT).as_posix(), path.read_text(encoding="utf-8"))
    ]
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
