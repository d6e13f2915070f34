"""The chain: how an entry is bound to the one before it, and how a break is found."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from uuid import UUID

from django.conf import settings

from apps.audit.models import ChainHead, Entry

FIRST_DIGEST = "0" * 64
_CHUNK = 2_000
_BOUND = ("id", "chain_id", "sequence", "action", "outcome", "actor_kind", "actor_id", "actor_label", "surface",
          "address", "subject", "details", "request_id", "previous_digest")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where a chain does not hold."""

    chain_id: UUID
    sequence: int
    why: str


def digest_of(entry: Entry) -> str:
    """HMAC-SHA256, under the journal's key, over the entry's canonical JSON, the digest before it included."""
    content = {name: getattr(entry, name) for name in _BOUND}
    content["at"] = entry.at.astimezone(UTC).isoformat(timespec="microseconds")
    if entry.subject_id:  # the first entries of an installation were written without
        content["subject_id"] = entry.subject_id
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hmac.new(settings.JOURNAL_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def chains() -> list[UUID]:
    """Every chain that has an entry or a head, in order."""
    known = set(ChainHead.objects.values_list("pk", flat=True))
    known.update(Entry.objects.order_by().values_list("chain_id", flat=True).distinct())
    return sorted(known)


def verify(chain_id: UUID | None = None) -> list[Break]:
    """The first break of each chain, or of the one that is named; nothing where all is well.

    It reads every entry once, may run beside writers, and sees what was changed, left out, put in or cut off. An
    attacker who also rewrites the chain's head can cut off the end unseen; only a copy kept elsewhere would show it.
    """
    found = [_first_break(each) for each in ([chain_id] if chain_id else chains())]
    return [each for each in found if each is not None]


def _first_break(chain_id: UUID) -> Break | None:
    head = _head(chain_id)
    last, digest = 0, FIRST_DIGEST
    for entry in _entries(chain_id):
        why = _what_is_wrong(entry, last, digest)
        if why:
            return Break(chain_id, min(entry.sequence, last + 1), why)
        last, digest = entry.sequence, entry.digest
        if last == head.sequence and digest != head.digest:
            return Break(chain_id, last, "This entry is not the one that was written last.")
    if last < head.sequence:
        return Break(chain_id, last + 1, f"The last entries are missing: {last + 1} to {head.sequence}.")
    if last > _head(chain_id).sequence:
        return Break(chain_id, head.sequence + 1, "This entry was not written by the journal.")
    return None


def _what_is_wrong(entry: Entry, last: int, digest: str) -> str:
    if entry.sequence != last + 1:
        return f"Entries are missing: {last + 1} to {entry.sequence - 1}."
    if not hmac.compare_digest(digest_of(entry), entry.digest):
        return "This entry was changed."
    if entry.previous_digest != digest:
        return "This entry does not follow the one before it."
    return ""


def _entries(chain_id: UUID) -> Iterator[Entry]:
    return Entry.objects.filter(chain_id=chain_id).order_by("sequence").iterator(chunk_size=_CHUNK)


def _head(chain_id: UUID) -> ChainHead:
    return ChainHead.objects.filter(pk=chain_id).first() or ChainHead(chain_id=chain_id)
