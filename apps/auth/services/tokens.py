"""JSON web tokens: simplejwt's, signed and read more strictly than its own backend does.

Only RS256 under our own keys, found by a `kid` that is compared and never looked up; only the three header parameters
that we write; every claim present and of its type.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from django.conf import settings
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenError
from rest_framework_simplejwt.tokens import Token

from apps.auth.services.signing import ALGORITHM, signing_key, verifying_keys
from apps.core.errors import NotAuthenticated

LONGEST_TOKEN = 8192
ENDED = "This session has ended. Sign in again."
REGISTERED = ["exp", "iat", "nbf", "iss", "aud", "sub", "jti"]

UuidText = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Moment = Annotated[int, Field(ge=0, lt=2**40)]


class TokenExpired(NotAuthenticated):
    """The time of a token is over; nobody has taken it away."""


class Claims(BaseModel):
    """What a token of ours says, every part of it present and of its type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    token_type: Literal["access", "refresh"]
    iss: str
    aud: str
    sub: UuidText
    user_id: UuidText
    org: UuidText | None
    roles: list[str]
    permissions: list[str]
    sid: UuidText = Field(description="The family of refresh tokens that this token belongs to.")
    epoch: int = Field(description="The user's token_epoch when the token was made.")
    jti: UuidText
    iat: Moment
    nbf: Moment
    exp: Moment

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        if self.sub != self.user_id:
            raise ValueError("sub and user_id differ")
        return self

    @property
    def user(self) -> UUID:
        """The user's id."""
        return UUID(self.user_id)

    @property
    def organization(self) -> UUID | None:
        """The organisation's id, if the token names one."""
        return UUID(self.org) if self.org else None

    @property
    def family(self) -> UUID:
        """The id of the family."""
        return UUID(self.sid)


class StrictBackend(TokenBackend):
    """Signs with a `kid` and a `typ`, and reads nothing that is not exactly what it would have written."""

    def __init__(self, *, audience: str, typ: str) -> None:
        super().__init__(ALGORITHM, audience=audience, issuer=settings.PUBLIC_URL, leeway=settings.TOKEN_LEEWAY_SECONDS)
        self.typ = typ

    def encode(self, payload: dict[str, Any]) -> str:
        """Sign; `aud` and `iss` are this backend's."""
        key = signing_key()
        claims = {**payload, "aud": self.audience, "iss": self.issuer}
        return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": self.typ})

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """Verify and return the claims; there is no way to read without verifying. Raises TokenBackendError."""
        try:
            public = self._public_key(token)
            payload = jwt.decode(
                token,
                public,
                algorithms=[ALGORITHM],
                audience=self.audience,
                issuer=self.issuer,
                leeway=self.get_leeway(),
                options={"require": REGISTERED, "strict_aud": True},
            )
            return Claims.model_validate(payload).model_dump()
        except (jwt.PyJWTError, ValidationError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenBackendError("Token is invalid") from error

    def _public_key(self, token: Any) -> RSAPublicKey:
        """One of our keys, if the header is one that we write: no crit, no key or address of a key inside."""
        if not isinstance(token, str) or not token.isascii() or len(token) > LONGEST_TOKEN:
            raise ValueError("no token of ours")
        header = jwt.get_unverified_header(token)
        for key in verifying_keys():
            if header == {"alg": ALGORITHM, "kid": key.kid, "typ": self.typ}:
                return key.public
        raise ValueError("not a header of ours")


class OurToken(Token):
    """A token of simplejwt that says whom it is for when it is made or read."""

    typ = ""

    def __init__(self, token: str | None = None, *, audience: str) -> None:
        self._token_backend = StrictBackend(audience=audience, typ=self.typ)
        super().__init__(token)  # type: ignore[arg-type]
        if token is None:
            self["nbf"] = self["iat"]

    def set_jti(self) -> None:
        """Name the token by a random UUID."""
        self["jti"] = str(uuid4())

    @property
    def expires_at(self) -> datetime:
        """When it ends."""
        return datetime.fromtimestamp(self["exp"], UTC)


class AccessToken(OurToken):
    """Opens one audience, for minutes."""

    token_type = "access"  # noqa: S105 - a name
    typ = "at+jwt"
    lifetime = settings.ACCESS_TOKEN_LIFETIME


class RefreshToken(OurToken):
    """Exchanged once for the next pair."""

    token_type = "refresh"  # noqa: S105 - a name
    typ = "rt+jwt"
    lifetime = settings.REFRESH_TOKEN_LIFETIME


def refresh_audience() -> str:
    """Where refresh tokens are for: nothing but the refresh address."""
    return f"{settings.PUBLIC_URL}/api/v1/auth/refresh"


def read_access_token(text: str, *, audience: str) -> Claims:
    """The claims of an access token for this audience; raises NotAuthenticated."""
    return _read(AccessToken, text, audience)


def read_refresh_token(text: str) -> Claims:
    """The claims of a refresh token; raises NotAuthenticated."""
    return _read(RefreshToken, text, refresh_audience())


def _read(kind: type[OurToken], text: str, audience: str) -> Claims:
    try:
        return Claims.model_validate(kind(text, audience=audience).payload)
    except (TokenError, ValidationError) as error:
        kind_of_refusal = TokenExpired if _is_expired(error) else NotAuthenticated
        raise kind_of_refusal("This token is not valid here, or it has ended. Sign in again.") from error


def _is_expired(error: BaseException | None) -> bool:
    """Whether a token was refused for its time alone, which is looked at after its signature."""
    while error is not None and not isinstance(error, jwt.ExpiredSignatureError):
        error = error.__cause__
    return error is not None
