"""Calls in several rounds: a server wants to know more before it answers, and the client answers by calling again.

What 2026-07-28 does by results, the revisions before do by requests within the call. Between two of different eras the
gateway translates: a question in a result is put to an older client as a request; a request of an older server becomes
a result for a newer client, and the call waits, parked, until the client calls again; see parking.py.

The state that a client carries is sealed: it holds for one caller, one endpoint and one capability, and for a while.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from apps.core.errors import InvalidInput
from apps.gateway.services.asking import Ask, Client, check_question
from apps.gateway.services.results import INPUT_REQUIRED
from apps.gateway.services.sealing import seal, unseal
from apps.registry import services as registry

STATE_SECONDS = 600
ANSWER_SECONDS = 600.0
"""How long a client of the older era may take to answer what a result asks."""
MOST_ROUNDS = 8
MOST_QUESTIONS = 16
LARGEST_STATE = 65_536
_STATE = "state"


class Misbehaved(Exception):
    """A server breaks the protocol in what it asks; the text follows "The server answered wrongly:".

    `refused` is the method of a question that this client must not be asked.
    """

    def __init__(self, why: str, refused: str = "") -> None:
        super().__init__(why)
        self.refused = refused


@dataclass(slots=True)
class Place:
    """What a state is good for: this caller, at this endpoint, for this capability of this server."""

    caller: str
    bundle: str
    method: str
    name: str
    server: str
    organization_id: UUID | None = None

    def digest(self) -> str:
        """All of it, short; the caller is one of the organisation."""
        return hashlib.sha256(orjson.dumps([self.caller, self.bundle, self.method, self.name, self.server])).hexdigest()


@dataclass(frozen=True, slots=True)
class Opened:
    """What a state held: the server's own one, or the call that waits here."""

    upstream: str | None
    parked: str


def seal_state(place: Place, *, upstream: str | None = None, parked: str = "") -> str:
    """A state that only the same caller can use, for the same thing."""
    return seal(_STATE, {"of": place.digest(), "up": upstream, "parked": parked})


def open_state(place: Place, state: str) -> Opened:
    """What a state holds; raises InvalidInput for one that is not ours, is too old or was given for something else."""
    told = _unsealed(state)
    if told is None or told["of"] != place.digest():
        raise _wrong_state()
    return Opened(told["up"], told["parked"])


def owner_of_state(state: str) -> str:
    """The process in which the call waits that a state continues; "" where any process can continue it."""
    told = _unsealed(state)
    return str(told["parked"]).partition(".")[0] if told else ""


def _unsealed(state: str) -> dict[str, Any] | None:
    return unseal(_STATE, state, seconds=STATE_SECONDS)


def _wrong_state() -> InvalidInput:
    return InvalidInput.for_field(
        "requestState", "This state is not one of ours, or not for this call, or too old. Begin the call again."
    )


# Questions in results ---------------------------------------------------------------------------------------------


def questions_of(result: Mapping[str, Any], client: Client) -> dict[str, dict[str, Any]]:
    """What a result asks; raises Misbehaved where it asks what this client must not be asked."""
    asked = result.get("inputRequests") or {}
    if not isinstance(asked, Mapping) or len(asked) > MOST_QUESTIONS or not all(map(_is_question, asked.values())):
        raise Misbehaved("it asks for input in a way that is not of the protocol")
    for question in asked.values():
        try:
            check_question(client, question["method"], question.get("params") or {})
        except registry.Refused as refusal:
            why = f"it asks for what this client cannot answer: {refusal.message}"
            raise Misbehaved(why, question["method"]) from refusal
    return dict(asked)


def _is_question(asked: Any) -> bool:
    if not isinstance(asked, Mapping) or not isinstance(asked.get("method"), str):
        return False
    return asked.get("params") is None or isinstance(asked["params"], Mapping)


async def ask_all(client: Client, questions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put the questions of a result to a client of the older era, one after the other.

    Raises Misbehaved, or Unanswered.
    """
    answers: dict[str, Any] = {}
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            for name, question in questions.items():
                answers[name] = await client.ask(question["method"], question.get("params") or {})
    except registry.Refused as refusal:
        raise Misbehaved(f"it asked the client, which refused: {refusal.message}") from refusal
    except TimeoutError as error:
        raise registry.Unanswered from error
    return answers


# Rounds --------------------------------------------------------------------------------------------------------------


async def converse(
    ask: Ask,
    place: Place,
    send: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Carry a call through its rounds: `send` makes one with these further params and gives what the server says.

    Gives a complete result; to a client of 2026-07-28 also one that asks, with our own state. Raises Misbehaved
    or Unanswered.
    """
    more: dict[str, Any] = {}
    if ask.request_state is not None:
        opened = open_state(place, ask.request_state)
        more = {} if opened.upstream is None else {"requestState": opened.upstream}
    if ask.input_responses is not None:
        more["inputResponses"] = dict(ask.input_responses)
    for _ in range(MOST_ROUNDS):
        result = await send(more)
        if result.get("resultType", "complete") != INPUT_REQUIRED:
            return result
        questions, state = questions_of(result, ask.client), _state_of(result)
        if ask.client.is_modern:
            asking: dict[str, Any] = {"resultType": INPUT_REQUIRED, "inputRequests": questions}
            return {**asking, "requestState": seal_state(place, upstream=state)} if state is not None else asking
        more = {"inputResponses": await ask_all(ask.client, questions)}
        if state is not None:
            more["requestState"] = state
    raise Misbehaved(f"it asked for input {MOST_ROUNDS} times and still does not answer")


def _state_of(result: Mapping[str, Any]) -> str | None:
    state = result.get("requestState")
    if state is None:
        return None
    if not isinstance(state, str) or len(state) > LARGEST_STATE:
        raise Misbehaved("its state is no text, or too long")
    return state
