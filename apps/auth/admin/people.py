"""Staff pages of users and of their memberships."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from apps.auth import services
from apps.auth.admin.looks import key_state, role_badge
from apps.auth.models import Membership, User
from apps.core.actor import Actor
from apps.core.staff import (
    Panel,
    SecretField,
    ServiceAdmin,
    ServiceForm,
    TenantAdmin,
    actor_of,
    ago,
    badge,
    choices_filter,
    column,
    deed,
    link,
    reveal,
)

ROWS_SHOWN = 10
PASSWORD_HELP = "At least 12 characters, and not a common one."  # noqa: S105 - a sentence, not a password


class PasswordForm(forms.Form):
    """A new password."""

    password = SecretField(label="New password", max_length=1024, help_text=PASSWORD_HELP)


class UserForm(ServiceForm):
    """A new user of the platform."""

    password = SecretField(
        required=False, max_length=1024, help_text=f"{PASSWORD_HELP} Empty: they cannot sign in until one is set."
    )
    is_platform_admin = forms.BooleanField(
        required=False, label="Platform admin", help_text="May do everything in every organisation."
    )

    class Meta:
        model = User
        fields = ("email", "name")


@admin.register(User)
class UserAdmin(ServiceAdmin):
    """People who may sign in. Platform admins make them, give passwords and switch them off."""

    form = UserForm
    view_permission = "org.read"
    add_permission = "org.write"
    confirms_add = True
    intro = "People who can sign in. What they may do comes from their memberships."
    empty_title = "No user yet"
    empty_text = "Invite somebody: who is new here makes an account with the invitation."

    list_display = ("email_shown", "name_shown", "state", "platform", "second_factor_shown", "last_seen")
    list_select_related = ("second_factor",)
    list_display_links = ("email_shown",)
    list_filter = ("is_active",)
    search_fields = ("email",)
    search_help_text = "Search by e-mail address"
    sortable_by = ("email_shown",)
    ordering = ("email",)
    add_fieldsets = ((None, {"fields": ("email", "name", "password", "is_platform_admin")}),)
    fieldsets = ((None, {"fields": ("email", "name_shown", "second_factor_shown", "last_seen", "made")}),)
    readonly_fields = ("name_shown", "second_factor_shown", "last_seen", "made")

    def scope(self, rows: Any, organization_id: Any) -> QuerySet[Any]:
        """The members of the organisation."""
        return rows.filter(pk__in=Membership.objects.for_org(organization_id).values("user_id"))  # type: ignore[no-any-return]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Platform admins make users; others add members."""
        return super().has_add_permission(request) and actor_of(request).is_platform_admin

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        """Only a new user has a form; the page of a user is read, and acted on by deeds."""
        if obj is not None:
            options["form"] = ServiceForm
        return super().get_form(request, obj, change=change, **options)

    def summary(self, row: User) -> Sequence[object]:
        """Whether they may sign in."""
        return [self.state(row), self.platform(row)]

    def panels(self, request: HttpRequest, row: User) -> Sequence[Panel]:
        """Their memberships and keys, as far as who asks may see them."""
        pages = self.admin_site
        members = (
            pages.get_model_admin(Membership).get_queryset(request).filter(user=row).select_related("organization")
        )
        keys = row.api_keys.filter(organization__in=members.values("organization"))[:ROWS_SHOWN]
        return [
            Panel(
                "Memberships",
                ("Organisation", "Role", "Since"),
                [
                    (
                        link("accounts_membership", each.pk, each.organization),
                        role_badge(each.role),
                        ago(each.created_at),
                    )
                    for each in members
                ],
                "Not a member of any organisation: this person can sign in but do nothing.",
            ),
            Panel(
                "API keys",
                ("Name", "State", "Last used"),
                [
                    (link("accounts_apikey", each.pk, reveal(each.name)), key_state(each), ago(each.last_used_at))
                    for each in keys
                ],
                "None.",
            ),
        ]

    @column("E-mail address", ordering="email")
    def email_shown(self, user: User) -> str:
        """What they sign in with."""
        return user.email

    @column("Name")
    def name_shown(self, user: User) -> SafeString:
        """What they are called."""
        return reveal(user.name)

    @column("State")
    def state(self, user: User) -> SafeString:
        """Whether they may sign in."""
        return badge("Active", "good") if user.is_active else badge("Deactivated", "bad")

    @column("Platform")
    def platform(self, user: User) -> SafeString | str:
        """Whether the whole platform is theirs to run."""
        return badge("Platform admin", "info") if user.is_superuser else ""

    @column("Second factor")
    def second_factor_shown(self, user: User) -> SafeString:
        """Whether more than a password is asked of them."""
        factor = getattr(user, "second_factor", None)
        return badge("Set up", "good") if factor and factor.confirmed_at else badge("None")

    @column("Last signed in")
    def last_seen(self, user: User) -> SafeString:
        """When."""
        return ago(user.last_login)

    @column("Made")
    def made(self, user: User) -> SafeString:
        """When."""
        return ago(user.created_at)

    def create(self, actor: Actor, values: dict[str, Any]) -> User:
        """Make a user."""
        password = values.pop("password") or None
        return services.create_user(actor, password=password, **values)

    @deed(
        "Set password", permission="org.write", icon="password", confirms=True, form=PasswordForm,
        is_for_platform_admins=True,
    )  # fmt: skip
    def set_password(self, actor: Actor, user: User, form: forms.Form) -> str:
        """Give a new password; every session of theirs ends."""
        services.set_password(actor, user_id=user.pk, password=form.cleaned_data["password"])
        return f"{user} has a new password, and is signed out everywhere."

    @deed(
        "Deactivate", permission="org.write", icon="person_off", tone="bad", confirms=True, is_for_platform_admins=True,
        is_offered=lambda user: user.is_active,
        question="They are signed out everywhere, and their keys open nothing until they are activated again.",
    )  # fmt: skip
    def deactivate(self, actor: Actor, user: User) -> str:
        """Switch them off."""
        services.deactivate_user(actor, user_id=user.pk)
        return f"{user} is deactivated."

    @deed(
        "Activate",
        permission="org.write",
        icon="person_check",
        tone="main",
        confirms=True,
        is_for_platform_admins=True,
        is_offered=lambda user: not user.is_active,
    )
    def activate(self, actor: Actor, user: User) -> str:
        """Switch them on again."""
        services.activate_user(actor, user_id=user.pk)
        return f"{user} is active again, and has to sign in anew."

    @deed(
        "Remove second factor", permission="org.write", icon="phonelink_erase", tone="bad", confirms=True,
        is_for_platform_admins=True, in_lists=False, is_offered=services.has_second_factor,
        question="For somebody who has lost it and their recovery codes: be sure that it is them who asks. They are"
        " signed out everywhere, and their password alone lets them in until they set up another.",
    )  # fmt: skip
    def remove_second_factor(self, actor: Actor, user: User) -> str:
        """Take it away."""
        services.remove_second_factor(actor, user_id=user.pk)
        return f"{user} has no second factor any more."


@admin.register(Membership)
class MembershipAdmin(TenantAdmin):
    """Who belongs to the organisation, and as what."""

    view_permission = "org.read"
    change_permission = "member.write"
    intro = "Who belongs to the organisation, and as what. Owners and admins may open this control room."
    empty_title = "No member yet"
    empty_text = "Invite people by their e-mail address, under Invitations."

    list_display = ("member", "role_shown", "since")
    list_display_links = ("member",)
    list_filter = (choices_filter("role"),)
    list_select_related = ("organization", "user")
    search_fields = ("user__email",)
    search_help_text = "Search by e-mail address"
    sortable_by = ("member",)
    ordering = ("user__email",)
    fieldsets = ((None, {"fields": ("user_shown", "role", "since")}),)
    readonly_fields = ("user_shown", "since")

    def summary(self, row: Membership) -> Sequence[object]:
        """What they are."""
        return [role_badge(row.role)]

    @column("Member", ordering="user__email")
    def member(self, membership: Membership) -> SafeString:
        """Who."""
        return reveal(
            f"{membership.user.name} · {membership.user.email}" if membership.user.name else membership.user.email
        )

    @column("User")
    def user_shown(self, membership: Membership) -> SafeString:
        """Who."""
        return link("accounts_user", membership.user_id, membership.user)

    @column("Role")
    def role_shown(self, membership: Membership) -> SafeString:
        """As what."""
        return role_badge(membership.role)

    @column("Since")
    def since(self, membership: Membership) -> SafeString:
        """Since when."""
        return ago(membership.created_at)

    def update(self, actor: Actor, row: Membership, values: dict[str, Any]) -> Membership:
        """Give another role."""
        return services.change_role(actor, organization_id=row.organization_id, membership_id=row.pk, **values)

    @deed(
        "Remove", permission="member.write", icon="person_remove", tone="bad", confirms=True,
        question="They lose everything in this organisation at once, and their keys there are revoked.",
    )  # fmt: skip
    def remove(self, actor: Actor, membership: Membership) -> str:
        """Take them out."""
        services.remove_member(actor, organization_id=membership.organization_id, membership_id=membership.pk)
        return f"{membership.user} is no longer a member."
