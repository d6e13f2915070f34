"""Making and changing bundles: named selections of what agents may use, each with an endpoint of its own."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput, NotFound
from apps.core.schemas import Page, PageQuery, page_of
from apps.gateway.models import Bundle, BundleItem, ItemKind
from apps.gateway.schemas import MOST_ITEMS, BundleFilters, BundleItemIn
from apps.gateway.services.catalogue import native_tools, read_chosen
from apps.gateway.services.clients import Connection, connection_to
from apps.gateway.services.offers import Tool
from apps.registry import services as registry

_CHANGEABLE = frozenset({"name", "description", "instructions", "is_enabled", "names_verbatim"})
_NAMED = frozenset({registry.CapabilityKind.TOOL.value, registry.CapabilityKind.PROMPT.value})


def create_bundle(actor: Actor, *, name: str, slug: str, items: Sequence[BundleItemIn] = (), **more: Any) -> Bundle:
    """Make a bundle with an endpoint of its own. `more` are the other fields that `update_bundle` takes.

    Raises Conflict where the slug is taken, by whomever, or two items would have one name.
    """
    actor.require("bundle.write")
    _check_fields(more)
    if actor.organization_id is None:
        raise InvalidInput("A bundle belongs to an organisation. Choose one, by REST in the header X-Organization.")
    bundle = Bundle(organization_id=actor.organization_id, name=name, slug=slug, **more)
    with transaction.atomic():
        # Before the row: whoever makes another of this slug waits for it, and may hold the chain.
        audit.hold_chain(actor.organization_id)
        bundle.store()
        _replace_items(actor, bundle, items)
        made = audit.made_with(bundle, {*_CHANGEABLE, "slug"})
        shown = [str(item) for item in bundle.items]
        audit.record(actor, "bundle.created", bundle, details={"changes": made, "items": shown})
        auth.raise_revision(bundle.organization_id)
    return bundle


def get_bundle(actor: Actor, *, bundle_id: UUID) -> Bundle:
    """A bundle of the actor's organisation."""
    actor.require("bundle.read")
    bundle: Bundle | None = Bundle.objects.for_org(actor.organization_id).filter(pk=bundle_id).first()
    if bundle is None:
        raise NotFound("There is no such bundle.")
    return bundle


def list_bundles(actor: Actor, *, filters: BundleFilters, page: PageQuery) -> Page:
    """The bundles of the actor's organisation, by name."""
    actor.require("bundle.read")
    rows = Bundle.objects.for_org(actor.organization_id)
    if filters.is_enabled is not None:
        rows = rows.filter(is_enabled=filters.is_enabled)
    if filters.q:
        rows = rows.named_like(filters.q)
    return page_of(rows.order_by("name", "id"), page)


def count_shown(actor: Actor, *, bundle_id: UUID) -> Counter[str]:
    """How many things of each kind an agent sees in a bundle now, where its rights leave nothing out.

    A bundle that is disabled shows nothing.
    """
    bundle = get_bundle(actor, bundle_id=bundle_id)
    things = read_chosen(bundle.organization_id, bundle=bundle.slug)
    return Counter("tool" if isinstance(thing, Tool) else thing.kind for thing in things)


def update_bundle(
    actor: Actor, *, bundle_id: UUID, items: Sequence[BundleItemIn] | None = None, **changes: Any
) -> Bundle:
    """Change a bundle; `items` are all that it has from now on. The slug never changes: agents are connected to it."""
    return _rewrite(actor, bundle_id, changes, None if items is None else lambda _: list(items))


def set_items(actor: Actor, *, bundle_id: UUID, items: Sequence[BundleItemIn]) -> Bundle:
    """Put these items, in this order, in the place of all that the bundle has."""
    return update_bundle(actor, bundle_id=bundle_id, items=items)


def add_item(actor: Actor, *, bundle_id: UUID, item: BundleItemIn) -> BundleItem:
    """Take one more thing into a bundle, at its end; raises Conflict where the bundle has it already."""
    return add_items(actor, bundle_id=bundle_id, items=[item]).items[-1]


def add_items(actor: Actor, *, bundle_id: UUID, items: Sequence[BundleItemIn]) -> Bundle:
    """Take several more things into a bundle, at its end: all of them, or none where one is refused."""
    return _rewrite(actor, bundle_id, {}, lambda before: [*before, *items])


def update_item(actor: Actor, *, bundle_id: UUID, bundle_item_id: UUID, **changes: Any) -> BundleItem:
    """Show an item of a bundle by another name or with another description."""
    target = _item_of(actor, bundle_id, bundle_item_id).target
    unknown = sorted(set(changes) - {"alias", "description_override"})
    if unknown:
        raise InvalidInput.for_field(unknown[0], "This cannot be set. Remove the item and add another.")
    _rewrite(
        actor, bundle_id, {},
        lambda before: [each.model_copy(update=changes) if _target(each) == target else each for each in before],
    )  # fmt: skip
    return _item_of(actor, bundle_id, bundle_item_id)


def remove_item(actor: Actor, *, bundle_id: UUID, bundle_item_id: UUID) -> None:
    """Take one thing out of a bundle."""
    target = _item_of(actor, bundle_id, bundle_item_id).target
    _rewrite(actor, bundle_id, {}, lambda before: [each for each in before if _target(each) != target])


def delete_bundle(actor: Actor, *, bundle_id: UUID) -> None:
    """Close a bundle's endpoint for good. What was in it stays where it is."""
    get_bundle(actor, bundle_id=bundle_id)
    actor.require("bundle.write")
    with transaction.atomic():
        bundle = _locked(bundle_id)
        audit.record(actor, "bundle.deleted", bundle, details={"items": [str(item) for item in bundle.items]})
        auth.raise_revision(bundle.organization_id)
        bundle.delete()


# The items --------------------------------------------------------------------------------------------------------


def _rewrite(
    actor: Actor,
    bundle_id: UUID,
    changes: dict[str, Any],
    items_from: Callable[[list[BundleItemIn]], list[BundleItemIn]] | None,
) -> Bundle:
    """Change fields, and make the items what comes of those that are there, one change after the other."""
    get_bundle(actor, bundle_id=bundle_id)
    actor.require("bundle.write")
    _check_fields(changes)
    with transaction.atomic():
        bundle = _locked(bundle_id)
        changes = {field: value for field, value in changes.items() if getattr(bundle, field) != value}
        told = audit.what_changes(bundle, changes)
        for field, value in changes.items():
            setattr(bundle, field, value)
        before = bundle.items
        said = [_said(item) for item in before]
        given = [_as_given(item) for item in before]
        # What a server adds may stand in the way of a name here: whoever only closes the bundle is not told of that.
        if items_from is not None or "names_verbatim" in changes:
            _replace_items(actor, bundle, items_from(given) if items_from else given)
        after = [_said(item) for item in bundle.items]
        if said != after:
            told["items"] = {"from": said, "to": after}
        if not told:
            return bundle
        bundle.store(update_fields=[*changes, "updated_at"])
        audit.record(actor, "bundle.updated", bundle, details={"changes": told})
        auth.raise_revision(bundle.organization_id)
    return bundle


def _item_of(actor: Actor, bundle_id: UUID, bundle_item_id: UUID) -> BundleItem:
    """One item of a bundle of the actor's organisation, which the actor may change."""
    found = next((item for item in get_bundle(actor, bundle_id=bundle_id).items if item.pk == bundle_item_id), None)
    if found is None:
        raise NotFound("The bundle has no such item.")
    actor.require("bundle.write")
    return found


def _replace_items(actor: Actor, bundle: Bundle, given: Sequence[BundleItemIn]) -> None:
    """Make the items of a bundle what is given, within the caller's transaction; rows that stay keep their ids."""
    if len(given) > MOST_ITEMS:
        raise InvalidInput.for_field("items", f"A bundle has at most {MOST_ITEMS} items. Take in whole servers.")
    there = {item.target: item for item in bundle.items}
    before = {item.pk: _shown(item) for item in there.values()}
    wanted = _wanted(actor, bundle, given, there)
    for position, (item, said) in enumerate(zip(wanted, given, strict=True)):
        item.alias, item.description_override, item.position = said.alias, said.description_override, position
    _check_verbatim(bundle, wanted)
    _check_names(actor, bundle, wanted)
    gone = set(before) - {item.pk for item in wanted}
    # allowed: the bundle's own items, read above
    BundleItem.objects.filter(pk__in=gone).delete()
    for item in wanted:
        if before.get(item.pk) != _shown(item):
            item.store()


def _shown(item: BundleItem) -> tuple[str, str, int]:
    return item.alias, item.description_override, item.position


def _wanted(
    actor: Actor, bundle: Bundle, given: Sequence[BundleItemIn], there: dict[UUID | str, BundleItem]
) -> list[BundleItem]:
    """The rows for what is given, new ones not stored yet; raises NotFound for what is not the organisation's."""
    targets = [_target(each) for each in given]
    twice = [target for target, times in Counter(targets).items() if times > 1]
    if twice:
        raise Conflict("The bundle has this already.", details={"fields": {"items": ["Something stands there twice."]}})
    new = [each for each, target in zip(given, targets, strict=True) if target not in there]
    ids = {each.capability_id for each in new if each.capability_id}
    capabilities = {each.pk: each for each in registry.read_capabilities(actor, capability_ids=ids)} if ids else {}
    made = []
    for each, target in zip(given, targets, strict=True):
        item = there.get(target) or BundleItem(organization_id=bundle.organization_id, bundle=bundle)
        if item._state.adding and each.capability_id:
            item.kind, item.capability = ItemKind.CAPABILITY, capabilities[each.capability_id]
        elif item._state.adding and each.server_id:
            item.kind, item.server = ItemKind.SERVER, registry.get_server(actor, server_id=each.server_id)
        elif item._state.adding:
            if each.native not in native_tools():
                raise InvalidInput.for_field("native", f"The platform has no tool {each.native[:60]!r}.")
            item.kind, item.native = ItemKind.NATIVE, each.native
        made.append(item)
    return made


def _target(given: BundleItemIn) -> UUID | str:
    targets: list[UUID | str] = [each for each in (given.capability_id, given.server_id, given.native) if each]
    if len(targets) != 1:
        raise InvalidInput.for_field(
            "items", "An item names a capability_id, a server_id or a native tool: exactly one of them."
        )
    if given.server_id and (given.alias or given.description_override):
        raise InvalidInput.for_field(
            "alias", "Only a single thing has another name or description, not a whole server."
        )
    return targets[0]


def _check_verbatim(bundle: Bundle, items: Collection[BundleItem]) -> None:
    if not bundle.names_verbatim:
        return
    servers = {item.capability.server_id if item.capability else item.server_id for item in items}
    if len(servers) > 1 or None in servers:
        raise InvalidInput.for_field(
            "names_verbatim", "Names can be kept only where all items are of one server: two servers may use one name."
        )


def _check_names(actor: Actor, bundle: Bundle, items: Sequence[BundleItem]) -> None:
    """Raise Conflict where another name is one that the bundle has already, in whatever case."""
    nameless = [item for item in items if item.alias and item.shows not in _NAMED]
    if nameless:
        raise InvalidInput.for_field("alias", "Only tools and prompts can have another name.")
    aliased = [item for item in items if item.alias]
    if not aliased:
        return
    for item in aliased:
        own = f"{item.capability.server.slug}__" if item.capability else None
        if "__" in item.alias and not (own and item.alias.startswith(own)):
            raise InvalidInput.for_field("alias", "Two underscores may only follow the slug of the thing's own server.")
    names = Counter((kind, name.casefold()) for kind, name in _names(actor, bundle, items))
    taken = [item.alias for item in aliased if names[item.shows, item.alias.casefold()] > 1]
    if taken:
        raise Conflict(
            f"Two things in the bundle would be called {', '.join(dict.fromkeys(taken))}. Choose another name.",
            details={"fields": {"alias": ["Something else in the bundle has this name."]}, "names": taken},
        )


def _names(actor: Actor, bundle: Bundle, items: Sequence[BundleItem]) -> Iterator[tuple[str, str]]:
    """What tools and prompts are called in the bundle, with their kind."""
    for item in items:
        if item.capability is not None:
            yield item.shows, item.alias or _own_name(bundle, item.capability)
        elif item.native:
            yield item.shows, item.alias or item.native
    alone = {item.capability_id for item in items}
    servers = {item.server_id for item in items if item.server_id}
    for each in registry.read_capabilities(actor, server_ids=servers) if servers else ():
        if each.pk not in alone:
            yield each.kind, _own_name(bundle, each)


def _own_name(bundle: Bundle, capability: Any) -> str:
    return str(capability.name if bundle.names_verbatim else capability.public_name)


def _as_given(item: BundleItem) -> BundleItemIn:
    return BundleItemIn(
        capability_id=item.capability_id, server_id=item.server_id, native=item.native, alias=item.alias,
        description_override=item.description_override,
    )  # fmt: skip


def _said(item: BundleItem) -> str:
    """A line of a bundle in the journal."""
    renamed = f" as {item.alias}" if item.alias else ""
    return f"{item.takes_in}{renamed}{', described anew' if item.description_override else ''}"


# Rows -------------------------------------------------------------------------------------------------------------


def _check_fields(given: dict[str, Any]) -> None:
    unknown = sorted(set(given) - _CHANGEABLE)
    if unknown:
        raise InvalidInput.for_field(unknown[0], "This cannot be set.")


def hold_bundles(actor: Actor, *, slugs: Collection[str]) -> None:
    """Hold some of the organisation's bundles, for a caller that changes several in one transaction.

    Whoever may change none holds none.
    """
    if slugs and actor.can("bundle.write"):
        found = Bundle.objects.for_org(actor.organization_id).filter(slug__in=slugs)
        list(found.select_for_update(no_key=True).order_by("pk").values_list("pk"))


def _locked(bundle_id: UUID) -> Bundle:
    # allowed: the actor has just been given it
    bundle: Bundle | None = Bundle.objects.select_for_update(no_key=True).filter(pk=bundle_id).first()
    if bundle is None:
        raise NotFound("There is no such bundle any more.")
    return bundle


# How programs are connected ---------------------------------------------------------------------------------------


def connect_bundle(actor: Actor, *, bundle_id: UUID, client: str) -> Connection:
    """What a client's program wants to be told, so that it is connected to the bundle; the key is a placeholder."""
    bundle = get_bundle(actor, bundle_id=bundle_id)
    return connection_to(bundle.url, name=bundle.slug, client=client)
