"""The settings: what keeps them from being read, with a cure for each; and what is read but unsafe.

This runs before Django can: settings that are wrong are what it is for.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from config.doctor.findings import Finding, drop_variable, rename_variable, set_variable
from config.env import BASE_DIR, Env, SettingsError, env, given_in_file, variables

_PROBLEM = re.compile(r"^  ([A-Za-z0-9_]+): (.*)$", re.MULTILINE)
_MEANT = re.compile(r"Did you mean ([A-Z0-9_]+)\?")
_OTHERS_MAY_READ = 0o077
_LOCAL = ("127.0.0.1", "::1", "localhost")


def examine_settings() -> list[Finding]:
    """One line for each setting that is wrong, or one that says that all can be read."""
    try:
        found = env()
    except SettingsError as error:
        return [_finding(name, why) for name, why in _PROBLEM.findall(str(error))]
    return [Finding("settings", "ok", f"{found.env}, data in {found.data}"), *_unsafe(found)]


def _finding(name: str, why: str) -> Finding:
    return Finding(f"setting {name}", "wrong", why, _cure(name, why))


def _cure(name: str, why: str) -> str:
    meant = _MEANT.search(why)
    if meant:
        return rename_variable(name, meant[1])
    if "must be given in" in why:
        return _keep_in_file(name)
    if name == "GATEHOUSE_PUBLIC_URL" and "https" in why:
        return set_variable(name, f"https://{_public_host()}")
    if "cannot be used" in why:
        return set_variable(name, str(Path.home() / "gatehouse-data"))
    if "is spoilt" in why:
        path = shlex.quote(str(_data() / "secrets" / name.lower()))
        return f"cp BACKUP/{name.lower()} {path}  # without a backup, what it protects is lost: mv {path} {path}.spoilt"
    if f"{name}_FILE" in _all_given() and not _given(name):
        return drop_variable(f"{name}_FILE")
    return drop_variable(name)


def _keep_in_file(name: str) -> str:
    """Name the secret that the data folder has already, or make one there: what was sealed with it stays readable."""
    path = _data() / "secrets" / name.lower()
    naming = set_variable(f"{name}_FILE", str(path))
    if path.exists():
        return naming
    code = f"from config.env import new_secret; print(new_secret({name!r}))"
    folder, project, file = (shlex.quote(str(each)) for each in (path.parent, BASE_DIR, path))
    make = f"cd {project}; {shlex.quote(sys.executable)} -c {shlex.quote(code)} > {file}"
    return f"(umask 077; mkdir -p {folder}; {make}); {naming}"


def _unsafe(found: Env) -> Iterator[Finding]:
    """What holds, but should not stay."""
    open_files = [path for path in _secret_files(found.data) if path.stat().st_mode & _OTHERS_MAY_READ]
    if open_files:
        why = f"{len(open_files)} of the files and folders with secrets may be read by others on this machine."
        yield Finding("secret files", "wrong", why, f"chmod -R go-rwx {shlex.quote(str(found.data / 'secrets'))}")
    else:
        yield Finding("secret files", "ok", "for their owner alone")
    is_public = bool(found.public_url) and urlsplit(found.base_url).hostname not in _LOCAL
    if not found.is_production and is_public:
        why = f"GATEHOUSE_ENV is development, but {found.base_url} is an address for others: unsafe defaults hold."
        yield Finding("production", "note", why, set_variable("GATEHOUSE_ENV", "production"))
    if found.base_url.startswith("https://") and not found.trusted_proxies:
        why = (
            "The public address is https, so a proxy stands in front, but none is trusted: all callers seem to come"
            " from it, and the limits of one address hold for all of them."
        )
        yield Finding("proxies", "note", why, set_variable("GATEHOUSE_TRUSTED_PROXIES", "1"))


def _secret_files(data: Path) -> list[Path]:
    folder = data / "secrets"
    return [folder, *folder.iterdir()] if folder.is_dir() else []


def _data() -> Path:
    default = next(each["default"] for each in variables() if each["name"] == "GATEHOUSE_DATA")
    return Path(_given("GATEHOUSE_DATA") or default).absolute()


def _public_host() -> str:
    """The host that the public URL names already, or one to be replaced."""
    try:
        return urlsplit(_given("GATEHOUSE_PUBLIC_URL")).hostname or "gatehouse.example.com"
    except ValueError:
        return "gatehouse.example.com"


def _given(name: str) -> str:
    return _all_given().get(name, "")


def _all_given() -> dict[str, str]:
    return {**given_in_file(), **os.environ}
