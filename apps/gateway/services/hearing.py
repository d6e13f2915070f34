"""What a server says and asks while it works on a call, on its way to the agent's client."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from apps.audit import services as audit
from apps.core.actor import system_actor
from apps.core.threads import in_thread
from apps.gateway.services.asking import NOT_DECLARED, Client, PasswordAsked, check_question, is_wanted
from apps.gateway.services.parking import Parked
from apps.registry import services as registry

logger = logging.getLogger(__name__)
JOURNAL_SECONDS = 60.0
_MOST_REMEMBERED = 1000
_passing = frozenset({"notifications/progress", "notifications/elicitation/complete"})
_journalled: "OrderedDict[tuple[UUID, str], float]" = OrderedDict()


class CallListener:
    """The listener of one call."""

    def __init__(self, client: Client, route: registry.ServerRoute) -> None:
        self.parked: Parked | None = None
        self.has_asked = False
        self._client = client
        self._route = route

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """Progress passes, and the log as far as the client wants it; what concerns lists is told another way."""
        client = self.parked.client or self._client if self.parked else self._client
        is_log = method == "notifications/message"
        if method in _passing or (
            is_log and is_wanted(params.get("level"), client.log_level, is_modern=client.is_modern)
        ):
            (self.parked.tell if self.parked else client.notify)(method, params)

    async def check(self, method: str, params: Mapping[str, Any]) -> None:
        """Raise Refused for what the client may not be asked; the refusal is in the journal."""
        try:
            check_question(self._client, method, params)
        except registry.Refused as refusal:
            await note_refusal(self._route, method, refusal)
            raise

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question to the client; raises Refused for what it may not be asked.

        A slot has checked that before it was left. Not every question comes by a slot.
        """
        await self.check(method, params)
        self.has_asked = True
        if "task" in params:  # by which the client would answer with a task, and nobody has told the server that it may
            params = {name: value for name, value in params.items() if name != "task"}
        if self.parked is not None:
            return await self.parked.asked(method, params)
        return await self._client.ask(method, params)


class BesideCalls:
    """The listener of a session with a server, for what comes on no call's own stream.

    Many a server asks there, in the middle of a call: that call's client is asked. The calls of a downstream session
    have one client; where several clients share a key nobody knows which of two calls is meant.
    """

    def __init__(self, *, is_of_one_client: bool) -> None:
        self._is_of_one_client = is_of_one_client
        self._calls: dict[registry.Listener, asyncio.Future[None]] = {}

    def begin(self, call: registry.Listener) -> None:
        """A call is under way."""
        self._calls[call] = asyncio.get_running_loop().create_future()

    def end(self, call: registry.Listener) -> None:
        """It has ended, and what was asked for it with it."""
        over = self._calls.pop(call, None)
        if over is not None and not over.done():
            over.set_result(None)

    def notified(self, method: str, params: Mapping[str, Any]) -> None:
        """A line of log is told to whom it concerns; what concerns lists is told another way."""
        if method == "notifications/message" and (call := self._call()):
            call.notified(method, params)

    async def asked(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask on behalf of the call under way."""
        call = self._call()
        if call is None:
            raise registry.Refused(NOT_DECLARED, "Clients are asked only while a call of theirs is carried out.")
        asking, over = asyncio.ensure_future(call.asked(method, params)), self._calls[call]
        either: set[asyncio.Future[Any]] = {asking, over}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise registry.Refused(NOT_DECLARED, "The call that this was asked for has ended.")
            return asking.result()
        finally:
            asking.cancel()

    def _call(self) -> registry.Listener | None:
        if not self._calls or (len(self._calls) > 1 and not self._is_of_one_client):
            return None
        return next(reversed(self._calls))


async def note_refusal(route: registry.ServerRoute, method: str, refusal: registry.Refused) -> None:
    """Write into the journal that a server asked what it must not, once a minute at most."""
    kind = "password" if isinstance(refusal, PasswordAsked) else "undeclared"
    key, now = (route.id, f"{method}:{kind}"), time.monotonic()
    if now - _journalled.get(key, -JOURNAL_SECONDS) < JOURNAL_SECONDS:
        return
    _journalled[key] = now
    while len(_journalled) > _MOST_REMEMBERED:
        _journalled.popitem(last=False)
    try:
        await asyncio.shield(in_thread(_write_refusal, route, method, refusal.message))
    except Exception:
        logger.exception("A refused question could not be written into the journal.")


def _write_refusal(route: registry.ServerRoute, method: str, why: str) -> None:
    audit.record(
        system_actor(route.organization_id), "server.question_refused", f"server:{route.slug}",
        details={"method": method[:60], "why": why[:300]},
    )  # fmt: skip
