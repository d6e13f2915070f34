"""Shapes of usage."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import Field, PlainSerializer

from apps.core.schemas import In, Moment, Out
from apps.usage.models import Status


class EventFilters(In):
    """Which usage events to list; all given conditions must hold."""

    status: Status | None = None
    server: str | None = Field(None, max_length=20, description="The slug of a server.")
    name: str | None = Field(None, max_length=200, description="The tool's name as the caller knows it.")
    method: str | None = Field(None, max_length=40, description="What was asked: tools/call")
    surface: str | None = Field(None, max_length=10, description="The door: rest, mcp, ws, admin, job, command")
    since: Moment | None = Field(None, description="At or after this moment.")
    until: Moment | None = Field(None, description="Before this moment.")


class EventOut(Out):
    """One metered call."""

    id: UUID
    at: datetime
    surface: str
    endpoint: str
    method: str
    name: str
    server: str
    status: Status
    error_code: str
    actor_kind: str
    actor_id: UUID | None
    actor_label: str
    user_id: UUID | None
    key_id: UUID | None
    latency_ms: float
    bytes_in: int
    bytes_out: int
    tokens_in: int
    tokens_out: int
    cost: Annotated[Decimal, PlainSerializer(lambda cost: format(cost, "f"), return_type=str)]
    request_id: str
