"""Whether the time of a refusal tells what exists (A25, A29); writes its part of docs/benchmarks.md.

    .venv/bin/python benchmarks/timing.py                                          about five minutes
    .venv/bin/python benchmarks/timing.py --keys 500 --logins 50 --out /dev/null

Keys: 2,000 refusals of an existing look-up id with a wrong secret, against 2,000 of look-up ids that never were.
Logins: a wrong password for somebody who exists, against somebody unknown, switched off, or without a password. All
kinds take turns in random order, on a SQLite of their own inside one process, where nothing of a network hides a
difference. Compared is by Cliff's delta: how much more often one kind takes longer than the other than the reverse.
Beyond ±0.15 a difference could be told. The control is the same code with a short cut for what does not exist: it must
reach 0.3, else the measurement sees nothing.
"""

import argparse
import gc
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROJECT = Path(__file__).parent.parent
BEGIN, END = "<!-- timing: from here -->", "<!-- timing: to here -->"
MOST, LEAST_OF_CONTROL = 0.15, 0.3
KEY_SAMPLES, LOGIN_SAMPLES = 2000, 300
CONTROL_SAMPLES = 100
WARM_UP = 10
WRONG = "a wrong guess"

Attempt = Callable[[], Callable[[], object]]
"""Prepares, untimed, what is then done and timed."""
Timings = dict[str, list[float]]


def set_up(folder: str) -> None:
    """Django on an empty database of its own."""
    sys.path.insert(0, str(PROJECT))
    os.environ.update(DJANGO_SETTINGS_MODULE="config.settings", GATEHOUSE_DATA=folder, GATEHOUSE_LOG_LEVEL="error")
    for name in ("DATABASE_URL", "REDIS_URL", "BROKER_URL"):
        os.environ.pop(name, None)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def cliffs_delta(one: list[float], other: list[float]) -> float:
    """How much more often `one` is the greater than the less: between -1 and 1, 0 where nothing can be told."""
    ordered = sorted(other)
    above = sum(bisect_left(ordered, each) for each in one)
    below = sum(len(ordered) - bisect_right(ordered, each) for each in one)
    return (above - below) / (len(one) * len(other))


def timed(attempts: dict[str, Attempt], samples: int) -> Timings:
    """Milliseconds of each attempt, all kinds in turns and in random order."""
    found: Timings = {name: [] for name in attempts}
    gc.collect()
    gc.disable()
    try:
        for number in range(samples + WARM_UP):
            for name in random.sample(sorted(attempts), len(attempts)):
                attempt = attempts[name]()
                began = time.perf_counter()
                with suppress(Exception):
                    attempt()
                taken = (time.perf_counter() - began) * 1000
                if number >= WARM_UP:
                    found[name].append(taken)
    finally:
        gc.enable()
    return found


# Keys -------------------------------------------------------------------------------------------------------------


def key_attempts() -> dict[str, Attempt]:
    """Refused keys whose checksums are right: of many that exist one is tried, or one that never was."""
    from apps.auth.models import ApiKey
    from apps.auth.services import keys
    from tests.factories.auth import ApiKeyFactory, OrganizationFactory

    organization = OrganizationFactory()
    lookups = [ApiKeyFactory(organization=organization).lookup for _ in range(200)]
    assert ApiKey.objects.count() == len(lookups)

    def refused(lookup: str) -> Callable[[], object]:
        secret = keys._random(keys.SECRET_LENGTH)
        credential = f"gate_{lookup}_{secret}{keys._checksum(lookup, secret)}"
        return lambda: keys.find_key(credential)

    return {
        "exists": lambda: refused(random.choice(lookups)),
        "never was": lambda: refused(keys._random(keys.LOOKUP_LENGTH)),
    }


@contextmanager
def keys_with_a_short_cut() -> Iterator[None]:
    """The control: what is not found is refused at once, without the hash."""
    from apps.auth.models import ApiKey
    from apps.auth.services import keys
    from apps.core.errors import NotAuthenticated

    careful = keys.find_key

    def hasty(credential: str) -> ApiKey:
        if not ApiKey.objects.filter(lookup=credential.split("_")[1]).exists():
            raise NotAuthenticated
        return careful(credential)

    keys.find_key = hasty
    try:
        yield
    finally:
        keys.find_key = careful


# Logins -----------------------------------------------------------------------------------------------------------


def login_attempts() -> dict[str, Attempt]:
    """Wrong passwords, each from another network, so that no lock-out shortens them."""
    from apps.auth.services import passwords
    from tests.factories.auth import UserFactory

    UserFactory(email="alice@acme.example", password=secrets.token_hex())
    UserFactory(email="ivan@acme.example", password=secrets.token_hex(), is_active=False)
    UserFactory(email="later@acme.example")

    def refused(email: str) -> Callable[[], object]:
        address = f"2001:db8:{random.getrandbits(16):x}:{random.getrandbits(16):x}::1"
        return lambda: passwords.verify_password(email=email, password=WRONG, address=address)

    return {
        "exists": lambda: refused("alice@acme.example"),
        "never was": lambda: refused(f"{secrets.token_hex(4)}@acme.example"),
        "switched off": lambda: refused("ivan@acme.example"),
        "no password": lambda: refused("later@acme.example"),
    }


@contextmanager
def logins_with_a_short_cut() -> Iterator[None]:
    """The control: nobody's password is not hashed."""
    from apps.auth.models import User
    from apps.auth.services import passwords

    careful = passwords._is_right

    def hasty(user: User | None, password: str) -> bool:
        return user is not None and careful(user, password)

    passwords._is_right = hasty
    try:
        yield
    finally:
        passwords._is_right = careful


# The page ---------------------------------------------------------------------------------------------------------


def rows(what: str, timings: Timings, control: Timings) -> Iterator[tuple[str, bool]]:
    """A line of the table for each kind beside `exists`, and whether it is as promised; the control's last."""
    for name in list(timings)[1:]:
        text, delta = line(f"{what} | {name}", timings[name], timings["exists"])
        yield f"{text} at most ±{MOST} |", abs(delta) < MOST
    text, delta = line(f"{what}, with a short cut | never was", control["never was"], control["exists"])
    yield f"{text} beyond ±{LEAST_OF_CONTROL} |", abs(delta) >= LEAST_OF_CONTROL


def line(what: str, found: list[float], known: list[float]) -> tuple[str, float]:
    """A line of the table up to what is promised, and Cliff's delta."""
    delta = cliffs_delta(found, known)
    medians = f"{statistics.median(found):.3f} | {statistics.median(known):.3f}"
    return f"| {what} | {len(found)} | {medians} | {delta:+.3f} |", delta


def page(told: list[tuple[str, bool]]) -> str:
    """This part of docs/benchmarks.md."""
    table = "\n".join(f"{text} {'yes' if holds else 'NO'} |" for text, holds in told)
    return f"""{BEGIN}

## What the time of a refusal tells

Written by `benchmarks/timing.py`, inside one process on SQLite: an API key with a right checksum and a wrong secret,
and a login with a wrong password, for what exists and for what does not. Delta is Cliff's: how much more often what
does not exist takes longer than the reverse. The control is the same code with a short cut for what does not exist.
The milliseconds are those of whatever else the machine did; delta compares both kinds under the same load.

| refused | that | samples of each | median ms | of one that exists | delta | promised | holds |
|---|---|---|---|---|---|---|---|
{table}

{END}"""


def write(path: Path, part: str) -> None:
    """Put the part in its place on the page."""
    text = path.read_text() if path.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{part}{after}" if begin else f"{text.rstrip()}\n\n{part}\n")


def main() -> int:
    """Measure, write, and end with status 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=KEY_SAMPLES)
    parser.add_argument("--logins", type=int, default=LOGIN_SAMPLES)
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "benchmarks.md")
    given = parser.parse_args()
    told: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        set_up(folder)
        for what, attempts, short_cut, samples in (
            ("API key", key_attempts(), keys_with_a_short_cut, given.keys),
            ("login", login_attempts(), logins_with_a_short_cut, given.logins),
        ):
            careful = timed(attempts, samples)
            with short_cut():
                hasty = timed({name: attempts[name] for name in ("exists", "never was")}, min(samples, CONTROL_SAMPLES))
            told += rows(what, careful, hasty)
    part = page(told)
    print(part)
    if given.out != Path(os.devnull):
        write(given.out, part)
    return 0 if all(holds for _, holds in told) else 1


if __name__ == "__main__":
    sys.exit(main())
