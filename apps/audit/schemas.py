"""Shapes of the journal."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from apps.core.schemas import In, Moment, Out


class LogFilters(In):
    """Which entries of the journal to list; all given conditions must hold."""

    action: str | None = Field(
        None, max_length=60, description="An action, or all of a noun: server.registered, server.*"
    )
    actor: str | None = Field(None, max_length=200, description="The label or the id of whoever acted.")
    outcome: Literal["done", "refused"] | None = None
    since: Moment | None = Field(None, description="At or after this moment.")
    until: Moment | None = Field(None, description="Before this moment.")
    subject: str | None = Field(None, max_length=200, description="What it happened to: server:weather")
    subject_id: UUID | None = Field(None, description="The id of what it happened to, whatever it was called then.")


class EntryOut(Out):
    """One thing that happened, with its place in the chain."""

    id: UUID
    sequence: int
    at: datetime
    action: str
    outcome: str
    actor_kind: str
    actor_id: str
    actor_label: str
    surface: str
    address: str
    subject: str
    subject_id: str
    details: dict[str, Any]
    request_id: str
    previous_digest: str
    digest: str
