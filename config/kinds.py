"""The kinds of values that environment variables have: each function reads one, or raises ValueError saying why not."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

SHORTEST_SECRET = 32
PORTS = 65536


def text(value: str) -> str:
    """Any text."""
    return value


def integer(value: str) -> int:
    """A whole number of up to nine digits."""
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError("a whole number is needed")
    return int(value)


def count(value: str) -> int:
    """A whole number, at least 1."""
    number = integer(value)
    if number == 0:
        raise ValueError("at least 1 is needed")
    return number


def name(value: str) -> str:
    """A name that every broker takes."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,60}", value):
        raise ValueError("up to 60 letters, digits, dots, hyphens and underscores are needed")
    return value


def seconds(value: str) -> float:
    """A positive number of seconds."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", value) or float(value) <= 0:
        raise ValueError("a positive number of seconds is needed, such as 30 or 0.5")
    return float(value)


def flag(value: str) -> bool:
    """Yes or no, in any of the usual words."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.lower() not in words:
        raise ValueError("1 or 0 is needed")
    return words[value.lower()]


def words(value: str) -> tuple[str, ...]:
    """Several, with commas between them."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def lines(value: str) -> tuple[str, ...]:
    """Several, with semicolons or ends of lines between them."""
    return tuple(part.strip() for part in re.split(r"[\n;]", value) if part.strip())


def port(value: str) -> int:
    """A port."""
    number = integer(value)
    if not 0 < number < PORTS:
        raise ValueError("a port between 1 and 65535 is needed")
    return number


def choice(*allowed: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} is needed")
        return value

    return parse


def url(*schemes: str) -> Callable[[str], str]:
    """A URL with one of these schemes, without a slash at its end."""

    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.hostname or parts.scheme in ("sqlite", "memory")):
            raise ValueError(f"a URL that starts with {' or '.join(scheme + '://' for scheme in schemes)} is needed")
        try:
            _ = parts.port
        except ValueError as error:  # its own words would repeat a part of the password
            raise ValueError(
                "its port is no number; write / ? # @ and : in a user or password as %2F %3F %23 %40 and %3A"
            ) from error
        return value.rstrip("/")

    return parse


def host_ports(value: str) -> tuple[str, ...]:
    """Several of host:port, with commas between them."""
    entries = words(value)
    for entry in entries:
        host, _, port = entry.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < PORTS:
            raise ValueError(f"host:port is needed, not {entry!r}")
    return tuple(entry.lower() for entry in entries)


def secret(value: str) -> str:
    """A secret that is long enough."""
    if len(value) < SHORTEST_SECRET:
        raise ValueError(f"at least {SHORTEST_SECRET} characters are needed")
    return value
