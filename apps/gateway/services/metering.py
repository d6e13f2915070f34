"""The usage event of one request, from its beginning to its end."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.core.actor import Actor
from apps.core.errors import NotPermitted, ServiceError
from apps.usage import services as usage

_LONGEST_NAME = 200


@dataclass(slots=True)
class Meter:
    """One request's usage event while it grows; as a context manager it leaves the event, whatever happens."""

    actor: Actor
    endpoint: str
    method: str
    name: str
    bytes_in: int
    bytes_out: int = 0
    server: str = ""
    status: str = "ok"
    error_code: str = ""
    started: float = field(default_factory=time.perf_counter)

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self.failed(error)
        self.record()

    def ended(self, result: Mapping[str, Any]) -> None:
        """The tool answered, perhaps with an error of its own."""
        if result.get("isError"):
            self.status, self.error_code = "error", "TOOL_ERROR"

    def failed(self, error: BaseException) -> None:
        """The call was refused, failed or given up."""
        self.status = "denied" if isinstance(error, NotPermitted) else "error"
        if isinstance(error, ServiceError):
            self.error_code = error.code
        else:
            self.error_code = "CANCELLED" if isinstance(error, asyncio.CancelledError) else "INTERNAL"

    def record(self) -> None:
        """Leave the event; the writer stores it off this path."""
        usage.record_call(
            self.actor,
            endpoint=self.endpoint,
            method=self.method,
            name=self.name[:_LONGEST_NAME],
            server=self.server,
            status=self.status,
            error_code=self.error_code,
            latency_ms=(time.perf_counter() - self.started) * 1000,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
        )
