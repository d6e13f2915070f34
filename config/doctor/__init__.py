"""What `manage.py doctor` looks at, in the order in which one thing needs another."""

from collections.abc import Callable, Iterable, Sequence

from config.doctor.environment import examine_settings
from config.doctor.findings import Finding, as_json, as_text

__all__ = ["Finding", "as_json", "as_text", "examine", "examine_settings"]

_NEED_SETTINGS = ("disk", "database", "migrations", "cache", "broker", "worker", "servers", "allowlists")
_NEED_DATABASE = ("migrations", "clock", "worker", "servers", "allowlists")


def examine(*, check: bool = False) -> list[Finding]:
    """Everything that can be looked at; what a fault hides is named as skipped."""
    findings = examine_settings()
    if not all(each.ok for each in findings if each.what.startswith("setting ")):
        return [*findings, *_skipped(_NEED_SETTINGS, "needs the settings")]
    from config.doctor import parts

    findings += [_guarded("disk", parts.examine_disk), parts.examine_cache(), parts.examine_broker()]
    database = parts.examine_database()
    findings.append(database)
    if not database.ok:
        return [*findings, *_skipped(_NEED_DATABASE, "needs the database")]
    migrations = parts.examine_migrations()
    findings += [migrations, parts.examine_clock()]
    if not migrations.ok:
        return [*findings, *_skipped(_NEED_DATABASE[2:], "needs the migrations")]
    return [*findings, *_rows(check=check)]


def _rows(*, check: bool) -> Iterable[Finding]:
    from config.doctor import parts, upstreams

    if check:
        upstreams.check_now()
    yield from parts.examine_schedule()
    yield from upstreams.examine_servers()
    yield from upstreams.examine_lists()


def _guarded(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except OSError as error:
        return Finding(what, "wrong", f"It cannot be looked at: {error.strerror}.", "export GATEHOUSE_DATA=/A/FOLDER")


def _skipped(names: Sequence[str], why: str) -> list[Finding]:
    return [Finding(name, "skipped", why) for name in names]
