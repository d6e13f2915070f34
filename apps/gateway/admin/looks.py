"""How bundles and what is in them look on staff pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.staff import badge, code, link, reveal
from apps.gateway import services
from apps.gateway.models import Bundle, BundleItem, ItemKind

KINDS = {
    "tool": "Tool",
    "prompt": "Prompt",
    "resource": "Resource",
    "resource_template": "Resource template",
    "server": "All of a server",
}
LONGEST_SHOWN = 300
RENAMED_KINDS = frozenset({"tool", "prompt"})


def state_of(bundle: Bundle) -> SafeString:
    """Whether agents find it."""
    return badge("Enabled", "good") if bundle.is_enabled else badge("Disabled", "quiet")


def target_of(item: BundleItem) -> SafeString:
    """What an item takes in, by its name in the catalogue."""
    if item.capability:
        return link("registry_capability", item.capability_id, code(item.takes_in))
    return link("registry_server", item.server_id, item.takes_in) if item.server_id else code(item.native)


def item_state(item: BundleItem) -> SafeString:
    """Whether agents may use it."""
    return badge("In use", "good") if item.is_usable else badge("Not usable now", "warn", title=item.unusable_because)


def anchor_of(item: BundleItem) -> str:
    """Where it stands on the page of its bundle."""
    return f"item-{item.pk}"


def what_agents_see(bundle: Bundle, items: Sequence[BundleItem], shown: Mapping[str, int]) -> str:
    """One sentence or two: what comes of the bundle for whoever connects to it."""
    if not bundle.is_enabled:
        return "Agents do not find this address while the bundle is disabled."
    counted = [_counted(shown[kind], KINDS[kind].lower()) for kind in KINDS if shown.get(kind)]
    if not counted:
        return f"An agent at this address sees nothing{'' if items else ' yet'}."
    told = " It is told your instructions when it connects." if bundle.instructions else ""
    return f"An agent at this address sees {_joined(counted)}, less what its own rights leave out.{told}"


def shown_item(item: BundleItem, *, may_change: bool) -> dict[str, Any]:
    """A line of a bundle as its page shows it, with where it is named anew and taken out."""
    has_form = may_change and item.kind != ItemKind.SERVER
    return {
        "anchor": anchor_of(item),
        "key": item.pk,
        "name": _name_of(item),
        "called": str(item),
        "kind": badge("Now and later" if item.kind == ItemKind.SERVER else KINDS[item.shows]),
        "target": target_of(item) if item.alias else "",
        "why": item.unusable_because,
        "alias": item.alias,
        "own_name": item.takes_in,
        "description": item.description_override,
        "description_shown": reveal(item.description_override[:LONGEST_SHOWN]),
        "own_description": reveal(_own_description(item)[:LONGEST_SHOWN]),
        "can_rename": item.shows in RENAMED_KINDS,
        "change_url": reverse("admin:gateway_bundleitem_change", args=[item.pk]) if has_form else "",
        "out_url": reverse("admin:gateway_bundleitem_deed", args=[item.pk, "take_out"]) if may_change else "",
    }


def _name_of(item: BundleItem) -> SafeString:
    if item.kind == ItemKind.SERVER:
        return format_html("All of {}", target_of(item))
    return code(item.alias) if item.alias else target_of(item)


def _own_description(item: BundleItem) -> str:
    if item.capability:
        return item.capability.description_override or str((item.capability.definition or {}).get("description") or "")
    native = services.native_tools().get(item.native)
    return str(native.definition.get("description") or "") if native else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
