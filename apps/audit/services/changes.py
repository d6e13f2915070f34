"""What a change changes, as the journal keeps it: each field before and after."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django.db import models

LONGEST_KEPT = 1_900
"""Longer texts are cut, and say so: an entry stays readable, and the digest still tells two of them apart."""


def what_changes(
    row: models.Model, values: Mapping[str, Any], *, names_only: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Each field with its value of now and the one it gets; call it before the values are set.

    Of the mappings in `names_only` it tells names, never values.
    """
    found = {}
    for field, after in sorted(values.items()):
        before = getattr(row, field)
        if before != after:
            shown = _names(before, after) if field in names_only else (_kept(before), _kept(after))
            found[field] = {"from": shown[0], "to": shown[1]}
    return found


def made_with(
    row: models.Model, fields: Iterable[str], *, names_only: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Each field that a new row has a value in; there was nothing before."""
    given = {field: getattr(row, field) for field in fields}
    return {
        field: {"to": sorted(value) if field in names_only else _kept(value)}
        for field, value in sorted(given.items())
        if value is not False and value not in ("", None, [], {})
    }


def _names(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    others = {name for name in after if name in before and after[name] != before[name]}
    return sorted(before), sorted(f"{name} (another value)" if name in others else name for name in after)


def _kept(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_KEPT:
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:12]
        return f"{value[:LONGEST_KEPT]}… ({len(value):,} characters, SHA-256 {digest}…)"
    return value
