"""What bundles select, as a snapshot keeps it: which things of the catalogue, in which order, by which names."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from apps.gateway.models import Bundle, BundleItem, ItemKind
from apps.gateway.services.offers import Offer, Tool, is_addressed, shown_as

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """One item: what it takes in, and how that is shown."""

    kind: str
    target: UUID | str
    alias: str
    description: str


@dataclass(frozen=True, slots=True)
class Selection:
    """A bundle that is enabled."""

    slug: str
    name: str
    instructions: str
    names_verbatim: bool
    lines: tuple[Line, ...]


def selections_of(organization_id: UUID) -> dict[str, Selection]:
    """The organisation's enabled bundles by slug."""
    bundles = list(Bundle.objects.for_org(organization_id).filter(is_enabled=True))
    lines: dict[UUID, list[Line]] = {bundle.pk: [] for bundle in bundles}
    items = BundleItem.objects.for_org(organization_id).filter(bundle_id__in=lines) if lines else ()
    for item in items:
        line = Line(item.kind, item.target, item.alias, item.description_override)
        lines[item.bundle_id].append(line)
    return {
        bundle.slug: Selection(
            bundle.slug, bundle.name, bundle.instructions, bundle.names_verbatim, tuple(lines[bundle.pk])
        )
        for bundle in bundles
    }


@dataclass(slots=True)
class Shelf:
    """All that an organisation offers, by what the items of bundles name."""

    by_target: dict[tuple[str, UUID | str], list[Tool | Offer]] = field(default_factory=dict)

    @classmethod
    def of(cls, things: Iterable[Tool | Offer]) -> "Shelf":
        """The things, sorted in."""
        shelf = cls()
        for thing in things:
            if thing.upstream is None:
                shelf.by_target[ItemKind.NATIVE, thing.name] = [thing]
            else:
                shelf.by_target[ItemKind.CAPABILITY, thing.upstream.id] = [thing]
                shelf.by_target.setdefault((ItemKind.SERVER, thing.upstream.server_id), []).append(thing)
        return shelf

    def chosen(self, selection: Selection) -> list[Tool | Offer]:
        """What the bundle shows to whoever may use everything.

        What is no longer offered or no longer approved is not on the shelf. What a server adds later may have a name
        that an item before it has: then it is left out.
        """
        found: list[Tool | Offer] = []
        taken: set[tuple[str, str]] = set()
        for thing in self._named(selection):
            name = (thing.resource.kind, thing.name)
            if not is_addressed(thing) and name in taken:
                logger.warning("The bundle %s has two things called %s; the later is left out.", selection.slug, name)
                continue
            taken.add(name)
            found.append(thing)
        return found

    def _named(self, selection: Selection) -> Iterator[Tool | Offer]:
        named_alone = {line.target for line in selection.lines if line.kind == ItemKind.CAPABILITY}
        for line in selection.lines:
            if line.kind == ItemKind.SERVER:
                for each in self.by_target.get((ItemKind.SERVER, line.target), ()):
                    if each.upstream is not None and each.upstream.id not in named_alone:
                        yield shown_as(each, name=_name_of(each, selection))
                continue
            for thing in self.by_target.get((line.kind, line.target), ()):
                yield shown_as(thing, name=line.alias or _name_of(thing, selection), description=line.description)


def _name_of(thing: Tool | Offer, selection: Selection) -> str:
    return thing.upstream.name if selection.names_verbatim and thing.upstream else thing.name
