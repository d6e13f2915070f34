"""What search and fetch answer, in the shapes that clients with a search connector expect."""

from typing import Any

from pydantic import BaseModel, Field


class Found(BaseModel):
    """One hit of a search."""

    id: str = Field(description="What `fetch` takes.")
    title: str
    url: str = Field(description="A name for it that no other thing has.")


class SearchOut(BaseModel):
    """The hits, best first."""

    results: list[Found]
    next_cursor: str | None = Field(None, description="Give it as `cursor` for the next page; none on the last.")


class FetchOut(BaseModel):
    """One thing in full."""

    id: str
    title: str
    text: str = Field(description="Its definition as JSON: description, input and output schema.")
    url: str
    metadata: dict[str, Any]
