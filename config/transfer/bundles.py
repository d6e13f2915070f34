"""Bundles in a file: what they take in is named by the slugs of servers, and by the names that servers give it."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.gateway import services as gateway
from apps.gateway.models import Bundle, BundleItem
from apps.gateway.schemas import BundleFilters, BundleItemIn
from config.transfer.items import Item, open_url
from config.transfer.plans import Line
from config.transfer.rows import capabilities_of, every

Written = dict[str, str]
"""One thing that a bundle takes in, as a file says it."""

NAMES_TOLD = 10
_FIELDS = ("name", "description", "instructions", "is_enabled", "names_verbatim")
_NOT_BY_HALVES = "A bundle comes in as a whole or not at all, and not all that it takes in is here:"


# As an export writes them


def bundles_of(actor: Actor) -> Iterator[Bundle]:
    """The bundles of the actor's organisation."""
    return every(lambda page: gateway.list_bundles(actor, filters=BundleFilters(), page=page))


def written_bundle(bundle: Bundle) -> dict[str, Any]:
    """A bundle as a file holds it, so that it can be found again elsewhere."""
    missing = [told(item) for item in bundle.items if not travels(item)]
    return {
        "slug": bundle.slug,
        **{name: getattr(bundle, name) for name in _FIELDS},
        **({"missing": missing} if missing else {}),
        "items": [written_item(item) for item in bundle.items if travels(item)],
    }


def written_item(item: BundleItem) -> Written:
    """One thing in a bundle; what is empty is left out."""
    shown = {"alias": item.alias, "description_override": item.description_override}
    return _without_empty({**_target(item), **shown})


def travels(item: BundleItem) -> bool:
    """Whether a file can name it: its server is there, and its own name is no address with a secret in it."""
    server = item.capability.server if item.capability else item.server
    is_there = server is None or server.deleted_at is None
    return is_there and (item.capability is None or open_url(item.capability.name) == item.capability.name)


def told(item: BundleItem) -> str:
    """One thing in a bundle, for a person."""
    return _said(written_item(item))


def _target(item: BundleItem) -> Written:
    if item.capability:
        capability = item.capability
        return {"server": capability.server.slug, "kind": capability.kind, "name": capability.name}
    return {"server": item.server.slug} if item.server else {"native": item.native}


def _said(item: Mapping[str, str]) -> str:
    if "native" in item:
        said = f"the platform's {item['native']}"
    else:
        said = f"{_thing(item)} of {item['server']}" if "kind" in item else f"all of {item['server']}"
    said += f" as {item['alias']}" if "alias" in item else ""
    return f"{said}: {item['description_override']}" if "description_override" in item else said


def _thing(item: Mapping[str, str]) -> str:
    return f"the {item['kind'].replace('_', ' ')} {open_url(item['name'])}"


def _without_empty(item: Mapping[str, str]) -> Written:
    return {name: value for name, value in item.items() if value}


# As an import brings them in


class BundleImporter:
    """Brings bundles in, once the servers of the file are there.

    `servers` are those of the organisation by slug, and `made` the slugs of those that the file has just made.
    """

    def __init__(self, actor: Actor, servers: Mapping[str, Any], made: Collection[str]) -> None:
        self._actor = actor
        self._servers = servers
        self._made = made
        self._offered: dict[str, dict[tuple[str, str], Any]] = {}

    @cached_property
    def _bundles(self) -> dict[str, Bundle]:
        return {bundle.slug: bundle for bundle in bundles_of(self._actor)}

    def line(self, item: Item) -> Line:
        """What comes of a bundle: all of it, or nothing and what is lacking."""
        # Before anything is said of what is there and what is not.
        self._actor.require("bundle.write")
        there = self._bundles.get(item.given["slug"])
        selected = [_without_empty(each) for each in item.given["items"]] if "items" in item.given else None
        lacking = self._lacking(selected or ())
        if lacking:
            return Line("bundle", item.name, "refuse", notes=lacking, why=_NOT_BY_HALVES)
        given = {name: value for name, value in item.given.items() if name in _FIELDS}
        notes = _missing(item)
        return self._change(item, there, given, selected, notes) if there else self._make(item, given, selected, notes)

    def _make(
        self, item: Item, given: dict[str, Any], selected: Sequence[Written] | None, notes: tuple[str, ...]
    ) -> Line:
        items = [self._as_given(each) for each in selected or ()]
        given.setdefault("name", item.given["slug"])
        made = gateway.create_bundle(self._actor, slug=item.given["slug"], items=items, **given)
        fields: dict[str, dict[str, Any]] = {name: {"to": value} for name, value in given.items() if value != ""}
        if selected:
            fields["items"] = {"to": [_said(each) for each in selected]}
        return Line("bundle", item.name, "make", fields, (*_waiting(made), *notes))

    def _change(
        self, item: Item, bundle: Bundle, given: dict[str, Any], selected: Sequence[Written] | None,
        notes: tuple[str, ...],
    ) -> Line:  # fmt: skip
        fields: dict[str, Mapping[str, Any]] = {**audit.what_changes(bundle, given)}
        before = bundle.items
        items = None
        if selected is not None and selected != [written_item(each) for each in before if travels(each)]:
            items = [self._as_given(each) for each in selected]
            fields["items"] = {"from": [told(each) for each in before], "to": [_said(each) for each in selected]}
        if not fields:
            return Line("bundle", item.name, "leave", notes=notes)
        changed = gateway.update_bundle(self._actor, bundle_id=bundle.pk, items=items, **given)
        return Line("bundle", item.name, "change", fields, (*_waiting(changed), *notes))

    def _as_given(self, item: Written) -> BundleItemIn:
        shown: dict[str, Any] = {name: item[name] for name in ("alias", "description_override") if name in item}
        if "native" in item:
            return BundleItemIn(native=item["native"], **shown)
        if "kind" in item:
            return BundleItemIn(capability_id=self._find(item).pk, **shown)
        return BundleItemIn(server_id=self._servers[item["server"]].pk, **shown)

    def _find(self, item: Written) -> Any:
        """What the server offers, or has offered, by this name; None where it is not known."""
        slug = item["server"]
        if slug not in self._offered:
            self._offered[slug] = capabilities_of(self._actor, self._servers[slug], include_removed=True)
        return self._offered[slug].get((item["kind"], item["name"]))

    def _lacking(self, selected: Sequence[Written]) -> tuple[str, ...]:
        """A sentence for each reason why something cannot be taken in."""
        servers: dict[str, None] = {}
        natives: list[str] = []
        things: dict[str, list[str]] = defaultdict(list)
        for each in selected:
            if "native" in each:
                natives += [each["native"]] if each["native"] not in gateway.native_tools() else []
            elif each["server"] not in self._servers:
                servers[each["server"]] = None
            elif "kind" in each and self._find(each) is None:
                things[each["server"]].append(_thing(each))
        sentences = [self._of_server(slug, _listed(names)) for slug, names in things.items()]
        if servers:
            sentences.append(f"There is no server {_listed(list(servers))}, and this file makes none.")
        if natives:
            sentences.append(f"The platform has no tool {_listed(natives)}.")
        return tuple(sentences)

    def _of_server(self, slug: str, names: str) -> str:
        if slug in self._made:
            return (
                f"{slug} is new, and has to be discovered before it is known to offer {names}. Then import this again."
            )
        return f"{slug} does not offer {names}. Discover it, then import this again."


def _waiting(bundle: Bundle) -> tuple[str, ...]:
    """That some of it waits: a bundle opens nothing."""
    unusable = [told(item) for item in bundle.items if not item.is_usable]
    return (f"Agents do not see these before they may be used: {_listed(unusable)}.",) if unusable else ()


def _missing(item: Item) -> tuple[str, ...]:
    listed = item.given.get("missing", [])
    return (
        (f"Not in the file, because its server is removed or its name is secret: {_listed(listed)}.",) if listed else ()
    )


def _listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(name[:100] for name in names[:NAMES_TOLD])
    return shown if len(names) <= NAMES_TOLD else f"{shown} and {len(names) - NAMES_TOLD} more"
