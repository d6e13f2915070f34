"""Shapes of jobs."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from apps.core.schemas import In, Out
from apps.jobs.models import State


class JobFilters(In):
    """Which jobs to list; all given conditions must hold."""

    kind: str | None = Field(None, max_length=60, description="The name of the task: registry.discover")
    state: State | None = None
    subject: str | None = Field(None, max_length=200, description="What it works on: server:weather")


class JobOut(Out):
    """A job: where it stands and what came of it."""

    id: UUID
    kind: str
    subject: str
    state: State
    progress: int
    result: dict[str, Any] | None
    error: dict[str, Any] | None = Field(description="Code, message and details of the last failed attempt.")
    attempts: int
    max_attempts: int
    actor_label: str
    created_at: datetime
    run_after: datetime
    started_at: datetime | None
    finished_at: datetime | None
