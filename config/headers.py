"""The headers that tell a browser what an answer may do; no answer leaves without them, whichever door made it."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from django.conf import settings

Headers = list[tuple[bytes, bytes]]

ADMIN_PREFIX = "/admin/"
_CLOSED = "base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
_OWN = f"default-src 'none'; connect-src 'self'; font-src 'self'; form-action 'self'; img-src 'self' data:; {_CLOSED}"
# Unfold's Alpine evaluates expressions and sets styles on elements; nothing of this holds outside the admin.
_ADMIN = f"{_OWN}; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
# What is no page needs nothing at all: should a browser ever show it as one, nothing in it comes to life.
NO_PAGE = f"default-src 'none'; form-action 'none'; {_CLOSED}"
_UNUSED = "accelerometer camera display-capture geolocation gyroscope magnetometer microphone midi payment usb"

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED.split()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": NO_PAGE,
}
_ENCODED = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def policy_of_page(path: str, nonce: str) -> str:
    """What a page may load and run: files of ours, and what bears the nonce of this one answer."""
    if path.startswith(ADMIN_PREFIX):
        return _ADMIN
    return f"{_OWN}; script-src 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'"


def secured(scope: MutableMapping[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of an answer, and those of ours that it lacks."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return [*given, *(each for each in (*_ENCODED, *_transport(scope)) if each[0] not in names)]


def _transport(scope: MutableMapping[str, Any]) -> Headers:
    """Over https, the order to come back by nothing else; without it the order would mean nothing."""
    if not settings.SECURE_HSTS_SECONDS or not _is_https(scope):
        return []
    return [(b"strict-transport-security", f"max-age={settings.SECURE_HSTS_SECONDS}".encode())]


def _is_https(scope: MutableMapping[str, Any]) -> bool:
    """By the connection itself, or by what a proxy says that we were told to believe."""
    if not settings.TRUSTED_PROXIES:
        return bool(scope.get("scheme") == "https")
    return (b"x-forwarded-proto", b"https") in [(name, value.lower()) for name, value in scope["headers"]]
