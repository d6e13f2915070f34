"""Seals values so that only this installation opens them, and only where they belong."""

import base64
import os
from collections.abc import Mapping
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from apps.core.errors import BackendError

_VERSION = "v1"
_NONCE_BYTES = 12


def seal(plain: str, *, organization_id: UUID | None, record_id: UUID, field: str) -> str:
    """Encrypt with AES-256-GCM under the newest key, bound to organisation, row and field.

    Returns `v1.<key number>.<base64 of nonce and ciphertext>`.
    """
    number = newest_key()
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_keys()[number]).encrypt(nonce, plain.encode(), _place(organization_id, record_id, field))
    return f"{mark_of(number)}{base64.urlsafe_b64encode(nonce + sealed).decode()}"


def unseal(sealed: str, *, organization_id: UUID | None, record_id: UUID, field: str) -> str:
    """Decrypt a value in its own place.

    Raises BackendError when the key is missing, or when the value was changed or moved from another row.
    """
    try:
        version, number, text = sealed.split(".")
        key = _keys()[int(number)] if version == _VERSION else b""
        raw = base64.urlsafe_b64decode(text)
        opened = AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _place(organization_id, record_id, field))
    except (InvalidTag, KeyError, ValueError) as error:
        raise BackendError(
            "A sealed value cannot be opened here: its key is missing, or it was changed. Enter it again."
        ) from error
    return opened.decode()


def newest_key() -> int:
    """The number of the key that seals now."""
    return max(_keys())


def mark_of(number: int) -> str:
    """How every value begins that this key sealed."""
    return f"{_VERSION}.{number}."


def key_number(sealed: str) -> int:
    """The number of the key that sealed this value; -1 for what is no sealed value."""
    parts = sealed.split(".")
    return int(parts[1]) if parts[0] == _VERSION and parts[1:] and parts[1].isdecimal() else -1


def _place(organization_id: UUID | None, record_id: UUID, field: str) -> bytes:
    return f"{organization_id or ''}/{record_id}/{field}".encode()


def _keys() -> Mapping[int, bytes]:
    keys: Mapping[int, bytes] = settings.SEALING_KEYS
    return keys
