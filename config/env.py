"""Every environment variable: typed, defaulted, one sentence each, checked before anything starts.

Values come from the environment, then from `.env` beside manage.py. A secret may also come from a file named by the
same variable with `_FILE` at its end. What must be secret and is not given is made at the first start and kept in the
data folder, readable by its owner alone; in production it must be given.
"""

import difflib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from dataclasses import field as dataclass_field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

from apps.core.keyfiles import new_sealing_key, new_signing_key, parse_sealing_keys, parse_signing_keys
from config import kinds

BASE_DIR = Path(__file__).resolve().parent.parent
_OURS = re.compile(r"^(GATEHOUSE_|DATABASE_|REDIS_|BROKER_|UPSTREAM_|BREAKER_|SEALING_|JOURNAL_|SIGNING_|KEY_)")
_LOOKS_MISSPELT = 0.86


class SettingsError(Exception):
    """A setting is wrong or missing; the message names the variable and the cure."""


def _make_secret() -> str:
    return secrets.token_urlsafe(48)


def _variable(
    name: str, about: str, parse: Callable[[str], Any] = kinds.text, default: str | None = None, *,
    made_by: Callable[[], str] | None = None,
) -> Any:  # fmt: skip
    return dataclass_field(metadata={"name": name, "about": about, "parse": parse, "default": default, "make": made_by})


@dataclass(frozen=True, slots=True)
class Env:
    """The settings of this installation. A default of None means: unset."""

    data: Path = _variable(
        "GATEHOUSE_DATA", "The folder for the embedded database, files and secrets.", Path, str(BASE_DIR / "data")
    )
    host: str = _variable("GATEHOUSE_HOST", "The address that `up` listens on.", kinds.text, "127.0.0.1")
    port: int = _variable("GATEHOUSE_PORT", "The port that `up` listens on.", kinds.port, "8000")
    env: str = _variable(
        "GATEHOUSE_ENV",
        "development, staging or production; the last two refuse unsafe defaults.",
        kinds.choice("development", "staging", "production"),
        "development",
    )
    dev: bool = _variable("GATEHOUSE_DEV", "1 for the development server with reload and full traces.", kinds.flag, "0")
    public_url: str | None = _variable(
        "GATEHOUSE_PUBLIC_URL",
        "Where users reach this installation; unset: http://127.0.0.1:PORT.",
        kinds.url("http", "https"),
    )
    allowed_hosts: tuple[str, ...] = _variable(
        "GATEHOUSE_ALLOWED_HOSTS", "More host names to answer to, besides that of the public URL.", kinds.words, ""
    )
    trusted_proxies: int = _variable(
        "GATEHOUSE_TRUSTED_PROXIES",
        "How many reverse proxies in front may be believed about the caller's address.",
        kinds.integer,
        "0",
    )
    egress_allow: tuple[str, ...] = _variable(
        "GATEHOUSE_EGRESS_ALLOW",
        "host:port pairs, by commas, that may be called although they are private or on an unusual port.",
        kinds.host_ports,
        "",
    )
    stdio_allow: tuple[str, ...] = _variable(
        "GATEHOUSE_STDIO_ALLOW",
        "Whole command lines, by semicolons, that stdio servers may run; * may end an argument.",
        kinds.lines,
        "",
    )
    key: str | None = _variable("GATEHOUSE_KEY", "The API key that `mcp stdio` acts with.")
    require_second_factor: bool = _variable(
        "GATEHOUSE_REQUIRE_SECOND_FACTOR",
        "1: owners, admins and platform admins need a second factor, which the control room sets up with them.",
        kinds.flag,
        "0",
    )
    confirm_seconds: float = _variable(
        "GATEHOUSE_CONFIRM_SECONDS",
        "For how long staff need not prove again that it is them before they touch keys, secrets and rights.",
        kinds.seconds,
        "600",
    )
    log_level: str = _variable(
        "GATEHOUSE_LOG_LEVEL",
        "debug, info, warning or error.",
        kinds.choice("debug", "info", "warning", "error"),
        "info",
    )
    web_threads: int = _variable(
        "GATEHOUSE_WEB_THREADS",
        "Threads for synchronous work in a web process; each may hold a database connection.",
        kinds.count,
        "8",
    )
    mcp_sse: bool = _variable(
        "GATEHOUSE_MCP_SSE",
        "1: agents may also use HTTP+SSE, the transport of 2024, at /mcp/sse and /mcp/{slug}/sse.",
        kinds.flag,
        "0",
    )
    max_body_bytes: int = _variable(
        "GATEHOUSE_MAX_BODY_BYTES", "The longest request body that is read, in bytes.", kinds.integer, "4194304"
    )
    database_url: str | None = _variable(
        "DATABASE_URL",
        "postgres://user:password@host:port/name; unset: SQLite in the data folder.",
        kinds.url("postgres", "postgresql", "sqlite"),
    )
    database_statement_seconds: float = _variable(
        "DATABASE_STATEMENT_SECONDS",
        "After how long PostgreSQL ends a statement; whoever waits for it is told to come back.",
        kinds.seconds,
        "30",
    )
    redis_url: str | None = _variable(
        "REDIS_URL", "redis://host:port/number; unset: an in-process cache.", kinds.url("redis", "rediss")
    )
    broker_url: str | None = _variable(
        "BROKER_URL",
        "amqp://… or redis://…; unset: jobs run inside this process.",
        kinds.url("amqp", "amqps", "redis", "rediss"),
    )
    job_lease_seconds: float = _variable(
        "GATEHOUSE_JOB_LEASE_SECONDS",
        "How long a running job may give no sign of life before another worker takes it over.",
        kinds.seconds,
        "30",
    )
    jobs_per_organization: int = _variable(
        "GATEHOUSE_JOBS_PER_ORGANIZATION",
        "How many jobs of one organisation run at once; keep it below the number of all workers' threads or processes.",
        kinds.count,
        "2",
    )
    queue: str = _variable(
        "GATEHOUSE_QUEUE",
        "The name of the queue at the broker; installations that share a broker need one each.",
        kinds.name,
        "gatehouse",
    )
    worker_processes: int = _variable(
        "GATEHOUSE_WORKER_PROCESSES",
        "How many jobs a process of the role worker runs at once, each in a child process.",
        kinds.count,
        "2",
    )
    start_seconds: float = _variable(
        "GATEHOUSE_START_SECONDS",
        "How long a start waits for a database, a broker or a Redis that does not answer.",
        kinds.seconds,
        "30",
    )
    upstream_timeout_seconds: float = _variable(
        "UPSTREAM_TIMEOUT_SECONDS", "How long a call to an upstream may take.", kinds.seconds, "30"
    )
    breaker_failures: int = _variable(
        "BREAKER_FAILURES", "Failures in a row after which a server is not called any more.", kinds.integer, "5"
    )
    breaker_open_seconds: float = _variable(
        "BREAKER_OPEN_SECONDS",
        "How long a failed server is left alone before one call probes it.",
        kinds.seconds,
        "10",
    )
    upstream_max_result_bytes: int = _variable(
        "UPSTREAM_MAX_RESULT_BYTES",
        "The largest answer of an upstream that is passed on, in bytes.",
        kinds.integer,
        "10485760",
    )
    upstream_max_held_bytes: int = _variable(
        "UPSTREAM_MAX_HELD_BYTES",
        "How many bytes of large answers this process holds at once, on their way to agents; one organisation half.",
        kinds.count,
        "67108864",
    )
    stdio_max_processes: int = _variable(
        "GATEHOUSE_STDIO_MAX_PROCESSES",
        "How many stdio children may run at once in this process.",
        kinds.integer,
        "20",
    )
    stdio_idle_seconds: float = _variable(
        "GATEHOUSE_STDIO_IDLE_SECONDS", "After how long without a call a stdio child is stopped.", kinds.seconds, "300"
    )
    secret_key: str = _variable(
        "GATEHOUSE_SECRET_KEY", "Signs cookies and forms; 32 characters or more.", kinds.secret, made_by=_make_secret
    )
    key_pepper: str = _variable(
        "GATEHOUSE_KEY_PEPPER",
        "Keys the hashes of API keys; 32 characters or more.",
        kinds.secret,
        made_by=_make_secret,
    )
    journal_key: str = _variable(
        "GATEHOUSE_JOURNAL_KEY",
        "Keys the chain of the journal; 32 characters or more.",
        kinds.secret,
        made_by=_make_secret,
    )
    sealing_keys: dict[int, bytes] = _variable(
        "GATEHOUSE_SEALING_KEYS",
        "Keys that seal secrets, number:base64 of 32 bytes, by commas; the highest number seals.",
        parse_sealing_keys,
        made_by=lambda: new_sealing_key(1),
    )
    signing_key: str = _variable(
        "GATEHOUSE_SIGNING_KEY",
        "RSA private keys in PEM, one after the other: the first signs tokens, the others only verify them.",
        parse_signing_keys,
        made_by=new_signing_key,
    )
    kept: dict[str, Path] = dataclass_field(default_factory=dict)
    """The files of those secrets that were not given, by the name of their variable."""

    @property
    def is_production(self) -> bool:
        """Whether unsafe defaults are refused."""
        return self.env != "development"

    @property
    def base_url(self) -> str:
        """Where users reach this installation."""
        return self.public_url or f"http://127.0.0.1:{self.port}"


SECRET_VARIABLES = frozenset({
    "GATEHOUSE_SECRET_KEY", "GATEHOUSE_KEY_PEPPER", "GATEHOUSE_JOURNAL_KEY", "GATEHOUSE_SEALING_KEYS",
    "GATEHOUSE_SIGNING_KEY", "GATEHOUSE_KEY", "DATABASE_URL", "REDIS_URL", "BROKER_URL",
})  # fmt: skip


def variables() -> Iterator[Mapping[str, Any]]:
    """Name, meaning, parser and default of every variable, in order."""
    for each in fields(Env):
        if each.metadata:
            yield {"field": each.name, **each.metadata}


@cache
def env() -> Env:
    """Read and check everything once; raises SettingsError naming each variable that is wrong."""
    return read({**given_in_file(), **os.environ})


def given_in_file() -> dict[str, str]:
    """What `.env` beside manage.py says; the environment goes before it."""
    return {name: value for name, value in dotenv_values(BASE_DIR / ".env").items() if value is not None}


def new_secret(name: str) -> str:
    """A fresh value for a variable that must be secret."""
    make = next(each["make"] for each in variables() if each["name"] == name)
    return str(make())


def secret_texts() -> set[str]:
    """Every secret of this installation's settings as it is written, and the passwords inside its addresses."""
    given, texts = {**given_in_file(), **os.environ}, set[str]()
    for name in SECRET_VARIABLES:
        kept = env().data / "secrets" / name.lower()
        text = _given_text(given, name) or (kept.read_text(encoding="utf-8") if kept.exists() else "")
        parts = urlsplit(text) if name.endswith("_URL") else None
        password = (parts.password or "") if parts else ""
        values = text.split(",") if name == "GATEHOUSE_SEALING_KEYS" else [text]
        texts.update({password, unquote(password), text, *values, *(each.partition(":")[2] for each in values)})
        texts.update(line for line in text.splitlines() if not line.startswith("-----"))
    return {text.strip() for text in texts if text.strip()}


def read(given: Mapping[str, str]) -> Env:
    """The settings out of a mapping; raises SettingsError naming each variable that is wrong."""
    problems = _misspelt(given)
    values: dict[str, Any] = {}
    to_make: list[Mapping[str, Any]] = []
    for variable in variables():
        name, parse, default = variable["name"], variable["parse"], variable["default"]
        try:
            text = _given_text(given, name)
            if text is None and variable["make"]:
                to_make.append(variable)
                continue
            text = default if text is None else text
            values[variable["field"]] = None if text is None else parse(text)
        except (ValueError, OSError) as error:
            problems.append(f"{name}: {error}. {variable['about']}")
    if not problems:
        problems = _unsafe(values, to_make)
    if problems:
        raise SettingsError("\n".join(f"  {problem}" for problem in problems))
    for variable in to_make:
        values[variable["field"]] = _kept_value(values["data"], variable)
    kept = {variable["name"]: _kept_path(values["data"], variable["name"]) for variable in to_make}
    return Env(**values, kept=kept)


def _given_text(given: Mapping[str, str], name: str) -> str | None:
    path = given.get(f"{name}_FILE")
    if path and given.get(name):
        raise ValueError(f"{name} and {name}_FILE are both set; keep one")
    if path:
        return Path(path).read_text(encoding="utf-8").strip()
    return given.get(name) or None


def _misspelt(given: Mapping[str, str]) -> list[str]:
    """Unknown names that look like ours: a silent typo is a setting that does not hold."""
    known = [variable["name"] for variable in variables()]
    accepted = {*known, *(f"{name}_FILE" for name in known)}
    problems = []
    for name in sorted(set(given) - accepted):
        near = _near(name.upper(), known)
        if name.startswith("GATEHOUSE_") or near:
            hint = f" Did you mean {near[0]}?" if near else " See docs/reference/settings.md for the names that exist."
            problems.append(f"{name}: there is no such setting.{hint}")
    return problems


def _near(name: str, known: list[str]) -> list[str]:
    """What was meant: a name that looks much the same, or goes on where this one ends."""
    goes_on = [each for each in known if "_" in name and each.startswith(f"{name}_")]
    return difflib.get_close_matches(name, known, n=1, cutoff=_LOOKS_MISSPELT) or goes_on


def _unsafe(values: Mapping[str, Any], to_make: list[Mapping[str, Any]]) -> list[str]:
    """What production mode refuses."""
    if values["env"] == "development":
        return []
    problems = [
        f"{variable['name']}: must be given in {values['env']}, also as {variable['name']}_FILE. {variable['about']}"
        for variable in to_make
    ]
    if not (values["public_url"] or "").startswith("https://"):
        problems.append("GATEHOUSE_PUBLIC_URL: must start with https:// outside development.")
    if "*" in values["allowed_hosts"]:
        problems.append("GATEHOUSE_ALLOWED_HOSTS: * would answer to any name; list the names.")
    if values["dev"]:
        problems.append("GATEHOUSE_DEV: must not be 1 outside development; it shows traces to visitors.")
    return problems


def _kept_value(data: Path, variable: Mapping[str, Any]) -> Any:
    """A secret out of the data folder, checked like one that was given."""
    try:
        return variable["parse"](_kept(data, variable["name"], variable["make"]))
    except ValueError as error:
        path = _kept_path(data, variable["name"])
        raise SettingsError(
            f"  {variable['name']}: what {path} holds is spoilt: {error}. Restore it from a backup."
        ) from error


def _kept_path(data: Path, name: str) -> Path:
    return data / "secrets" / name.lower()


def _kept(data: Path, name: str, make: Callable[[], str]) -> str:
    """A secret from the data folder, made there when it is missing; two processes starting at once agree on one."""
    path = _kept_path(data, name)
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            draft = folder / f".{name.lower()}.{os.getpid()}"
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(make())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"  GATEHOUSE_DATA: {folder} cannot be used ({error.strerror}). Choose a folder that can be written."
        ) from error
