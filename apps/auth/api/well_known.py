"""REST: the public keys that verify our tokens, at /.well-known/."""

from django.http import HttpRequest
from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.response import Response

from apps.auth import services
from apps.auth.api.door import Door, show
from apps.auth.schemas import JwkSetOut

KEPT_SECONDS = 300


class PublishedKeys(Door):
    """/.well-known/jwks.json."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(operation_id="get_jwks", tags=["Sign in"], responses=JwkSetOut, auth=[])
    def get(self, request: HttpRequest) -> Response:
        """The keys that verify our tokens (RFC 7517)."""
        answer = show(JwkSetOut, services.published_keys())
        answer["Cache-Control"] = f"public, max-age={KEPT_SECONDS}"
        return answer


urlpatterns = [path("jwks.json", PublishedKeys.as_view())]
