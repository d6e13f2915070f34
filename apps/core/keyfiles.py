"""Keys in the data folder: made there, and changed by commands while servers read them.

A file is replaced as a whole, so that whoever reads finds the old text or the new one, whatever happens in between.
Every use looks at the file's times first, which costs two microseconds: a new key is known to all processes on the
folder before its first signature or seal can reach them. This module knows nothing of Django.
"""

import base64
import fcntl
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

SEALING_KEY_BYTES = 32
SIGNING_KEY_BITS = 2048

Value = TypeVar("Value")
Stamp = tuple[int, int, int] | None


class KeyFile(Generic[Value]):
    """A file of keys that is read again when it has changed."""

    def __init__(self, path: Path, parse: Callable[[str], Value]) -> None:
        self.path = path
        self._parse = parse
        self._known: tuple[Stamp, Value] | None = None

    def read(self) -> Value:
        """What the file says now; what it said last where it was taken away or spoilt meanwhile."""
        stamp = self._stamp()
        known = self._known
        if known and known[0] == stamp:
            return known[1]
        try:
            value = self._parse(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if known is None:
                raise
            logger.exception("A file of keys cannot be read any more; its last keys are used on.")
            value = known[1]
        self._known = (stamp, value)
        return value

    def change(self, edit: Callable[[str], str]) -> Value:
        """Put in the file's place what `edit` makes of its text: wholly or not at all, one process after the other."""
        with _locked(self.path.with_name(f"{self.path.name}.lock")):
            text = edit(self.path.read_text(encoding="utf-8"))
            value = self._parse(text)
            draft = self.path.with_name(f".{self.path.name}.draft")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            _write_through(self.path.parent)
        return value

    def changed_at(self) -> float:
        """When the file was changed last, in seconds since 1970."""
        return self.path.stat().st_mtime

    def _stamp(self) -> Stamp:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


class KeyFileMapping(Mapping[int, bytes]):
    """The numbered keys of a file, always as they are now."""

    def __init__(self, file: KeyFile[dict[int, bytes]]) -> None:
        self.file = file

    def __getitem__(self, number: int) -> bytes:
        return self.file.read()[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self.file.read())

    def __len__(self) -> int:
        return len(self.file.read())


class _locked:  # noqa: N801 - reads as a verb
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _write_through(folder: Path) -> None:
    """Let the new name of a file survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def new_sealing_key(number: int) -> str:
    """A key of this number as the settings write it."""
    return f"{number}:{base64.b64encode(secrets.token_bytes(SEALING_KEY_BYTES)).decode()}"


def parse_sealing_keys(value: str) -> dict[int, bytes]:
    """Keys by number; raises ValueError saying what is wrong, without repeating it."""
    keys: dict[int, bytes] = {}
    for part in filter(None, (each.strip() for each in value.split(","))):
        number, _, text = part.partition(":")
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError("each key is number:base64 of 32 bytes") from error
        if not re.fullmatch(r"[0-9]{1,9}", number) or len(key) != SEALING_KEY_BYTES:
            raise ValueError("each key is number:base64 of 32 bytes")
        if int(number) in keys:
            raise ValueError(f"the number {int(number)} is given to two keys")
        keys[int(number)] = key
    if not keys:
        raise ValueError("at least one key is needed")
    return keys


def new_signing_key() -> str:
    """An RSA private key in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=SIGNING_KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


_PEM = re.compile(
    r"(?:Signed-until: (\S+)\s+)?(-----BEGIN (?:RSA )?PRIVATE KEY-----.+?-----END (?:RSA )?PRIVATE KEY-----)", re.DOTALL
)


def split_signing_keys(text: str) -> list[tuple[str | None, str]]:
    """The PEM blocks, newest first, each with the moment from which it signs no more, where the text says so."""
    return [(match[1], match[2]) for match in _PEM.finditer(text)]


def parse_signing_keys(value: str) -> str:
    """The text itself, if it holds nothing but RSA private keys in PEM; raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found = split_signing_keys(value)
    try:
        keys = [load_pem_private_key(pem.encode(), password=None) for _, pem in found]
    except (ValueError, TypeError) as error:
        raise ValueError("an RSA private key in PEM is needed, or several, the newest first") from error
    if not keys or _PEM.sub("", value).strip() or not all(isinstance(key, RSAPrivateKey) for key in keys):
        raise ValueError("an RSA private key in PEM is needed, or several, the newest first")
    return value
