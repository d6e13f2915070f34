"""Staff pages of invitations. A link is shown once, on the page that answers its making."""

from typing import Any, cast

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers
from django.utils.safestring import SafeString

from apps.auth import services
from apps.auth.admin.looks import role_badge
from apps.auth.models import Invitation
from apps.core.actor import Actor
from apps.core.staff import TenantAdmin, ago, column, deed


@admin.register(Invitation)
class InvitationAdmin(TenantAdmin):
    """Invite people, and withdraw invitations."""

    view_permission = add_permission = "member.write"
    confirms_add = True
    intro = "Who is invited and has not accepted yet. Whoever accepts signs in with a password that only they know."
    empty_title = "Nobody is invited"
    empty_text = "Add an invitation, and hand its link to the person by a way that you trust."

    list_display = ("email_shown", "role_shown", "until", "made")
    list_display_links = ("email_shown",)
    list_select_related = ("organization", "invited_by")
    search_fields = ("email",)
    search_help_text = "Search by e-mail address"
    sortable_by = ("email_shown",)
    ordering = ("email",)
    add_fieldsets = ((None, {"fields": ("email", "role")}),)
    fieldsets = ((None, {"fields": ("email_shown", "role_shown", "inviter", "made", "until")}),)
    readonly_fields = ("email_shown", "role_shown", "inviter", "made", "until")

    @column("E-mail address", ordering="email")
    def email_shown(self, invitation: Invitation) -> str:
        """Who."""
        return invitation.email

    @column("Role")
    def role_shown(self, invitation: Invitation) -> SafeString:
        """As what."""
        return role_badge(invitation.role)

    @column("Invited by")
    def inviter(self, invitation: Invitation) -> str:
        """By whom."""
        return str(invitation.invited_by or "the platform")

    @column("Made")
    def made(self, invitation: Invitation) -> SafeString:
        """When."""
        return ago(invitation.created_at)

    @column("Ends")
    def until(self, invitation: Invitation) -> SafeString:
        """Until when the link is good."""
        return ago(invitation.expires_at)

    def create(self, actor: Actor, values: dict[str, Any]) -> Invitation:
        """Make it; its link goes no further than the answer to this request."""
        assert actor.organization_id is not None  # noqa: S101 - without one there is no add page
        made = services.invite_member(actor, organization_id=actor.organization_id, **values)
        made.invitation.link = made.link  # type: ignore[attr-defined]
        return made.invitation

    def response_add(self, request: HttpRequest, obj: Model, post_url_continue: str | None = None) -> HttpResponse:
        """Show the link, this once."""
        link = cast(Any, obj).link
        context = self.page_context(request, obj, title=f"Invitation for {obj}", link=link)
        response = TemplateResponse(request, "staff/new_invitation.html", context)
        add_never_cache_headers(response)
        return response.render()

    @deed(
        "Withdraw", permission="member.write", icon="cancel", tone="bad",
        question="Its link opens nothing any more. You can invite this person again.",
    )  # fmt: skip
    def withdraw(self, actor: Actor, invitation: Invitation) -> str:
        """Take it back."""
        services.withdraw_invitation(actor, organization_id=invitation.organization_id, invitation_id=invitation.pk)
        return f"{invitation} is not invited any more."
