"""How Django finds who asks: a bearer credential for REST, a password with lock-out for the admin."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessions
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from apps.auth import services
from apps.auth.models import User
from apps.core import logs
from apps.core.actor import Actor
from apps.core.errors import NotAuthenticated, NotPermitted, RateLimited

SCHEME = "bearer"


@dataclass(frozen=True, slots=True)
class Caller:
    """What REST framework asks of a user; everything else is the actor, in `request.auth`."""

    is_authenticated: bool = True


class ActorAuthentication(BaseAuthentication):
    """Reads `Authorization: Bearer` and nothing else: no cookie, no query."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        """The actor of a key or of a token for REST; None without a credential."""
        scheme, _, credential = request.headers.get("Authorization", "").strip().partition(" ")
        if scheme.lower() != SCHEME:
            return None
        actor = services.actor_from_bearer(
            credential.strip(),
            surface="rest",
            audience=settings.REST_AUDIENCE,
            address=address_of(request),
            organization=request.headers.get("X-Organization") or None,
        )
        request._request.actor = actor  # type: ignore[attr-defined]
        logs.current_actor.set(actor)
        return Caller(), actor

    def authenticate_header(self, request: Request) -> str:
        """What a caller without a credential is told."""
        return 'Bearer realm="gatehouse"'


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document names it."""

    target_class = ActorAuthentication
    name = SCHEME

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A bearer credential."""
        return {"type": "http", "scheme": SCHEME}


class PasswordBackend(ModelBackend):
    """Checks a password for whatever asks Django to, under every door's lock-out; nobody can show a second factor."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> User | None:
        """The user, or None for every refusal."""
        if not username or not password:
            return None
        address = str(getattr(request, "address", "") or (request.META.get("REMOTE_ADDR", "") if request else ""))
        try:
            user = services.verify_password(email=username, password=password, address=address)
            services.check_second_factor(user, code=None, address=address)
        except (NotAuthenticated, NotPermitted, RateLimited):
            return None
        return user


class SessionStore(DatabaseSessions):
    """Keeps the admin's sessions under a hash of their cookie, so that a copy of the database opens none of them."""

    def _get_session_from_db(self) -> Any:
        row = self.model.objects.filter(session_key=_hashed(self.session_key), expire_date__gt=timezone.now()).first()
        if row is None:
            self._session_key = None
        return row

    def create_model_instance(self, data: Any) -> Any:
        """The row of a session."""
        row = super().create_model_instance(data)
        row.session_key = _hashed(row.session_key)
        return row

    def exists(self, session_key: str) -> bool:
        """Whether there is a session of this cookie."""
        return bool(super().exists(_hashed(session_key)))

    def delete(self, session_key: str | None = None) -> None:
        """End the session of this cookie, or this one."""
        cookie = session_key or self.session_key
        if cookie:
            super().delete(_hashed(cookie))


def _hashed(cookie: str | None) -> str:
    """As long as the column; a cookie has 160 bits, so that nothing need be added to it before."""
    return sha256((cookie or "").encode()).hexdigest()[:40]


def address_of(request: Request) -> str:
    """The caller's address, as the front found it behind trusted proxies."""
    plain = request._request
    return str(getattr(plain, "address", "") or plain.META.get("REMOTE_ADDR", ""))
