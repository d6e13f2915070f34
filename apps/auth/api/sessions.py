"""REST: sign in, go on, sign out, and who one is."""

from django.http import HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.response import Response

from apps.auth import services
from apps.auth.api.door import Door, nothing, show
from apps.auth.api.floods import refuse_floods
from apps.auth.authentication import address_of
from apps.auth.schemas import LoginIn, MeOut, RefreshIn, TokensOut

TAGS = ["Sign in"]


class Login(Door):
    """POST /auth/login."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(operation_id="login", tags=TAGS, request=LoginIn, responses=TokensOut, auth=[])
    def post(self, request: HttpRequest) -> Response:
        """Exchange e-mail address and password for a pair of tokens."""
        refuse_floods(self.request)
        given = self.body(LoginIn)
        return show(TokensOut, services.login(**given.model_dump(), address=address_of(self.request)))


class Refresh(Door):
    """POST /auth/refresh."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(operation_id="refresh", tags=TAGS, request=RefreshIn, responses=TokensOut, auth=[])
    def post(self, request: HttpRequest) -> Response:
        """Exchange a refresh token for the next pair, once; a token that comes back ends the session."""
        given = self.body(RefreshIn)
        return show(TokensOut, services.refresh_tokens(refresh=given.refresh, address=address_of(self.request)))


class Logout(Door):
    """POST /auth/logout."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(operation_id="logout", tags=TAGS, request=RefreshIn, responses={204: None}, auth=[])
    def post(self, request: HttpRequest) -> Response:
        """End the session of a refresh token, its access tokens included."""
        services.logout(None, refresh=self.body(RefreshIn).refresh, address=address_of(self.request))
        return nothing()


class Me(Door):
    """GET /auth/me."""

    @extend_schema(operation_id="get_me", tags=TAGS, responses=MeOut)
    def get(self, request: HttpRequest) -> Response:
        """Who the credential is, where it acts, and what it may do."""
        return show(MeOut, services.describe_me(self.actor))
