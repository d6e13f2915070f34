"""REST: API keys."""

from uuid import UUID

from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework.response import Response

from apps.auth import services
from apps.auth.api.door import PAGES, Door, nothing, show
from apps.auth.schemas import KeyIn, KeyOut, KeyPageOut, NewKeyOut, RotateKeyIn

TAGS = ["Keys"]


class Keys(Door):
    """/auth/api-keys."""

    has_pages = True

    @extend_schema(operation_id="list_api_keys", tags=TAGS, parameters=PAGES, responses=KeyPageOut)
    def get(self, request: HttpRequest) -> Response:
        """Your keys; with `key.read`, everybody's in the organisation."""
        return show(KeyPageOut, services.list_keys(self.actor, page=self.page))

    @extend_schema(operation_id="create_api_key", tags=TAGS, request=KeyIn, responses={201: NewKeyOut})
    def post(self, request: HttpRequest) -> Response:
        """Make a key of yours; its text is in this answer and never shown again."""
        return _show_once(services.create_key(self.actor, **self.body(KeyIn).model_dump()))


class Key(Door):
    """/auth/api-keys/{api_key_id}."""

    @extend_schema(operation_id="get_api_key", tags=TAGS, responses=KeyOut)
    def get(self, request: HttpRequest, api_key_id: UUID) -> Response:
        """One key, without its secret."""
        return show(KeyOut, services.get_key(self.actor, key_id=api_key_id))

    @extend_schema(operation_id="revoke_api_key", tags=TAGS, responses={204: None})
    def delete(self, request: HttpRequest, api_key_id: UUID) -> Response:
        """Revoke a key: it opens nothing any more, within a second everywhere."""
        services.revoke_key(self.actor, key_id=api_key_id)
        return nothing()


class Rotation(Door):
    """POST /auth/api-keys/{api_key_id}/rotate."""

    @extend_schema(operation_id="rotate_api_key", tags=TAGS, request=RotateKeyIn, responses={201: NewKeyOut})
    def post(self, request: HttpRequest, api_key_id: UUID) -> Response:
        """Make a key's successor; its text is in this answer only. The old key ends after the overlap."""
        given = self.body(RotateKeyIn)
        return _show_once(services.rotate_key(self.actor, key_id=api_key_id, **given.model_dump()))


def _show_once(made: services.NewKey) -> Response:
    shown = KeyOut.model_validate(made.key).model_dump()
    return show(NewKeyOut, {**shown, "key": made.plain}, status=201)
