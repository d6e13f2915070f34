"""The answers that requests wait for on a connection which they share: told apart by the numbers of the requests."""

import asyncio
from typing import Any

from apps.core.errors import BackendError
from apps.registry.backends import wire


class Answers:
    """Who waits for which answer. An answer that nobody waits for came too late or was never asked, and is dropped."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[wire.Heard]] = {}

    @property
    def awaited(self) -> list[int]:
        """The numbers of the requests under way."""
        return list(self._waiting)

    def expect(self, number: int) -> "asyncio.Future[wire.Heard]":
        """The answer to a request that is about to be made."""
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        return answer

    def forget(self, number: int) -> None:
        """The request has ended, with its answer or without."""
        answer = self._waiting.pop(number, None)
        if answer is not None and answer.done() and not answer.cancelled():
            answer.exception()  # marks it as seen where the writing failed, or the time was up, first

    def give(self, number: Any, outcome: wire.Heard | BackendError) -> bool:
        """Hand an answer, or what is there in its place, to whoever waits; whether somebody did."""
        answer = self._waiting.get(number) if type(number) is int else None
        if answer is None or answer.done():
            return False
        if isinstance(outcome, BackendError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
        return True
