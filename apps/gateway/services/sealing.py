"""What clients carry for us and bring back: sealed, so that they can neither read it nor make one of their own."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings


def seal(purpose: str, told: Mapping[str, Any]) -> str:
    """What is told, as a text that only `unseal` for the same purpose opens. Letters, digits, `-`, `_` and `=`."""
    return _fernet(purpose).encrypt(orjson.dumps(told)).decode()


def unseal(purpose: str, text: str, *, seconds: int | None = None) -> dict[str, Any] | None:
    """What was sealed, at most so many seconds ago; None for anything else, another spelling of the same included."""
    try:
        if base64.urlsafe_b64encode(base64.urlsafe_b64decode(text)).decode() != text:
            return None
        told: dict[str, Any] = orjson.loads(_fernet(purpose).decrypt(text.encode(), ttl=seconds))
    except (InvalidToken, ValueError):
        return None
    return told


def _fernet(purpose: str) -> Fernet:
    key = hashlib.sha256(f"gatehouse mcp {purpose}\x00{settings.SECRET_KEY}".encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))
