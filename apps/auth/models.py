"""Organisations, people, memberships, API keys and refresh tokens."""

import unicodedata
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.crypto import salted_hmac

from apps.core.models import Record, TenantQuerySet, TenantRecord

STAFF_ROLES = ("owner", "admin")


def plain_email(text: str) -> str:
    """An e-mail address as we keep and compare it: NFKC, without spaces around, in small letters."""
    return unicodedata.normalize("NFKC", text).strip().lower()


class Plan(models.TextChoices):
    """The tier of an organisation."""

    FREE = "free", "Free"
    PREMIUM = "premium", "Premium"


class Role(models.TextChoices):
    """What a member is in an organisation."""

    OWNER = "owner", "Owner"
    ADMIN = "admin", "Admin"
    DEVELOPER = "developer", "Developer"
    VIEWER = "viewer", "Viewer"


ROLE_GRANTS: dict[str, tuple[str, ...]] = {
    Role.OWNER: ("*",),
    Role.ADMIN: ("*",),
    Role.DEVELOPER: (
        "tool.*", "knowledge.*", "prompt.*", "resource.*", "bundle.*", "server.read", "server.write", "server.check",
        "deployment.read", "job.read", "usage.read", "org.read", "key.write",
    ),
    Role.VIEWER: (
        "tool.read", "knowledge.read", "prompt.read", "server.read", "bundle.read", "job.read", "org.read", "key.write",
    ),
}  # fmt: skip
"""What each role may do, as patterns over the permissions that apps declare; `server.approve` is staff's alone."""


class OrganizationQuerySet(models.QuerySet["Organization"]):
    """Organisations."""

    def active(self) -> "OrganizationQuerySet":
        """Those that may be used."""
        return self.filter(is_active=True)

    def raise_revision(self, organization_id: Any) -> None:
        """Note that something changed which lists or rights depend on, in the caller's transaction."""
        self.filter(pk=organization_id).update(revision=F("revision") + 1)


class Organization(Record):
    """A tenant; every row that it owns names it."""

    name = models.CharField(max_length=100)
    slug = models.CharField(
        max_length=50,
        unique=True,
        validators=[RegexValidator(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z", "Use small letters, digits and hyphens.")],
        error_messages={"unique": "An organisation with this slug exists already."},
    )
    plan = models.CharField(max_length=20, choices=Plan.choices, default=Plan.FREE)
    is_active = models.BooleanField(default=True)
    revision = models.BigIntegerField(default=1, editable=False)

    objects = OrganizationQuerySet.as_manager()

    class Meta:
        verbose_name = "organisation"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class UserManager(BaseUserManager["User"]):
    """Makes users; e-mail addresses are kept as `plain_email` writes them."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A user with a hashed password, or with none that works."""
        user = self.model(email=plain_email(email), **fields)
        user.set_password(password)
        return user.store()

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        """A platform admin."""
        return self.create_user(email, password, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        """By e-mail address, in any case."""
        return self.get(email=plain_email(username or ""))


class User(Record, AbstractBaseUser, PermissionsMixin):
    """A person. What they may do comes from their memberships; `is_superuser` is a platform admin."""

    email = models.EmailField(unique=True, error_messages={"unique": "A user with this e-mail address exists already."})
    name = models.CharField(max_length=100, blank=True)
    is_active = models.BooleanField(default=True)
    token_epoch = models.PositiveIntegerField(
        default=1, editable=False, help_text="Raised to end every token of this user: password change, deactivation."
    )

    objects = UserManager()

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        ordering = ("email",)
        constraints = [
            models.CheckConstraint(
                condition=Q(email=Lower("email")),
                name="user_email_is_lower_case",
                violation_error_message="Write the e-mail address in small letters.",
            )
        ]

    def __str__(self) -> str:
        return self.email

    @property
    def journal_name(self) -> str:
        """What the journal calls them."""
        return f"user:{self.email}"

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """What a session in the control room must still agree with: what ends the tokens of a user ends it as well."""
        said = f"{self.password}\n{self.token_epoch}"
        return salted_hmac("apps.auth.models.User.session", said, secret=secret, algorithm="sha256").hexdigest()

    @property
    def is_staff(self) -> bool:
        """Whether the admin opens: platform admins, and owners and admins of an active organisation."""
        if not self.is_active:
            return False
        return self.is_superuser or Membership.objects.filter(user=self).staff().exists()


class MembershipQuerySet(TenantQuerySet):
    """Who belongs where."""

    def of_user(self, user_id: UUID | None) -> "MembershipQuerySet":
        """Where this person belongs; nowhere for nobody."""
        return self.filter(user_id=user_id) if user_id else self.none()

    def staff(self) -> "MembershipQuerySet":
        """Owners and admins of active organisations."""
        return self.filter(role__in=STAFF_ROLES, organization__is_active=True)


class Membership(TenantRecord):
    """A person's role in an organisation."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.VIEWER)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        ordering = ("user__email",)
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "user"],
                name="membership_once",
                violation_error_code="unique",
                violation_error_message="This person is a member already.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_role_display()})"

    @property
    def journal_name(self) -> str:
        """What the journal calls it."""
        return f"member:{self.user.email}"


class InvitationQuerySet(TenantQuerySet):
    """Invitations."""

    def open(self) -> "InvitationQuerySet":
        """Those that can be accepted."""
        return self.filter(expires_at__gt=timezone.now())

    def ended(self) -> "InvitationQuerySet":
        """Those whose time is over."""
        return self.filter(expires_at__lte=timezone.now())


class Invitation(TenantRecord):
    """A role that waits for the person with an e-mail address; the row goes when they accept, or staff withdraw it.

    The link with its token is shown once, when it is made; only a hash of the token is kept.
    """

    email = models.EmailField(verbose_name="e-mail address")
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.VIEWER)
    digest = models.CharField(max_length=64, unique=True, editable=False, help_text="SHA-256 of the token.")
    invited_by = models.ForeignKey(
        User, on_delete=models.CASCADE, related_name="+", null=True, blank=True, editable=False
    )
    expires_at = models.DateTimeField(editable=False)

    objects = InvitationQuerySet.as_manager()

    class Meta:
        ordering = ("email",)
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "email"],
                name="invitation_once",
                violation_error_code="unique",
                violation_error_message="This address has an open invitation. Withdraw it to make another.",
            )
        ]

    def __str__(self) -> str:
        return self.email

    @property
    def journal_name(self) -> str:
        """What the journal calls it."""
        return f"invitation:{self.email}"


class ApiKeyQuerySet(TenantQuerySet):
    """API keys."""

    def usable(self, at: datetime | None = None) -> "ApiKeyQuerySet":
        """Neither revoked nor expired."""
        moment = at or timezone.now()
        return self.filter(revoked_at=None).filter(Q(expires_at=None) | Q(expires_at__gt=moment))


class ApiKey(TenantRecord):
    """A key of a member, for agents and scripts; only a keyed hash of it is kept.

    `gate_` + look-up id + `_` + secret + checksum is shown once, when it is made.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys", verbose_name="owner")
    name = models.CharField(max_length=100)
    lookup = models.CharField(max_length=24, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False, help_text="HMAC-SHA256 of the secret, in hexadecimal.")
    pepper_number = models.PositiveSmallIntegerField(default=1, editable=False)
    scopes = models.JSONField(
        default=list,
        blank=True,
        help_text='What of its owner\'s permissions the key may use, as "tool.*" or "tool.call:time__*". Empty: all.',
    )
    allowed_addresses = models.JSONField(
        default=list,
        blank=True,
        help_text="From which networks the key may be used, as 10.0.0.0/8. Empty: from everywhere.",
    )
    successor = models.ForeignKey(
        "self", on_delete=models.SET_NULL, related_name="+", null=True, blank=True, editable=False
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_address = models.CharField(max_length=45, blank=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name

    @property
    def prefix(self) -> str:
        """What may be shown of the key, to recognise it."""
        return f"gate_{self.lookup}_…"


class RefreshTokenQuerySet(models.QuerySet["RefreshToken"]):
    """Refresh tokens."""

    def of_family(self, family_id: Any) -> "RefreshTokenQuerySet":
        """All that one login gave, one after the other."""
        return self.filter(family_id=family_id)

    def alive(self) -> "RefreshTokenQuerySet":
        """Those whose family has not been ended."""
        return self.filter(revoked_at=None)

    def end(self) -> int:
        """Revoke them, until none is left that an exchange at the same moment put in; says how many were alive."""
        ended = 0
        while more := self.alive().update(revoked_at=timezone.now()):
            ended += more
        return ended


class RefreshToken(Record):
    """One refresh token of a family; a family begins with a login and ends when a spent token comes back."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", null=True, blank=True)
    family_id = models.UUIDField(db_index=True)
    token_id = models.UUIDField(unique=True)
    audience = models.CharField(max_length=300)
    expires_at = models.DateTimeField()
    spent_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = RefreshTokenQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"session of {self.user}"


class SecondFactor(Record):
    """What a person proves besides their password: a code that changes with the time (RFC 6238).

    Its seed is a secret of the platform. Until a first code has shown that the person has it too, it asks for nothing.
    """

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="second_factor")
    secret_id = models.UUIDField(editable=False, help_text="The sealed seed.")
    confirmed_at = models.DateTimeField(null=True, blank=True)
    last_step = models.BigIntegerField(default=0, help_text="The time step of the newest code used: none works twice.")

    def __str__(self) -> str:
        return f"second factor of {self.user}"


class RecoveryCode(Record):
    """A code that stands in for a lost second factor, once; only a keyed hash of it is kept."""

    factor = models.ForeignKey(SecondFactor, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64, unique=True, editable=False, help_text="HMAC-SHA256, in hexadecimal.")
    pepper_number = models.PositiveSmallIntegerField(default=1, editable=False)
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"recovery code of {self.factor.user}"


class LoginFailure(models.Model):
    """Failed logins of one e-mail address from one network address, or failed codes of one account, until forgiven."""

    key = models.CharField(max_length=64, primary_key=True, help_text="SHA-256 of e-mail and network address.")
    failures = models.PositiveIntegerField(default=0)
    last_failed_at = models.DateTimeField()
    locked_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["-last_failed_at", "-key"], name="login_failure_at")]

    def __str__(self) -> str:
        return f"{self.failures} failures"
