"""`manage.py reference`: writes the tables of docs/reference/ that come from the code."""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.auth.models import ROLE_GRANTS
from apps.core import errors
from apps.core.actor import expand_grants
from apps.core.loader import load
from apps.core.toolbox import NativeTool
from config.env import BASE_DIR, SECRET_VARIABLES, variables

DOCS = BASE_DIR / "docs" / "reference"
_MISDIRECTED = (421, "The request names a host that is not ours.")  # of the MCP door, which is slow to import
_AGENT_SEES_HTTP = {
    "MALFORMED", "NOT_AUTHENTICATED", "METHOD_NOT_ALLOWED", "TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "MISDIRECTED",
}  # fmt: skip


class Command(BaseCommand):
    """Write the generated tables, or say which are out of date."""

    help = "Write the tables of docs/reference/ that are generated from the code."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether to write or to compare."""
        parser.add_argument("--check", action="store_true", help="Change nothing; fail where a page is out of date.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Write or compare every page."""
        stale = {page: text for page, text in pages() if page.read_text(encoding="utf-8") != text}
        if options["check"] and stale:
            raise CommandError(f"Out of date: {', '.join(page.name for page in stale)}. Run manage.py reference.")
        for page, text in stale.items():
            page.write_text(text, encoding="utf-8")


def pages() -> Iterator[tuple[Path, str]]:
    """Each page with a generated part, and its text as the code would have it."""
    for name, table in TABLES.items():
        page = DOCS / f"{name}.md"
        yield page, _replaced(page.read_text(encoding="utf-8"), "\n".join(table()))


def _replaced(text: str, table: str) -> str:
    pattern = re.compile(r"(<!-- generated -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text)


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(heading)
    yield _row(columns)
    yield "|" + " --- |" * len(columns)
    yield from map(_row, rows)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def settings_table() -> Iterator[str]:
    """Every environment variable with its meaning and default."""
    rows = [(f"`{each['name']}`", each["about"], _default(each)) for each in variables()]
    return _table(("Variable", "Meaning", "Default"), rows)


def _default(variable: Any) -> str:
    if variable["make"]:
        return "made at the first start"
    default = variable["default"]
    if not default:
        return "" if variable["name"] not in SECRET_VARIABLES else "unset"
    return f"`{default.replace(str(BASE_DIR), '.')}`"


def errors_table() -> Iterator[str]:
    """Every error that a caller may see."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ServiceError)]
    ours = {kind.code: (kind.status, inspect.getdoc(kind) or "") for kind in found if kind is not errors.ServiceError}
    ours["MISDIRECTED"] = _MISDIRECTED
    ours["INTERNAL"] = (errors.ServiceError.status, "A bug of ours: logged with its trace, shown without.")
    rows = [
        (f"`{code}`", str(status), about, f"HTTP {status}" if code in _AGENT_SEES_HTTP else "tool error")
        for code, (status, about) in sorted(ours.items(), key=lambda item: (item[1][0], item[0]))
    ]
    return _table(("Code", "HTTP", "Meaning", "An agent on `/mcp` sees"), rows)


def permissions_table() -> Iterator[str]:
    """Every permission, and the roles that hold it."""
    known = {
        name: about for config in apps.get_app_configs() for name, about in getattr(config, "permissions", {}).items()
    }
    held = {role: expand_grants(patterns, known) for role, patterns in ROLE_GRANTS.items()}
    rows = [
        (f"`{name}`", about, *("yes" if name in held[role] else "" for role in held))
        for name, about in sorted(known.items())
    ]
    return _table(("Permission", "Meaning", *(str(role) for role in held)), rows)


def tools_table() -> Iterator[str]:
    """Every native tool in a line, then each with its arguments and its result."""
    tools = sorted(native_tools(), key=lambda tool: tool.name)
    rows = [
        (f"`{tool.name}`", _description(tool), f"`{tool.permission}`", "" if tool.reads_only else "yes")
        for tool in tools
    ]
    yield from _table(("Tool", "What it tells a model", "Permission", "Changes something"), rows)
    for tool in tools:
        yield from ("", f"## `{tool.name}`", "", f"{tool.definition['title']}. {_description(tool)}")
        yield from _fields("Argument", tool.definition["inputSchema"])
        yield from _fields("Result", tool.definition["outputSchema"])


def native_tools() -> list[NativeTool]:
    """The tools of every toolbox."""
    return [tool for path in settings.MCP_TOOLBOXES for tool in load(path).tools.values()]


def _description(tool: NativeTool) -> str:
    return " ".join(tool.definition["description"].split())


def _fields(heading: str, schema: dict[str, Any]) -> Iterator[str]:
    """The fields of an object, those of objects inside it below them with dots."""
    rows = list(_field_rows(schema, schema.get("$defs", {}), ""))
    if not rows:
        yield from ("", f"{heading}s: none.")
        return
    yield ""
    yield from _table((heading, "Type", "Required", "Meaning"), rows)


def _field_rows(schema: dict[str, Any], shapes: dict[str, Any], place: str) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        yield (
            f"`{place}{name}`", _type_of(field, shapes), "yes" if name in required else _default_of(field),
            field.get("description", ""),
        )  # fmt: skip
        inner = _inner(field, shapes)
        if inner:
            yield from _field_rows(inner[0], shapes, f"{place}{name}{inner[1]}.")


def _inner(field: dict[str, Any], shapes: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The object that a field holds, or a list of which it holds; a shape that holds itself is not unfolded."""
    mark = "[]" if field.get("type") == "array" else ""
    shape = _resolved(field.get("items", {}) if mark else field, shapes)
    return (shape, mark) if shape.get("properties") and "$ref" not in json.dumps(shape) else None


def _resolved(field: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = shapes.get(field.get("$ref", "").rpartition("/")[2], field)
    return found


def _type_of(field: dict[str, Any], shapes: dict[str, Any]) -> str:
    """A type with its limits, in words."""
    if "anyOf" in field:
        return " or ".join(_type_of(each, shapes) for each in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type_of(field.get('items', {}), shapes)}"
    shape = _resolved(field, shapes)
    if "enum" in shape:
        return " or ".join(f"`{each}`" for each in shape["enum"])
    limits = [words.format(shape[name]) for name, words in _LIMITS.items() if name in shape]
    return ", ".join([str(shape.get("type", "anything")), *limits])


_LIMITS = {
    "minimum": "at least {}", "maximum": "at most {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
}  # fmt: skip


def _default_of(field: dict[str, Any]) -> str:
    return f"default `{json.dumps(field['default'])}`" if "default" in field else ""


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings_table,
    "errors": errors_table,
    "permissions": permissions_table,
    "tools": tools_table,
}
