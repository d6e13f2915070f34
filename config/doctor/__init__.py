"""What `manage.py doctor` looks at, in the order in which one thing needs another."""

from collections.abc import Callable, Iterator, Sequence

from config.doctor.environment import examine_settings
from config.doctor.findings import Finding, as_json, as_text, manage

__all__ = ["Finding", "as_json", "as_text", "examine", "examine_settings"]

_NEED_TABLES = ("sealing keys", "second factors", "worker", "servers", "allowlists")
_NEED_DATABASE = ("migrations", "clock", *_NEED_TABLES)
_NEED_SETTINGS = ("disk", "port", "cache", "broker", "database", *_NEED_DATABASE)


def examine(*, check: bool = False) -> list[Finding]:
    """Everything that can be looked at; what a fault hides is named as skipped."""
    findings = examine_settings()
    if not all(each.ok for each in findings if each.what.startswith("setting ")):
        return [*findings, *_skipped(_NEED_SETTINGS, "needs the settings")]
    from config.doctor import parts, port

    findings += _guarded("disk", parts.examine_disk)
    findings += _guarded("port", port.examine_port)
    findings += _guarded("cache", parts.examine_cache)
    findings += _guarded("broker", parts.examine_broker)
    database = _guarded("database", parts.examine_database)
    findings += database
    if not database[0].ok:
        return [*findings, *_skipped(_NEED_DATABASE, "needs the database")]
    migrations = _guarded("migrations", parts.examine_migrations)
    findings += [*migrations, *_guarded("clock", parts.examine_clock)]
    if not migrations[0].ok:
        return [*findings, *_skipped(_NEED_TABLES, "needs the migrations")]
    return [*findings, *_rows(check=check)]


def _rows(*, check: bool) -> Iterator[Finding]:
    from config.doctor import parts, people, upstreams

    if check:
        upstreams.check_now()
    yield from _guarded("sealing keys", parts.examine_sealing_keys)
    yield from _guarded("second factors", people.examine_second_factors)
    yield from _guarded("worker", parts.examine_schedule)
    yield from _guarded("servers", upstreams.examine_servers)
    yield from _guarded("allowlists", upstreams.examine_lists)


def _guarded(what: str, look: Callable[[], Finding | Iterator[Finding]]) -> list[Finding]:
    """What an examination finds; one that fails is itself a finding, and hides none of the others."""
    try:
        found = look()
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:
        why = f"Looking at it failed: {type(error).__name__}. This shows more."
        return [Finding(what, "wrong", why, manage("check", "--traceback"))]


def _skipped(names: Sequence[str], why: str) -> list[Finding]:
    return [Finding(name, "skipped", why) for name in names]
