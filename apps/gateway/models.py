"""Bundles: named selections of what servers offer, each with an endpoint of its own."""

from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from apps.core.models import TenantQuerySet, TenantRecord

if TYPE_CHECKING:
    from apps.registry.models import Capability, Server

RESERVED_SLUGS = frozenset({"prompts", "tools", "resources", "v1", "sse", "messages"})


class BundleQuerySet(TenantQuerySet):
    """Bundles."""

    def named_like(self, letters: str) -> "BundleQuerySet":
        """Those with these letters in their name, slug or description."""
        return self.filter(Q(name__icontains=letters) | Q(slug__icontains=letters) | Q(description__icontains=letters))


class Bundle(TenantRecord):
    """A named selection of what agents may use, with an endpoint of its own: /mcp/{slug}."""

    name = models.CharField(max_length=100)
    slug = models.CharField(
        max_length=20,
        unique=True,
        validators=[RegexValidator(r"^[a-z0-9-]{1,20}\Z", "Use 1 to 20 small letters, digits and hyphens.")],
        error_messages={"unique": "This slug is taken. Choose another: it is the address of an endpoint here."},
        help_text="The last part of its endpoint: /mcp/slug. It never changes.",
    )
    description = models.TextField(blank=True, max_length=2000, help_text="For people: what it is for.")
    instructions = models.TextField(blank=True, max_length=10_000, help_text="What its agents are told at the start.")
    is_enabled = models.BooleanField(default=True)
    names_verbatim = models.BooleanField(
        default=False, help_text="Tools and prompts keep their server's own names; only where all is of one server."
    )

    objects = BundleQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        constraints = [
            models.CheckConstraint(
                condition=~Q(slug__in=sorted(RESERVED_SLUGS)),
                name="bundle_slug_not_reserved",
                violation_error_message="This slug is reserved. Choose another.",
            ),
        ]
        indexes = [models.Index(fields=["organization", "name"], name="bundle_org_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def journal_name(self) -> str:
        """What the journal calls it: by its address."""
        return f"bundle:{self.slug}"

    @property
    def url(self) -> str:
        """Where agents find it."""
        return f"{settings.MCP_AUDIENCE}/{self.slug}"

    @property
    def items(self) -> "list[BundleItem]":
        """What is in it, in its order."""
        found = BundleItem.objects.for_org(self.organization_id).filter(bundle_id=self.pk)
        return list(found.select_related("capability__server", "server"))


class ItemKind(models.TextChoices):
    """What a line of a bundle takes in."""

    CAPABILITY = "capability", "One capability"
    SERVER = "server", "All of a server"
    NATIVE = "native", "A tool of the platform"


class BundleItem(TenantRecord):
    """One line of a bundle: a capability, all that a server offers now and later, or a tool of the platform's own."""

    bundle = models.ForeignKey(Bundle, on_delete=models.CASCADE, related_name="lines")
    kind = models.CharField(max_length=10, choices=ItemKind.choices, default=ItemKind.CAPABILITY)
    capability: "models.ForeignKey[Capability | None, Capability | None]" = models.ForeignKey(
        "registry.Capability", on_delete=models.CASCADE, related_name="+", null=True, blank=True
    )
    server: "models.ForeignKey[Server | None, Server | None]" = models.ForeignKey(
        "registry.Server", on_delete=models.CASCADE, related_name="+", null=True, blank=True
    )
    native = models.CharField(max_length=100, blank=True, help_text="The name of a tool of the platform's own.")
    alias = models.CharField(
        max_length=44, blank=True, validators=[RegexValidator(r"^[A-Za-z0-9_-]*\Z", "Use letters, digits, _ and -.")],
        help_text="Another name in this bundle, for a tool or a prompt.",
    )  # fmt: skip
    description_override = models.TextField(
        blank=True, max_length=4000, help_text="Another description in this bundle."
    )
    position = models.PositiveIntegerField(default=0, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ("position", "id")
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="capability", capability__isnull=False, server=None, native="")
                | Q(kind="server", capability=None, server__isnull=False, native="", alias="", description_override="")
                | (Q(kind="native", capability=None, server=None) & ~Q(native="")),
                name="bundle_item_one_thing",
                violation_error_message="An item is a capability, a server or a tool of the platform: one of them. Only"
                " a single thing has another name or description.",
            ),
            *(
                models.UniqueConstraint(
                    fields=["organization", "bundle", field], condition=Q(kind=field), name=f"bundle_item_{field}_once",
                    violation_error_message="The bundle has this already.", violation_error_code="unique",
                )
                for field in ItemKind.values
            ),
        ]  # fmt: skip

    def __str__(self) -> str:
        return self.alias or self.takes_in

    @property
    def takes_in(self) -> str:
        """What it takes in, by the name that the catalogue has for it."""
        if self.capability:
            return self.capability.public_name
        return self.server.slug if self.server else self.native

    @property
    def target(self) -> "UUID | str":
        """What it takes in, as other lines are told from it."""
        return self.capability_id or self.server_id or self.native

    @property
    def shows(self) -> str:
        """What kind of thing agents see: a tool, a prompt, a resource, a template, or all of a server."""
        if self.capability:
            return self.capability.kind
        return "server" if self.server_id else "tool"

    @property
    def unusable_because(self) -> str:
        """Why agents may not use it now; empty where they may, if their rights let them."""
        capability, server = self.capability, self.capability.server if self.capability else self.server
        reasons = [
            (server and server.deleted_at, "Its server is removed."),
            (capability and capability.removed_at, "Its server does not offer it any more."),
            (server and not server.is_approved, "Its server waits for approval."),
            (server and not server.is_enabled, "Its server is disabled."),
            (capability and not capability.approved_digest, "It is new, and waits for approval."),
            (capability and not capability.is_approved, "Its definition has changed, and waits for approval."),
            (capability and not capability.is_enabled, "It is disabled."),
        ]
        return next((reason for holds, reason in reasons if holds), "")

    @property
    def is_usable(self) -> bool:
        """Whether agents may use it now, if their rights let them."""
        return not self.unusable_because
