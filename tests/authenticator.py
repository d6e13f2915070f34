"""An authenticator app: it knows a seed, and shows the code of a moment."""

import base64
import hmac
import struct
import time
from dataclasses import dataclass

from apps.auth import services as auth
from apps.auth.models import SecondFactor
from tests.people import Person


@dataclass(frozen=True)
class Authenticator:
    """Written from RFC 4226 and 6238, not from the library that the platform checks with."""

    seed: str

    def code(self, *, seconds_from_now: float = 0) -> str:
        """Six digits."""
        counter = int((time.time() + seconds_from_now) // 30)
        digest = hmac.digest(base64.b32decode(self.seed), struct.pack(">Q", counter), "sha1")
        place = digest[-1] & 15
        number = int.from_bytes(digest[place : place + 4], "big") & 0x7FFFFFFF
        return f"{number % 1_000_000:06d}"

    def wrong(self) -> str:
        """A code of no moment near now."""
        near = {self.code(seconds_from_now=30 * steps) for steps in range(-4, 5)}
        return next(code for code in ("000000", "111111", "222222", "333333") if code not in near)


def enrol(person: Person) -> tuple[Authenticator, list[str]]:
    """Set up a second factor, as long ago as makes the code of now a fresh one."""
    begun = auth.begin_second_factor(person.actor)
    authenticator = Authenticator(begun.seed)
    codes = auth.confirm_second_factor(person.actor, code=authenticator.code())
    SecondFactor.objects.filter(user=person.user).update(last_step=0)
    person.user.refresh_from_db()
    return authenticator, codes
