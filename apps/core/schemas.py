"""Shapes that every app shares: what goes in, what comes out, and lists in pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from django.db.models import QuerySet
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

T = TypeVar("T")
LARGEST_PAGE = 200
LAST_PAGE = 100_000


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("this moment is out of range") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A moment with its time zone, as a caller writes it; always in UTC here."""


class In(BaseModel):
    """Something that a caller sends; names that we do not know are refused."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


def show_no_defaults(schema: dict[str, Any]) -> None:
    """For the schema of a change: what is left out stays as it is, so a default would mislead whoever reads it."""
    for each in schema["properties"].values():
        each.pop("default", None)


class Out(BaseModel):
    """Something that we show, read from the attributes of what a service returned."""

    model_config = ConfigDict(from_attributes=True)


class PageQuery(BaseModel):
    """Which page of a list, counted from 1."""

    page: int = Field(1, ge=1, le=LAST_PAGE)
    page_size: int = Field(50, ge=1, le=LARGEST_PAGE)


class PageOut(Out, Generic[T]):
    """One page of a list."""

    items: list[T]
    total: int
    page: int
    page_size: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of rows, with the number of all of them."""

    items: Sequence[Any]
    total: int
    page: int
    page_size: int


def page_of(rows: "QuerySet[Any]", query: PageQuery) -> Page:
    """The page of an ordered queryset: one query for the count, one for the rows."""
    first = (query.page - 1) * query.page_size
    return Page(list(rows[first : first + query.page_size]), rows.count(), query.page, query.page_size)


class ErrorBody(Out):
    """What went wrong."""

    code: str
    message: str
    details: dict[str, Any]
    timestamp: str
    request_id: str


class ErrorOut(Out):
    """The one shape of every error."""

    error: ErrorBody


@dataclass(frozen=True, slots=True)
class Check:
    """What one part of the platform says about itself."""

    name: str
    ok: bool
    message: str = ""
