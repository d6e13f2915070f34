"""What capabilities are called: which names of a server are taken, and what agents call them.

A tool's name for agents is `{slug}__{name}`, at most 44 characters of letters, digits, `_` and `-`: clients put a
prefix of their own before it and count both into 60 or 64. A name that had to be changed or shortened, or that differs
from another only in case, ends in `_` and 8 hexadecimal digits of the SHA-256 of the original. A slug has no `_`, so
that two servers can never meet.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from apps.registry.models import CapabilityKind

LONGEST_PUBLIC_NAME = 44
LONGEST_URI = 1000
_DIGEST_LENGTH = 8
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}\Z", re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f]+\Z")
_NOT_PUBLIC = re.compile(r"[^A-Za-z0-9_-]")
URI_KINDS = frozenset({CapabilityKind.RESOURCE, CapabilityKind.RESOURCE_TEMPLATE})


def refusal_of_name(kind: str, name: object) -> str:
    """Why this name of a capability is not taken; empty where it is."""
    if not isinstance(name, str):
        return "It has no name."
    if kind in URI_KINDS:
        return "" if len(name) <= LONGEST_URI and _URI.match(name) else "Its URI is not one, or is too long."
    if not _NAME.match(name):
        return "Its name must have 1 to 128 letters, digits, underscores, dots, slashes and hyphens."
    return "Its name contains two dots in a row." if ".." in name else ""


def public_names(
    kind: str, slug: str, names: Iterable[str], *, held: Mapping[str, str], taken: Collection[str] = ()
) -> dict[str, str]:
    """What agents call each of a server's capabilities of one kind, whatever order they are listed in.

    `held` are the names that capabilities have already: whoever has a plain name keeps it when a twin appears.
    `taken` are aliases, which nobody gets.
    """
    if kind in URI_KINDS:
        return {name: f"{slug}+{name}" for name in names}
    plain = {name: _plain(slug, name) for name in names}
    twins = Counter(public.casefold() for public in plain.values())
    aliases = {alias.casefold() for alias in taken}
    keepers = Counter(plain[name].casefold() for name in plain if held.get(name) == plain[name])
    found: dict[str, str] = {}
    for name, public in plain.items():
        folded = public.casefold()
        is_keeper = held.get(name) == public and keepers[folded] == 1
        is_free = folded not in aliases and (twins[folded] == 1 or is_keeper)
        found[name] = public if is_free else _with_digest(slug, name)
    return _without_accidents(slug, found)


def _without_accidents(slug: str, found: dict[str, str]) -> dict[str, str]:
    """A name may look like another's name with its digest: it gets a digest of its own."""
    count = Counter(public.casefold() for public in found.values())
    return {
        name: public if count[public.casefold()] == 1 else _with_digest(slug, name) for name, public in found.items()
    }


def _plain(slug: str, name: str) -> str:
    public = f"{slug}__{_NOT_PUBLIC.sub('_', name)}"
    if public != f"{slug}__{name}" or len(public) > LONGEST_PUBLIC_NAME:
        return _with_digest(slug, name)
    return public


def _with_digest(slug: str, name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LENGTH]
    begin = f"{slug}__{_NOT_PUBLIC.sub('_', name)}"[: LONGEST_PUBLIC_NAME - _DIGEST_LENGTH - 1]
    return f"{begin}_{digest}"
