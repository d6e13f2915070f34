"""Shapes of people, organisations, keys and tokens."""

from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field, StringConstraints

from apps.auth.models import Plan, Role
from apps.core.schemas import In, Out, PageOut

# Spaces around a password belong to it.
Password = Annotated[str, StringConstraints(strip_whitespace=False, min_length=1, max_length=1024)]
Email = Annotated[str, Field(min_length=3, max_length=254, examples=["alice@acme.example"])]
Name = Annotated[str, Field(max_length=100)]
TokenText = Annotated[str, Field(min_length=1, max_length=8192)]


class LoginIn(In):
    """Who signs in, and where."""

    email: Email
    password: Password
    code: str | None = Field(None, max_length=64, description="Of the second factor, or a recovery code.")
    organization: str | None = Field(None, max_length=50, description="Slug or id; needed by members of several.")
    resource: str | None = Field(None, max_length=300, description="The MCP endpoint, to get tokens for it, not REST.")


class RefreshIn(In):
    """A refresh token."""

    refresh: TokenText


class OrganizationRef(Out):
    """An organisation in short."""

    id: UUID
    slug: str
    name: str


class UserRef(Out):
    """A person in short."""

    id: UUID
    email: str
    name: str


class KeyRef(Out):
    """A key in short."""

    id: UUID
    name: str


class TokensOut(Out):
    """An access token for minutes, and a refresh token that is exchanged once for the next pair."""

    access: str
    refresh: str
    token_type: str
    expires_in: int = Field(description="Seconds until the access token ends.")
    organization: OrganizationRef | None


class PlaceOut(OrganizationRef):
    """An organisation where the caller may act, and as what."""

    role: str


class MeOut(Out):
    """Who the credential is, where, and what it may do."""

    user: UserRef
    key: KeyRef | None
    organization: OrganizationRef | None
    role: str
    permissions: list[str]
    is_platform_admin: bool
    organizations: list[PlaceOut]


class KeyIn(In):
    """A new key."""

    name: str = Field(min_length=1, max_length=100)
    scopes: list[str] = Field(
        default_factory=list,
        max_length=100,
        examples=[["tool.*"]],
        description="What the key may do; empty: all you may.",
    )
    allowed_addresses: list[Annotated[str, Field(max_length=50)]] = Field(
        default_factory=list,
        max_length=50,
        examples=[["10.0.0.0/8", "203.0.113.7"]],
        description="From which addresses or networks the key may be used; empty: from everywhere.",
    )
    expires_at: AwareDatetime | None = None


class RotateKeyIn(In):
    """How to replace a key."""

    overlap_seconds: int = Field(
        86_400, ge=0, le=30 * 86_400, strict=True, description="How long the old key still opens beside the new one."
    )


class KeyOut(Out):
    """A key without its secret."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    allowed_addresses: list[str]
    user: UserRef
    successor_id: UUID | None
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    last_used_at: AwareDatetime | None
    created_at: AwareDatetime


class NewKeyOut(KeyOut):
    """A key with its text, which is shown this once."""

    key: str


class KeyPageOut(PageOut[KeyOut]):
    """One page of keys."""


class OrganizationIn(In):
    """A new organisation."""

    name: str = Field(min_length=1, max_length=100)
    slug: str = Field(min_length=1, max_length=50)
    plan: Plan = Plan.FREE


class OrganizationPatch(In):
    """What to change of an organisation; all but the name is for platform admins."""

    name: str | None = Field(None, min_length=1, max_length=100)
    slug: str | None = Field(None, min_length=1, max_length=50)
    plan: Plan | None = None
    is_active: bool | None = None


class OrganizationOut(OrganizationRef):
    """An organisation."""

    plan: str
    is_active: bool
    created_at: AwareDatetime


class OrganizationPageOut(PageOut[OrganizationOut]):
    """One page of organisations."""


class MemberIn(In):
    """A user to let in, whom the caller can see; everybody else is invited."""

    user_id: UUID
    role: Role = Role.VIEWER


class MemberPatch(In):
    """The role to give."""

    role: Role


class MemberOut(Out):
    """A person's role in an organisation."""

    id: UUID
    user: UserRef
    role: str
    created_at: AwareDatetime


class MemberPageOut(PageOut[MemberOut]):
    """One page of members."""


class InvitationIn(In):
    """Whom to invite, and as what."""

    email: Email
    role: Role = Role.VIEWER


class InvitationOut(Out):
    """An invitation that nobody has accepted yet."""

    id: UUID
    email: str
    role: str
    expires_at: AwareDatetime
    created_at: AwareDatetime


class NewInvitationOut(InvitationOut):
    """An invitation with its link, which is shown this once: hand it to the person by a way that you trust."""

    link: str


class InvitationPageOut(PageOut[InvitationOut]):
    """One page of invitations."""


class AcceptIn(In):
    """What it takes to join."""

    token: TokenText = Field(description="What the link of the invitation has behind its #.")
    password: Password = Field(description="That of the account which the address has; else the one to make it with.")
    name: Name = Field("", description="Of a new person.")


class UserOut(UserRef):
    """A person."""

    is_active: bool
    created_at: AwareDatetime


class UserPageOut(PageOut[UserOut]):
    """One page of people."""


class JwkSetOut(Out):
    """Public keys that verify our tokens (RFC 7517)."""

    keys: list[dict[str, str]]
