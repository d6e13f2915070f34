"""Signing keys change while everybody stays signed in (AUTH-4); under traffic: journeys/test_two_webs."""

import shutil
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
from tests.people import Person

REFRESH = "/api/v1/auth/refresh"
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
