"""The keys that sign tokens: the newest signs, older ones verify until the last token that they signed has ended."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from jwt.algorithms import RSAAlgorithm

from apps.audit import services as audit
from apps.core.actor import Actor, system_actor
from apps.core.errors import Conflict
from apps.core.keyfiles import KeyFile, new_signing_key, split_signing_keys

ALGORITHM = "RS256"
# A process may have taken the old key a moment before the new one came; clocks of machines differ a little.
GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its public half and its name: the RFC 7638 thumbprint."""

    pem: str
    private: RSAPrivateKey
    public: RSAPublicKey
    kid: str
    signed_until: datetime | None = None

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half as others fetch it."""
        return {**_required_members(self.public), "use": "sig", "alg": ALGORITHM, "kid": self.kid}

    @property
    def ends_at(self) -> datetime | None:
        """When the last token that it signed has ended; None while it signs, or where nobody wrote down since when."""
        leeway = timedelta(seconds=settings.TOKEN_LEEWAY_SECONDS)
        longest = max(settings.REFRESH_TOKEN_LIFETIME, settings.ACCESS_TOKEN_LIFETIME)
        return self.signed_until + longest + leeway + GRACE if self.signed_until else None

    def verifies(self, now: datetime) -> bool:
        """Whether a token of this key can still be good."""
        return self.ends_at is None or now < self.ends_at


@cache
def _load(pem: str) -> SigningKey:
    private = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(private, RSAPrivateKey):
        raise ValueError("GATEHOUSE_SIGNING_KEY must hold RSA keys")
    public = private.public_key()
    members = _required_members(public)
    # RFC 7638, section 3: the required members in lexicographic order, without spaces.
    text = '{{"e":"{e}","kty":"{kty}","n":"{n}"}}'.format(**members)
    kid = jwt.utils.base64url_encode(sha256(text.encode()).digest()).decode()
    return SigningKey(pem, private, public, kid)


def _required_members(public: RSAPublicKey) -> dict[str, str]:
    members: dict[str, Any] = RSAAlgorithm.to_jwk(public, as_dict=True)
    return {name: members[name] for name in ("e", "kty", "n")}


def _parse(text: str) -> tuple[SigningKey, ...]:
    keys = tuple(
        replace(_load(pem), signed_until=datetime.fromisoformat(until) if until else None)
        for until, pem in split_signing_keys(text)
    )
    if not keys or keys[0].signed_until:
        raise ValueError("the first key must be one that signs")
    return keys


@cache
def _file(path: Path) -> KeyFile[tuple[SigningKey, ...]]:
    return KeyFile(path, _parse)


_given = cache(_parse)


def _keys() -> tuple[SigningKey, ...]:
    return _file(settings.SIGNING_KEY_FILE).read() if settings.SIGNING_KEY_FILE else _given(settings.SIGNING_KEY)


def signing_key() -> SigningKey:
    """The key that signs now."""
    return _keys()[0]


def verifying_keys() -> list[SigningKey]:
    """Every key under which a token can still be good, the newest first."""
    now = timezone.now()
    return [key for key in _keys() if key.verifies(now)]


def published_keys() -> dict[str, list[dict[str, Any]]]:
    """The JSON Web Key Set that others verify our tokens with."""
    return {"keys": [key.jwk for key in verifying_keys()]}


def rotate_signing_key(actor: Actor) -> SigningKey:
    """Let a new key sign from now on; the one before verifies until its last token has ended. Nobody is signed out.

    Raises Conflict where the key was given by a setting: only whoever gives it can change it.
    """
    actor.require_platform_admin()
    actor.require_confirmed()
    if settings.SIGNING_KEY_FILE is None:
        raise Conflict(
            "GATEHOUSE_SIGNING_KEY is given by the environment, so it is rotated there: put a new key behind the old"
            " one and restart every process, then put it in front and restart again. Take the old one out when"
            f" {settings.REFRESH_TOKEN_LIFETIME.days} days have passed."
        )
    pem, now = new_signing_key(), timezone.now()

    def edit(text: str) -> str:
        older = [key for key in _parse(text) if key.verifies(now)]
        return pem + "".join(_written(replace(key, signed_until=key.signed_until or now)) for key in older)

    with transaction.atomic():
        audit.record(actor, "signing_key.rotated", f"signing_key:{_load(pem).kid}")
        return _file(settings.SIGNING_KEY_FILE).change(edit)[0]


def prune_signing_keys() -> list[str]:
    """Throw away kept keys whose last token has ended; says which."""
    now = timezone.now()
    ended = [key.kid for key in _keys() if not key.verifies(now)]
    if settings.SIGNING_KEY_FILE is None or not ended:
        return []
    with transaction.atomic():
        for kid in ended:
            audit.record(system_actor(), "signing_key.pruned", f"signing_key:{kid}")
        _file(settings.SIGNING_KEY_FILE).change(
            lambda text: "".join(_written(key) for key in _parse(text) if key.verifies(now))
        )
    return ended


def _written(key: SigningKey) -> str:
    until = f"Signed-until: {key.signed_until.isoformat()}\n" if key.signed_until else ""
    return f"{until}{key.pem}\n"
