"""The people who run the platform: whether a stolen password would be enough."""

from urllib.parse import urlsplit

from django.conf import settings

from apps.auth import services as auth
from config.doctor.findings import Finding, set_variable

_LOCAL = ("127.0.0.1", "::1", "localhost")


def examine_second_factors() -> Finding:
    """Whether platform admins prove more than a password, where others than this machine can reach them."""
    bare = auth.count_unprotected_admins()
    if not bare:
        return Finding("second factors", "ok", "every platform admin has one")
    if settings.REQUIRE_SECOND_FACTOR:
        return Finding("second factors", "ok", f"demanded; {bare} platform admins set one up when they next sign in")
    alone = f"{bare} platform admins sign in with a password alone"
    if urlsplit(settings.PUBLIC_URL).hostname in _LOCAL:
        return Finding("second factors", "ok", f"{alone}; the address is this machine's own")
    why = f"{alone}: whoever steals it has the platform."
    return Finding("second factors", "note", why, set_variable("GATEHOUSE_REQUIRE_SECOND_FACTOR", "1"))
