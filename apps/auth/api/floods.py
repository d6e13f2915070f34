"""A coarse limit for addresses that ask for a login over and over; the lock-out behind it is the exact one."""

import logging

from django_ratelimit.core import is_ratelimited
from rest_framework.request import Request

from apps.auth.authentication import address_of
from apps.core.errors import RateLimited

logger = logging.getLogger(__name__)
LOGIN_RATE = "300/m"
RETRY_SECONDS = 60


def refuse_floods(request: Request) -> None:
    """Raise RateLimited for an address beyond LOGIN_RATE. A cache that is down limits nobody."""
    try:
        address = address_of(request) or "nowhere"
        plain = request._request
        flooded = is_ratelimited(plain, group="login", key=lambda *_: address, rate=LOGIN_RATE, increment=True)
    except Exception:  # each cache backend raises errors of its own
        logger.warning("The cache does not answer; logins are limited by the lock-out alone.", exc_info=True)
        return
    if flooded:
        raise RateLimited(
            "Too many logins from this address. Try again in a minute.", details={"retry_after": RETRY_SECONDS}
        )
