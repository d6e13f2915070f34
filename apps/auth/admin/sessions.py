"""Staff pages of sessions and failed logins. Nothing here can be changed."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.auth.models import LoginFailure, RefreshToken
from apps.core.staff import CappedPaginator, PlatformAdmin, ServiceAdmin, actor_of, ago, badge, code, column, link


@admin.register(RefreshToken)
class SessionAdmin(ServiceAdmin):
    """Who is signed in through REST. Signing out, a new password and a changed role end sessions."""

    view_permission = "member.write"
    has_history = False
    intro = "Refresh tokens of people signed in through the API. Signing out, a new password or another role ends them."
    empty_title = "Nobody is signed in through the API"
    paginator = CappedPaginator

    list_display = ("user_shown", "state", "begun", "expires", "audience_shown")
    list_display_links = None
    list_select_related = ("user", "organization")
    sortable_by = ()
    ordering = ("-id",)
    fieldsets = ((None, {"fields": ("user_shown", "state", "begun", "expires", "audience_shown")}),)
    readonly_fields = ("user_shown", "state", "begun", "expires", "audience_shown")

    def scope(self, rows: Any, organization_id: Any) -> QuerySet[Any]:
        """Those of the organisation."""
        return rows.filter(organization_id=organization_id) if organization_id else rows.none()  # type: ignore[no-any-return]

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        """The columns, and the organisation where sessions of several are listed."""
        columns = super().get_list_display(request)
        return [*columns, "organization_shown"] if actor_of(request).organization_id is None else list(columns)

    @column("Who")
    def user_shown(self, token: RefreshToken) -> SafeString:
        """Who is signed in."""
        return link("accounts_user", token.user_id, token.user)

    @column("State")
    def state(self, token: RefreshToken) -> SafeString:
        """Whether the token still works."""
        if token.revoked_at:
            return badge("Ended")
        if token.spent_at:
            return badge("Renewed")
        return badge("Expired", "warn") if token.expires_at <= timezone.now() else badge("Signed in", "good")

    @column("Begun")
    def begun(self, token: RefreshToken) -> SafeString:
        """When it was given."""
        return ago(token.created_at)

    @column("Expires")
    def expires(self, token: RefreshToken) -> SafeString:
        """When it stops working."""
        return ago(token.expires_at)

    @column("For")
    def audience_shown(self, token: RefreshToken) -> SafeString:
        """Which door its access tokens open."""
        return code(token.audience)

    @column("Organisation")
    def organization_shown(self, token: RefreshToken) -> SafeString | str:
        """Where they are signed in."""
        return (
            link("accounts_organization", token.organization_id, token.organization) if token.organization else "none"
        )


@admin.register(LoginFailure)
class LoginFailureAdmin(PlatformAdmin):
    """Failed logins that are not forgiven yet; names and addresses are hashed."""

    view_permission = "platform"
    intro = "Failed logins, counted for each pair of e-mail address and network address; both are only kept as a hash."
    empty_title = "No failed login"
    empty_text = "A login that succeeds forgives those before it."
    change_form_template = None

    list_display = ("failures", "last", "locked")
    list_display_links = None
    sortable_by = ()
    ordering = ("-last_failed_at",)
    paginator = CappedPaginator

    @column("Last failure")
    def last(self, failure: LoginFailure) -> SafeString:
        """When."""
        return ago(failure.last_failed_at)

    @column("Locked")
    def locked(self, failure: LoginFailure) -> SafeString:
        """Until when."""
        is_locked = failure.locked_until and failure.locked_until > timezone.now()
        return badge("Locked", "bad") if is_locked else badge("Open")
