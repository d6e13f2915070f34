"""What every address of this app does before its three lines."""

from typing import Any, TypeVar, cast

from drf_spectacular.utils import OpenApiParameter
from pydantic import BaseModel, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.auth import serializers as _  # noqa: F401 - describes our shapes in the document
from apps.core.actor import Actor
from apps.core.errors import InvalidInput, Malformed
from apps.core.schemas import PageQuery
from apps.core.toolbox import field_errors

Shape = TypeVar("Shape", bound=BaseModel)
PAGES = [
    OpenApiParameter("page", int, description="Counted from 1."),
    OpenApiParameter("page_size", int, description="At most 200."),
]


class Door(APIView):
    """An address; lists take a page, everything else takes no query."""

    has_pages = False

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Find the actor, then refuse query names that mean nothing here."""
        super().initial(request, *args, **kwargs)
        known = set(PageQuery.model_fields) if self.has_pages and request.method in ("GET", "HEAD") else set()
        unknown = sorted(set(request.query_params) - known)
        if unknown:
            raise Malformed(f"There is no such filter: {', '.join(unknown)[:200]}.")

    @property
    def actor(self) -> Actor:
        """Who asks."""
        return cast(Actor, self.request.auth)

    @property
    def page(self) -> PageQuery:
        """Which page is asked for; raises Malformed."""
        try:
            return PageQuery.model_validate(self.request.query_params.dict())
        except ValidationError as error:
            raise Malformed("page and page_size are whole numbers from 1; page_size is at most 200.") from error

    def body(self, shape: type[Shape]) -> Shape:
        """What was sent, in its shape; raises InvalidInput with the refused fields."""
        try:
            return shape.model_validate(self.request.data)
        except ValidationError as error:
            raise InvalidInput(details={"fields": field_errors(error)}) from error


def show(shape: type[BaseModel], thing: object, *, status: int = 200) -> Response:
    """The answer: something in its shape."""
    return Response(shape.model_validate(thing).model_dump(mode="json"), status=status)


def nothing() -> Response:
    """The answer when there is nothing more to say."""
    return Response(status=204)
