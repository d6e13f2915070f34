"""What goes to a server for an agent: allowed, within its limit, sent, and carried through its rounds."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from apps.core import budget, limits
from apps.core.actor import Actor
from apps.core.errors import NotPermitted
from apps.core.threads import in_thread
from apps.gateway.services.asking import LOG_LEVEL, NEEDED_FOR, Ask, Client
from apps.gateway.services.hearing import CallListener, note_refusal
from apps.gateway.services.offers import Offer, Tool, UnknownTool, action_of
from apps.gateway.services.outages import unanswered
from apps.gateway.services.parking import Parked, park
from apps.gateway.services.pool import upstreams
from apps.gateway.services.results import size_of, wrong
from apps.gateway.services.rounds import Misbehaved, Place, converse, open_state
from apps.gateway.services.views import View
from apps.gateway.services.ways import Caller
from apps.policies.services import decide
from apps.registry import services as registry


@dataclass(slots=True)
class Errand:
    """One request to a server: what is used there, how, and at which revision of the catalogue."""

    thing: Tool | Offer
    item: registry.CatalogueItem
    revision: int
    method: str
    params: dict[str, Any]
    was_asked: bool = False
    """Whether what the client answered to a question is in the result."""

    @classmethod
    def to(cls, thing: Tool | Offer, view: View, method: str, params: dict[str, Any]) -> "Errand":
        """The errand to a thing's own server; raises UnknownTool for a tool of ours."""
        if thing.upstream is None:
            raise UnknownTool
        return cls(thing, thing.upstream, view.revision, method, params)


def check_decision(actor: Actor, thing: Tool | Offer) -> None:
    """Raise NotPermitted, which says why, unless the actor may use this."""
    decision = decide(actor, action_of(thing), thing.resource)
    if not decision.allowed:
        raise NotPermitted(
            f"{thing.name} was not used: {decision.reason} Ask an admin of the organisation for it.",
            details={thing.resource.kind: thing.name, "rule": decision.rule},
        )


async def take_turn(actor: Actor, errand: Errand) -> None:
    """Count one use of what staff allow only so many times a minute; raises RateLimited."""
    limit = errand.item.rate_limit_per_minute
    if limit is not None:
        name = errand.thing.resource.name
        key = f"{errand.thing.resource.kind}:{actor.organization_id}:{name}"
        await in_thread(limits.take, key, limit=limit, what=name)


def caller_of(actor: Actor, client: Client) -> Caller:
    """Whose links to servers carry what the actor asks by this client."""
    return Caller(client.session_id, str(actor.key_id or actor.id or actor.label), client)


async def ask_server(
    actor: Actor, errand: Errand, ask: Ask, listener: CallListener | None = None
) -> tuple[dict[str, Any], registry.ServerRoute]:
    """Make the request, in as many rounds as it takes."""
    pool, server_id = upstreams(), errand.item.server_id
    route = await pool.route(server_id, errand.revision)
    caller = caller_of(actor, ask.client)
    meta = _said_beside(ask, route)
    params = {**errand.params, "_meta": meta} if meta else errand.params
    hears = listener or CallListener(ask.client, route)

    async def send(more: Mapping[str, Any]) -> dict[str, Any]:
        asked = {**params, **more} if more else params
        errand.was_asked = errand.was_asked or bool(more)
        result, _ = await pool.request(server_id, errand.revision, caller, errand.method, asked, listener=hears)
        errand.was_asked = errand.was_asked or hears.has_asked
        return result

    try:
        if not route.is_modern and _answers_by_calling_again(ask.client):
            return await hold(actor, errand, ask, hears, lambda: send({})), route
        return await converse(ask, _place_of(actor, errand, ask), send), route
    except registry.Unanswered as error:
        raise unanswered(route) from error
    except Misbehaved as error:
        if error.refused and isinstance(error.__cause__, registry.Refused):
            await note_refusal(route, error.refused, error.__cause__)
        raise wrong(route, str(error)) from error


def _said_beside(ask: Ask, route: registry.ServerRoute) -> dict[str, Any]:
    """What a request says beside its parameters.

    How much of the log a session wants was said once; a server of 2026-07-28 wants to hear it with each request.
    """
    level = ask.client.log_level if route.is_modern and not ask.client.is_modern else ""
    return {**ask.meta, LOG_LEVEL: level} if level else dict(ask.meta)


async def hold(
    actor: Actor, errand: Errand, ask: Ask, listener: CallListener, work: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Do what a call takes at a server that asks by requests; for a client that answers by calling again it waits here.

    What the server asks goes to the listener.
    """
    place = _place_of(actor, errand, ask)
    if not _answers_by_calling_again(ask.client):
        if ask.request_state is not None:
            open_state(place, ask.request_state)  # raises InvalidInput for what is no state of ours
        return await work()

    async def start(parked: Parked) -> dict[str, Any]:
        listener.parked, parked.size = parked, ask.size or size_of(errand.params)
        parked.share = budget.Share(budget.budget(), actor.organization_id)
        with budget.counting(parked.share, actor.organization_id):
            return await work()

    return await park(ask, place, start)


def _place_of(actor: Actor, errand: Errand, ask: Ask) -> Place:
    whose, server = f"{caller_of(actor, ask.client).key}@{actor.organization_id}", str(errand.item.server_id)
    return Place(whose, ask.bundle, errand.method, errand.thing.name, server, actor.organization_id)


def _answers_by_calling_again(client: Client) -> bool:
    return client.is_modern and any(name in client.capabilities for name in NEEDED_FOR.values())
