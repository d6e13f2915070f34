"""What a bundle can take in, as a page to choose from: all that the organisation's servers offer, searched by words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.db.models.fields.json import KT
from django.utils.safestring import SafeString

from apps.core.errors import Malformed
from apps.core.staff import badge, code, reveal
from apps.gateway import services
from apps.gateway.admin.looks import KINDS
from apps.gateway.models import Bundle, ItemKind
from apps.gateway.schemas import BundleItemIn

MOST_SHOWN = 1_000
LONGEST_WORDS = 300
LONGEST_SEARCH = 100


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing to choose: what the form sends for it, how it looks, and the words that it is found by."""

    value: str
    name: SafeString
    note: SafeString
    badges: Sequence[SafeString]
    found_by: str
    is_chosen: bool
    is_there: bool


@dataclass(frozen=True, slots=True)
class Group:
    """What belongs together: all of one server, or the platform's own tools."""

    title: SafeString
    choices: list[Choice] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Offering:
    """All that is shown, and whether there is more that only a search finds."""

    groups: list[Group]
    is_cut: bool


def searched(words: str) -> list[str]:
    """The words of a search; each must be found."""
    return words[:LONGEST_SEARCH].casefold().split()


def given_for(values: Iterable[str]) -> list[BundleItemIn]:
    """What the form sent, as items; raises Malformed for what no form of ours sends."""
    return [_given(value) for value in values]


def offering(bundle: Bundle, capabilities: QuerySet[Any], words: str, chosen: Iterable[str]) -> Offering:
    """What the search finds of what servers offer, and of the platform's own tools.

    `capabilities` are those that the person may see; only the organisation's are offered.
    """
    there = {f"{item.kind}:{item.target}" for item in bundle.items}
    marks = (frozenset(chosen), frozenset(there))
    rows = list(_found(capabilities.filter(organization_id=bundle.organization_id), words)[: MOST_SHOWN + 1])
    groups = [
        _of_server(server, list(own), *marks) for server, own in groupby(rows[:MOST_SHOWN], lambda row: row.server)
    ]
    native = _native(words, *marks)
    return Offering([*groups, *([native] if native.choices else [])], len(rows) > MOST_SHOWN)


def _given(value: str) -> BundleItemIn:
    kind, _, target = value.partition(":")
    try:
        if kind == ItemKind.CAPABILITY:
            return BundleItemIn(capability_id=UUID(target))
        if kind == ItemKind.SERVER:
            return BundleItemIn(server_id=UUID(target))
        if kind == ItemKind.NATIVE:
            return BundleItemIn(native=target)
    except ValueError as error:
        raise Malformed("This page was changed on its way. Begin again.") from error
    raise Malformed("This page was changed on its way. Begin again.")


def _found(capabilities: QuerySet[Any], words: str) -> QuerySet[Any]:
    """The rows, without the definitions, which may be long, but for what they say of themselves."""
    rows: QuerySet[Any] = capabilities.defer("definition", "approved_definition", "warnings").select_related("server")
    for word in searched(words):
        rows = rows.filter(
            Q(public_name__icontains=word) | Q(name__icontains=word) | Q(kind__icontains=word)
            | Q(server__name__icontains=word) | Q(server__slug__icontains=word)
        )  # fmt: skip
    rows = rows.annotate(said=KT("definition__description"))
    return rows.order_by("server__slug", "kind", "public_name", "id")


def _of_server(server: Any, rows: Sequence[Any], chosen: frozenset[str], there: frozenset[str]) -> Group:
    whole = f"{ItemKind.SERVER}:{server.pk}"
    title = reveal(server.name)
    first = Choice(
        whole, SafeString("All of it, now and later"), SafeString(""), _state_of_server(server),
        f"{server.name} {server.slug} all".casefold(), whole in chosen, whole in there,
    )  # fmt: skip
    return Group(title, [first, *(_of_capability(row, server, chosen, there) for row in rows)])


def _of_capability(row: Any, server: Any, chosen: frozenset[str], there: frozenset[str]) -> Choice:
    value = f"{ItemKind.CAPABILITY}:{row.pk}"
    said = (row.description_override or row.said or "")[:LONGEST_WORDS]
    waits = [] if row.is_approved else [badge("Waits for approval", "warn")]
    switched_off = [] if row.is_enabled else [badge("Disabled", "quiet")]
    found_by = f"{row.public_name} {row.name} {row.kind} {server.name} {server.slug} {said}".casefold()
    return Choice(
        value, code(row.public_name), reveal(said), [badge(KINDS[row.kind]), *waits, *switched_off], found_by,
        value in chosen, value in there,
    )  # fmt: skip


def _native(words: str, chosen: frozenset[str], there: frozenset[str]) -> Group:
    group = Group(SafeString("The platform's own tools"))
    for name, tool in sorted(services.native_tools().items()):
        said = str(tool.definition.get("description") or "")[:LONGEST_WORDS]
        found_by, value = f"{name} platform tool {said}".casefold(), f"{ItemKind.NATIVE}:{name}"
        if all(word in found_by for word in searched(words)):
            group.choices.append(
                Choice(value, code(name), reveal(said), [badge("Tool")], found_by, value in chosen, value in there)
            )
    return group


def _state_of_server(server: Any) -> list[SafeString]:
    if not server.is_approved:
        return [badge("Waits for approval", "warn")]
    return [] if server.is_enabled else [badge("Disabled", "quiet")]
