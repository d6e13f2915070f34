"""Signing keys change while everybody stays signed in (AUTH-4; K07 for signing keys)."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.audit.models import Entry
from apps.auth import services
from apps.auth.services import signing
from apps.auth.services.signing import signing_key, verifying_keys
from apps.core.actor import system_actor
from apps.core.errors import NotPermitted
from apps.core.keyfiles import new_signing_key
from tests.auth.forge import client, knock, refused, sign_in
from tests.fixtures.servers import PROJECT
from tests.journeys.platform import Platform
from tests.live import Client
from tests.people import Person

ME, REFRESH = "/api/v1/auth/me", "/api/v1/auth/refresh"
OPERATOR = system_actor(surface="command")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, settings: Any) -> Path:
    """A key file of this test's own."""
    path = tmp_path / "gatehouse_signing_key"
    shutil.copy(settings.SIGNING_KEY_FILE, path)
    settings.SIGNING_KEY_FILE = path
    return path


def kid_of(token: str) -> str:
    """Which key signed it."""
    return str(jwt.get_unverified_header(token)["kid"])


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Moves the clock of the keys."""

    def move(by: timedelta) -> None:
        moment = timezone.now() + by
        monkeypatch.setattr(signing.timezone, "now", lambda: moment)

    return move


def test_old_tokens_open_and_are_refreshed_and_new_ones_have_the_new_key(alice: Person) -> None:
    before = sign_in(alice)

    call_command("signing_key_rotate", verbosity=0)

    after = client().post(REFRESH, {"refresh": before.refresh}, format="json").json()
    assert knock(before.access).status_code == knock(after["access"]).status_code == 200
    assert kid_of(after["access"]) == signing_key().kid != kid_of(before.access)


def test_both_keys_are_published_and_each_verifies_its_own_tokens(alice: Person) -> None:
    before = sign_in(alice).access
    services.rotate_signing_key(OPERATOR)
    after = sign_in(alice).access

    published = {key["kid"]: jwt.PyJWK(key) for key in client().get("/.well-known/jwks.json").json()["keys"]}

    assert len(published) == 2
    for token in (before, after):
        jwt.decode(token, published[kid_of(token)].key, algorithms=["RS256"], options={"verify_aud": False})


def test_a_key_name_with_the_signature_of_another_key_is_refused(alice: Person) -> None:
    token = sign_in(alice).access
    old = signing_key()
    services.rotate_signing_key(OPERATOR)
    claims = jwt.decode(token, options={"verify_signature": False})

    for signer, named in ((old, signing_key()), (signing_key(), old)):
        headers = {"kid": named.kid, "typ": "at+jwt"}
        assert refused(knock(jwt.encode(claims, signer.private, "RS256", headers=headers)))


def test_an_old_key_verifies_until_its_last_refresh_token_has_ended_and_no_longer(
    alice: Person, later: Any, settings: Any, kept: Path
) -> None:
    old = signing_key().kid
    services.rotate_signing_key(OPERATOR)

    later(settings.REFRESH_TOKEN_LIFETIME)
    assert services.prune_signing_keys() == []
    assert [key.kid for key in verifying_keys()] == [signing_key().kid, old]

    later(settings.REFRESH_TOKEN_LIFETIME + signing.GRACE)
    assert [key.kid for key in verifying_keys()] == [signing_key().kid]
    assert services.prune_signing_keys() == [old]
    assert kept.read_text().count("BEGIN PRIVATE KEY") == 1
    assert services.prune_signing_keys() == []


def test_several_rotations_keep_every_key_that_may_still_be_needed(alice: Person) -> None:
    tokens = []
    for _ in range(3):
        tokens.append(sign_in(alice).access)
        services.rotate_signing_key(OPERATOR)

    assert [knock(token).status_code for token in tokens] == [200, 200, 200]
    assert len(verifying_keys()) == len({key.kid for key in verifying_keys()}) == 4


def test_given_keys_the_first_signs_and_all_verify(alice: Person, settings: Any) -> None:
    old, new = new_signing_key(), new_signing_key()
    settings.SIGNING_KEY_FILE, settings.SIGNING_KEY = None, old
    before = sign_in(alice).access

    settings.SIGNING_KEY = old + new
    ahead = sign_in(alice).access
    settings.SIGNING_KEY = new + old

    assert knock(before).status_code == 200
    assert kid_of(ahead) == kid_of(before) != kid_of(sign_in(alice).access)
    settings.SIGNING_KEY = new
    services.raise_revision(alice.organization.id)
    assert refused(knock(before))


def test_given_keys_are_not_changed_by_the_command(db: None, settings: Any) -> None:
    settings.SIGNING_KEY_FILE = None

    with pytest.raises(CommandError, match="GATEHOUSE_SIGNING_KEY is given by the environment"):
        call_command("signing_key_rotate")


def test_only_platform_admins_rotate_and_the_journal_says_so(alice: Person, kept: Path) -> None:
    before = kept.read_text()
    with pytest.raises(NotPermitted):
        services.rotate_signing_key(alice.actor)
    assert kept.read_text() == before

    made = services.rotate_signing_key(OPERATOR)

    assert Entry.objects.get(action="signing_key.rotated").subject == f"signing_key:{made.kid}"


def test_the_file_stays_its_owners_alone_and_shows_nothing_spoilt(alice: Person, kept: Path) -> None:
    token = sign_in(alice).access
    services.rotate_signing_key(OPERATOR)
    assert {oct(path.stat().st_mode & 0o777) for path in kept.parent.iterdir()} == {"0o600"}

    kept.write_text("spoilt")

    assert knock(token).status_code == 200
    kept.unlink()
    assert knock(sign_in(alice).access).status_code == 200


# Under traffic, in processes of their own -------------------------------------------------------------------------

WATCHER = """
import sys, django; django.setup()
from django.conf import settings
from apps.auth.services.tokens import read_access_token
print("ready", flush=True)
for line in sys.stdin:
    try:
        read_access_token(line.strip(), audience=settings.REST_AUDIENCE)
        print("yes", flush=True)
    except Exception as error:
        print(repr(error), flush=True)
"""
KILLED = """
import os, pathlib, signal, sys, django; django.setup()
from django.core.management import call_command
replace = pathlib.Path.replace
def die(self, target):
    if sys.argv[1] == "after":
        replace(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = die
call_command("signing_key_rotate")
"""


class Traffic:
    """Callers of a platform that never stop: what they were answered, when it was not 200."""

    def __init__(self, platform: Platform, watcher: "subprocess.Popen[str]") -> None:
        self.platform, self.watcher = platform, watcher
        self.failures: list[str] = []
        self.served = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.pair = self.sign_in("owner")
        self._threads = [
            threading.Thread(target=self._ask), threading.Thread(target=self._refresh),
            threading.Thread(target=self._enter),
        ]  # fmt: skip

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def sign_in(self, role: str) -> dict[str, str]:
        """A fresh pair of tokens."""
        return self._note(Client(self.platform.url).post("/api/v1/auth/login", self.platform.account(role)))

    def _note(self, answer: Any) -> dict[str, str]:
        with self._lock:
            self.served += 1
            if answer.status != 200:
                self.failures.append(f"{answer.status} {answer.text}")
        found: dict[str, str] = answer.json()
        return found

    def _get(self, access: str) -> None:
        self._note(Client(self.platform.url, {"Authorization": f"Bearer {access}"}).get(ME))
        with self._lock:
            assert self.watcher.stdin and self.watcher.stdout
            self.watcher.stdin.write(f"{access}\n")
            self.watcher.stdin.flush()
            said = self.watcher.stdout.readline().strip()
            if said != "yes":
                self.failures.append(f"the other process: {said}")

    def _ask(self) -> None:
        while not self._stop.is_set():
            self._get(self.pair["access"])

    def _refresh(self) -> None:
        pair = self.sign_in("developer")
        while not self._stop.is_set():
            pair = self._note(Client(self.platform.url).post(REFRESH, {"refresh": pair["refresh"]}))
            self._get(pair["access"])
            time.sleep(0.05)

    def _enter(self) -> None:
        while not self._stop.is_set():
            self._get(self.sign_in("viewer")["access"])
            time.sleep(2)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform of its own."""
    with Platform(tmp_path / "data", "--no-demo") as running:
        running.provision()
        yield running


def python(platform: Platform, code: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """A process on the platform's data folder."""
    environment = {**platform.env, "DJANGO_SETTINGS_MODULE": "config.settings"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=PROJECT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.mark.slow_process
def test_under_traffic_no_request_fails_although_the_rotation_is_killed_half_way(platform: Platform) -> None:
    kept = platform.data / "secrets" / "gatehouse_signing_key"
    watcher = python(platform, WATCHER, stdin=subprocess.PIPE)
    assert watcher.stdout and watcher.stdout.readline() == "ready\n"

    with Traffic(platform, watcher) as traffic:
        first = kid_of(traffic.pair["access"])
        for moment, keys in (("before", 1), ("after", 2)):
            killed = python(platform, KILLED, moment)
            assert killed.wait(60) == -9, killed.communicate()
            assert kept.read_text().count("BEGIN PRIVATE KEY") == keys
            time.sleep(0.5)
        resumed = platform.manage("signing_key_rotate")
        time.sleep(1)
        newest = kid_of(traffic.sign_in("admin")["access"])
    watcher.kill()
    watcher.communicate()

    assert traffic.failures == []
    assert traffic.served > 20
    assert resumed.returncode == 0, resumed.stderr
    assert f"{newest} signs" in resumed.stdout and f"{first} verifies until" in resumed.stdout
    names = {path.name for path in kept.parent.iterdir() if "signing" in path.name}
    assert names == {"gatehouse_signing_key", "gatehouse_signing_key.lock"}
    assert kept.stat().st_mode & 0o777 == 0o600
