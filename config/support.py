"""The support bundle: what somebody who helps needs to know of an installation, and nothing that must stay hidden.

Three nets hold secrets back: what is secret is never read into it, every text passes the same redaction as the log,
and whatever this installation's own secret settings say is masked wherever it still stands.
"""

import io
import json
import os
import platform
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from apps.core.logs import REDACTED, redact
from config.doctor import examine
from config.doctor.parts import examine_database
from config.env import SECRET_VARIABLES, given_in_file, secret_texts, variables
from config.health import timed_checks

LOG_LINES = 2_000
LOG_BYTES = 2 * 1024**2
_SHORTEST_MASKED = 6
"""A password shorter than this would mask half of the bundle."""
_ABOUT = """What is in here, file by file. Read it before you hand it on; names of organisations and servers are in it.

settings.json    every setting that is given, or its default; secrets, and the arguments of commands, only as "given"
doctor.json      what `manage.py doctor` says
versions.json    of Gatehouse, Python, the database and every package
migrations.json  which are applied, which are missing
health.json      what /health says, with times
counts.json      how many rows each table has
log.txt          the last lines of the log, where there is a file of it
"""


def write_bundle(log: Path | None = None) -> bytes:
    """The zip; a part that cannot be told says why in its own file."""
    mask = masker()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("ABOUT.txt", _ABOUT)
        for name, tell in _PARTS.items():
            bundle.writestr(name, mask(json.dumps(_told(tell), indent=2, default=str)))
        if log is not None:
            bundle.writestr("log.txt", mask("\n".join(last_lines(log))))
    return content.getvalue()


def masker() -> Callable[[str], str]:
    """What hides this installation's own secrets in a text."""
    hidden = [text for text in secret_texts() if len(text) >= _SHORTEST_MASKED]
    # As they are, and as JSON writes them; the longest first, for one may be a part of another.
    written = {form for text in hidden for form in (text, json.dumps(text)[1:-1])}
    ordered = sorted(written, key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in ordered:
            text = text.replace(secret, REDACTED)
        return text

    return mask


def _told(tell: Callable[[], Any]) -> Any:
    if tell in _NEED_DATABASE and not examine_database().ok:
        return {"error": "This needs the database. doctor.json says what is wrong with it."}
    try:
        return redact(tell())
    except Exception as error:  # half a bundle helps more than none; what is wrong with it is in doctor.json
        return {"error": f"This could not be told: {type(error).__name__}."}


# The parts ---------------------------------------------------------------------------------------------------------


def describe_settings() -> list[dict[str, Any]]:
    """Every setting: where it comes from and, where that is no secret, its value."""
    file = given_in_file()
    return [
        {"setting": each["name"], "from": _source(each["name"], file), "is": _shown(each)} for each in variables()
    ]  # fmt: skip


def _source(name: str, file: dict[str, str]) -> str:
    for place, given in (("environment", os.environ), (".env", file)):
        if given.get(name):
            return place
        if given.get(f"{name}_FILE"):
            return f"a file that the {place} names"
    return "data folder" if name in settings.ENV.kept else "default"


def _shown(variable: Any) -> Any:
    value = getattr(settings.ENV, variable["field"])
    if variable["name"] in SECRET_VARIABLES:
        return "given" if value else "unset"
    if variable["name"] == "GATEHOUSE_STDIO_ALLOW":
        return [line.split(maxsplit=1)[0] for line in value]
    return value


def describe_findings() -> list[dict[str, Any]]:
    """What the doctor says, without the command lines that it repeats: their arguments may be secret."""
    left_out = "(left out: it repeats command lines)"
    return [
        {
            **asdict(each),
            "why": left_out if each.what == "stdio allowlist" and each.cure else each.why,
            "cure": left_out if "GATEHOUSE_STDIO_ALLOW" in each.cure else each.cure,
        }
        for each in examine()
    ]


def describe_versions() -> dict[str, Any]:
    """Of everything that runs here."""
    packages = {each.metadata["Name"]: each.version for each in distributions()}
    return {
        "gatehouse": settings.VERSION,
        "python": platform.python_version(),
        "system": platform.platform(),
        "database": connection.vendor,
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def describe_migrations() -> dict[str, Any]:
    """Which are applied, which are missing, and which this version does not know."""
    loader = MigrationLoader(connection)
    known, applied = set(loader.disk_migrations), set(loader.applied_migrations)
    groups = {"applied": known & applied, "missing": known - applied, "unknown": applied - known}
    return {name: [f"{app}.{each}" for app, each in sorted(found)] for name, found in groups.items()}


def describe_health() -> list[dict[str, Any]]:
    """What each check says, and how long it took."""
    return [{**asdict(timed.check), "ms": round(timed.ms, 2)} for timed in timed_checks()]


def count_rows() -> dict[str, Any]:
    """How many rows each table has."""
    return {model._meta.label: _told(model._base_manager.count) for model in apps.get_models()}


_PARTS: dict[str, Callable[[], Any]] = {
    "settings.json": describe_settings,
    "doctor.json": describe_findings,
    "versions.json": describe_versions,
    "migrations.json": describe_migrations,
    "health.json": describe_health,
    "counts.json": count_rows,
}
_NEED_DATABASE = (describe_migrations, describe_health, count_rows)


# The log -----------------------------------------------------------------------------------------------------------


def find_log() -> Path | None:
    """The newest log file of the data folder, if there is one: the log itself goes to standard error."""
    files = [path for path in settings.DATA_DIR.glob("**/*.log") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def last_lines(log: Path) -> Iterator[str]:
    """Its last lines, redacted as the log itself should have been."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        lines = deque(file.read(LOG_BYTES).decode("utf-8", "replace").splitlines(), maxlen=LOG_LINES)
    for line in lines:
        yield _redacted_line(line)


def _redacted_line(line: str) -> str:
    """A line of JSON by its names, any other by its look."""
    try:
        return json.dumps(redact(json.loads(line)))
    except (ValueError, RecursionError):
        return str(redact(line))


def bundle_name() -> str:
    """What the file is called unless it is named."""
    return f"gatehouse-support-{datetime.now(UTC):%Y%m%d-%H%M%S}.zip"
