"""Staff pages of organisations."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from apps.auth import services
from apps.auth.admin.looks import role_badge
from apps.auth.models import Membership, Organization
from apps.core.actor import Actor
from apps.core.staff import Panel, ServiceAdmin, actor_of, ago, badge, choices_filter, column, deed, link

ROWS_SHOWN = 10


@admin.register(Organization)
class OrganizationAdmin(ServiceAdmin):
    """Tenants: their name, plan and members. Platform admins make them and switch them off."""

    view_permission = "org.read"
    add_permission = change_permission = "org.write"
    intro = "Every server, key and call belongs to an organisation; nothing crosses from one to another."
    empty_title = "No organisation yet"
    empty_text = "Make one, then add its members."

    list_display = ("name_shown", "slug", "plan_shown", "state", "members", "made")
    list_display_links = ("name_shown",)
    list_filter = (choices_filter("plan"), "is_active")
    search_fields = ("name", "slug")
    sortable_by = ("slug",)
    ordering = ("name",)
    add_fieldsets = ((None, {"fields": ("name", "slug", "plan")}),)
    fieldsets = ((None, {"fields": ("name", "slug", "plan", "made")}),)

    def scope(self, rows: Any, organization_id: Any) -> QuerySet[Any]:
        """The organisation itself."""
        return rows.filter(pk=organization_id) if organization_id else rows.none()  # type: ignore[no-any-return]

    def organization_of(self, row: Organization) -> Any:
        """Itself."""
        return row.pk

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With the number of members."""
        members = Membership.objects.filter(organization=OuterRef("pk")).order_by().values("organization")
        counted = Subquery(members.annotate(count=Count("pk")).values("count"))
        rows: QuerySet[Any] = super().get_queryset(request).annotate(member_count=Coalesce(counted, 0))
        return rows

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Platform admins make organisations."""
        return super().has_add_permission(request) and actor_of(request).is_platform_admin

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        """Slug and plan are a platform admin's to change."""
        return ("made",) if actor_of(request).is_platform_admin else ("made", "slug", "plan")

    def summary(self, row: Organization) -> Sequence[object]:
        """Its plan, and whether it is switched on."""
        return [self.state(row), self.plan_shown(row)]

    def panels(self, request: HttpRequest, row: Organization) -> Sequence[Panel]:
        """Its members."""
        members = Membership.objects.for_org(row.pk).select_related("user")[:ROWS_SHOWN]
        rows = [
            (link("accounts_membership", each.pk, each.user), role_badge(each.role), ago(each.created_at))
            for each in members
        ]
        is_here = actor_of(request).organization_id == row.pk
        return [
            Panel(
                "Members", ("Who", "Role", "Since"), rows, "Nobody yet. Choose it in the menu, then invite people.",
                more_url=reverse("admin:accounts_membership_changelist") if is_here else "",
                add_url=reverse("admin:accounts_invitation_add") if is_here else "",
                add_label="Invite somebody",
            )
        ]  # fmt: skip

    @column("Name", ordering="name")
    def name_shown(self, organization: Organization) -> str:
        """Its name."""
        return organization.name

    @column("Plan")
    def plan_shown(self, organization: Organization) -> SafeString:
        """Its tier."""
        return badge(organization.get_plan_display(), "info" if organization.plan == "premium" else "quiet")

    @column("State")
    def state(self, organization: Organization) -> SafeString:
        """Whether it may be used."""
        return badge("Active", "good") if organization.is_active else badge("Switched off", "bad")

    @column("Members")
    def members(self, organization: Any) -> int:
        """How many."""
        return int(organization.member_count)

    @column("Made")
    def made(self, organization: Organization) -> SafeString:
        """When."""
        return ago(organization.created_at)

    def create(self, actor: Actor, values: dict[str, Any]) -> Organization:
        """Make one."""
        return services.create_organization(actor, **values)

    def update(self, actor: Actor, row: Organization, values: dict[str, Any]) -> Organization:
        """Change one."""
        return services.update_organization(actor, organization_id=row.pk, **values)

    @deed(
        "Switch off", permission="org.write", icon="toggle_off", tone="bad", is_for_platform_admins=True,
        in_lists=False,
        is_offered=lambda organization: organization.is_active,
        question="Nobody can act in it any more: people, keys and agents are shut out at once. Nothing is deleted.",
    )  # fmt: skip
    def switch_off(self, actor: Actor, organization: Organization) -> str:
        """Shut it."""
        services.update_organization(actor, organization_id=organization.pk, is_active=False)
        return f"{organization} is switched off."

    @deed(
        "Switch on", permission="org.write", icon="toggle_on", tone="main", is_for_platform_admins=True, in_lists=False,
        is_offered=lambda organization: not organization.is_active,
    )  # fmt: skip
    def switch_on(self, actor: Actor, organization: Organization) -> str:
        """Open it again."""
        services.update_organization(actor, organization_id=organization.pk, is_active=True)
        return f"{organization} is switched on."
