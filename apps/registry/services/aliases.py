"""Aliases: names that staff give to capabilities, and that these keep while they are not offered."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from django.conf import settings
from django.db.models.functions import Lower

from apps.audit import services as audit
from apps.core.actor import Actor
from apps.core.errors import Conflict, InvalidInput
from apps.core.loader import load
from apps.registry.models import Capability, CapabilityKind
from apps.registry.services.names import public_names


def own_name(capability: Capability) -> str:
    """Its name for agents without an alias, beside what its server offers now."""
    others = Capability.objects.present().filter(server=capability.server, kind=capability.kind)
    rows = list(others.values_list("name", "public_name", "alias"))
    held = {name: public for name, public, alias in rows if not alias}
    aliases = [alias for _, _, alias in rows if alias and alias != capability.alias]
    names = {capability.name, *(name for name, _, _ in rows)}
    found = public_names(capability.kind, capability.server.slug, names, held=held, taken=aliases)
    return found[capability.name]


def check_alias(capability: Capability) -> None:
    """An alias must not pass for a tool of another server, nor for one of the platform's own.

    Raises InvalidInput where it does, and Conflict where another capability has this name.
    """
    alias = capability.alias
    if alias and capability.kind not in (CapabilityKind.TOOL, CapabilityKind.PROMPT):
        raise InvalidInput.for_field("alias", "Only tools and prompts can have another name.")
    if "__" in alias and not alias.startswith(f"{capability.server.slug}__"):
        raise InvalidInput.for_field(
            "alias", "Two underscores may only follow the slug of this capability's own server."
        )
    native = {name.casefold() for path in settings.MCP_TOOLBOXES for name in load(path).tools} if alias else set()
    if alias.casefold() in native:
        raise InvalidInput.for_field("alias", "A tool of the platform itself has this name.")
    twins = Capability.objects.for_org(capability.organization_id).filter(
        kind=capability.kind, removed_at=None, public_name__iexact=alias
    )
    if alias and twins.exclude(pk=capability.pk).exists():
        raise Conflict(
            "Another capability has this name for agents already.", details={"fields": {"alias": ["Taken."]}}
        )


def give_up_taken(returning: Iterable[Capability]) -> dict[UUID, str]:
    """Take the alias from those of one organisation that come back after another was given it.

    Of two that come back with the same, whichever was changed last keeps it. Returns the aliases by the ids of those
    that had them; their names for agents are for the caller to set. The journal's chain is held from here on where one
    comes back with an alias: whoever gives that to another at this moment holds the chain and waits for the name.
    """
    aliased = sorted((row for row in returning if row.alias), key=lambda row: row.updated_at, reverse=True)
    if not aliased:
        return {}
    audit.hold_chain(aliased[0].organization_id)
    folded = {row.alias.casefold() for row in aliased}
    present = Capability.objects.for_org(aliased[0].organization_id).filter(removed_at=None)
    named = present.annotate(folded=Lower("public_name")).filter(folded__in=folded)
    taken = set(named.values_list("kind", "folded"))
    given_up = {}
    for row in aliased:
        name = row.kind, row.alias.casefold()
        if name in taken:
            given_up[row.pk] = row.alias
        taken.add(name)
    Capability.objects.filter(pk__in=given_up).update(alias="")
    return given_up


def record_given_up(actor: Actor, given_up: Mapping[UUID, str]) -> None:
    """Tell the journal, once they have their other names."""
    for capability in Capability.objects.filter(pk__in=given_up):
        changes = {"alias": {"from": given_up[capability.pk], "to": ""}}
        told = {"changes": changes, "because": "another has this name by now"}
        audit.record(actor, "capability.updated", capability, details=told)
