"""Tokens as attackers and as we ourselves would write them, and the shortest way to try one."""

import base64
import json
from typing import Any

import jwt
from django.conf import settings
from rest_framework.response import Response
from rest_framework.test import APIClient

from apps.auth import services
from apps.auth.services.signing import signing_key
from apps.core.errors import NotAuthenticated
from tests.people import Person

ME = "/api/v1/auth/me"


def sign_in(person: Person, **options: Any) -> services.Tokens:
    """A pair of tokens of this person, in their organisation."""
    organization = person.organization.slug if person.organization else None
    options = {"organization": organization, **options}
    return services.login(email=person.email, password=person.password, **options)


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, without a look at its signature."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def signed(claims: dict[str, Any], **headers: Any) -> str:
    """A token that our own key signed: only what it says can be wrong with it."""
    key = signing_key()
    return jwt.encode(claims, key.private, "RS256", headers={"kid": key.kid, "typ": "at+jwt", **headers})


def changed(token: str, **claims: Any) -> str:
    """The token with other claims, signed by us; a claim of None-like `...` is left out."""
    said = {**claims_of(token), **claims}
    return signed({name: value for name, value in said.items() if value is not ...})


def raw(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand, for headers that no library would write."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def client(credential: str | None = None, **headers: str) -> APIClient:
    """A caller of the REST door with a bearer credential."""
    caller = APIClient()
    bearer = {"HTTP_AUTHORIZATION": f"Bearer {credential}"} if credential is not None else {}
    caller.credentials(**bearer, **headers)
    return caller


def knock(credential: str) -> Response:
    """What GET /auth/me answers to this credential."""
    answer: Response = client(credential).get(ME)
    return answer


def opens_mcp(credential: str) -> bool:
    """Whether the MCP endpoint would take the credential."""
    try:
        services.actor_from_bearer(credential, surface="mcp", audience=settings.MCP_AUDIENCE)
    except NotAuthenticated:
        return False
    return True


def refused(answer: Response) -> bool:
    """Whether the answer is the one 401: our envelope, the challenge, nothing of what was wrong inside."""
    body = answer.json()["error"]
    return (
        answer.status_code == 401
        and body["code"] == "NOT_AUTHENTICATED"
        and answer.headers["WWW-Authenticate"].startswith("Bearer")
    )
