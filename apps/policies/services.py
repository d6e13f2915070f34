"""Decides what an actor may do; the callers carry it out."""

from apps.core.actor import Actor
from apps.policies.schemas import Decision, Resource

_OPEN_WHERE_HARMLESS = frozenset({"tool.call", "prompt.get", "resource.read"})


def decide(actor: Actor, action: str, resource: Resource) -> Decision:
    """Whether the actor may do this to that, and why.

    `tool.call` allows any tool, `prompt.get` any prompt and `resource.read` any resource; `tool.read` allows what only
    reads: native tools that change nothing, and what staff marked as low risk. A key's scopes have narrowed the actor's
    grants before.
    """
    missing = [permission for permission in resource.required if not actor.can(permission, resource.name)]
    if missing:
        return Decision(False, f"{resource.name} also asks for {', '.join(missing)}.", rule="required_scopes")
    if actor.can(action, resource.name):
        return Decision(True, f"{actor.label} holds {action}.", rule=action)
    harmless = resource.reads_only or resource.risk == "low"
    if action in _OPEN_WHERE_HARMLESS and harmless and actor.can("tool.read", resource.name):
        return Decision(True, f"{actor.label} holds tool.read, and this {resource.kind} only reads.", rule="tool.read")
    return Decision(False, f"{actor.label} does not hold {action} for {resource.name}.")
