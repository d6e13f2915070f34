"""Staff pages of users and of their memberships."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminEmailInputWidget, UnfoldAdminTextInputWidget

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


class MemberForm(ServiceForm):
    """A new member, by e-mail address."""

    email = forms.EmailField(
        label="E-mail address", widget=UnfoldAdminEmailInputWidget, help_text="Somebody new gets a user with it."
    )
    name = forms.CharField(
        required=False, max_length=100, widget=UnfoldAdminTextInputWidget, help_text="Of somebody new."
    )
    password = SecretField(required=False, max_length=1024, help_text=f"Of somebody new. {PASSWORD_HELP}")

    class Meta:
        model = Membership
        fields = ("role",)


@admin.register(User)
class UserAdmin(ServiceAdmin):
    """People who may sign in. Platform admins make them, give passwords and switch them off."""

    form = UserForm
    view_permission = "org.read"
    add_permission = "org.write"
    intro = "People who can sign in. What they may do comes from their memberships."
    empty_title = "No user yet"
    empty_text = "Add a member: somebody new gets a user with it."

    list_display = ("email_shown", "name_shown", "state", "platform", "last_seen")
    list_display_links = ("email_shown",)
    list_filter = ("is_active",)
    search_fields = ("email",)
    search_help_text = "Search by e-mail address"
    sortable_by = ("email_shown",)
    ordering = ("email",)
    add_fieldsets = ((None, {"fields": ("email", "name", "password", "is_platform_admin")}),)
    fieldsets = ((None, {"fields": ("email", "name_shown", "last_seen", "made")}),)
    readonly_fields = ("name_shown", "last_seen", "made")

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

    @deed("Set password", permission="org.write", icon="password", form=PasswordForm, is_for_platform_admins=True)
    def set_password(self, actor: Actor, user: User, form: forms.Form) -> str:
        """Give a new password; every session of theirs ends."""
        services.set_password(actor, user_id=user.pk, password=form.cleaned_data["password"])
        return f"{user} has a new password, and is signed out everywhere."

    @deed(
        "Deactivate", permission="org.write", icon="person_off", tone="bad", is_for_platform_admins=True,
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
        is_for_platform_admins=True,
        is_offered=lambda user: not user.is_active,
    )
    def activate(self, actor: Actor, user: User) -> str:
        """Switch them on again."""
        services.activate_user(actor, user_id=user.pk)
        return f"{user} is active again, and has to sign in anew."


@admin.register(Membership)
class MembershipAdmin(TenantAdmin):
    """Who belongs to the organisation, and as what."""

    view_permission = "org.read"
    add_permission = change_permission = "member.write"
    intro = "Who belongs to the organisation, and as what. Owners and admins may open this control room."
    empty_title = "No member yet"
    empty_text = "Add people by their e-mail address."

    list_display = ("member", "role_shown", "since")
    list_display_links = ("member",)
    list_filter = (choices_filter("role"),)
    list_select_related = ("organization", "user")
    search_fields = ("user__email",)
    search_help_text = "Search by e-mail address"
    sortable_by = ("member",)
    ordering = ("user__email",)
    add_fieldsets = ((None, {"fields": ("email", "role", "name", "password")}),)
    fieldsets = ((None, {"fields": ("user_shown", "role", "since")}),)
    readonly_fields = ("user_shown", "since")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        """A new member is found by e-mail address; of a member the role can change."""
        options["form"] = MemberForm if obj is None else ServiceForm
        return super().get_form(request, obj, change=change, **options)

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

    def create(self, actor: Actor, values: dict[str, Any]) -> Membership:
        """Let somebody in."""
        assert actor.organization_id is not None  # noqa: S101 - without one there is no add page
        password = values.pop("password") or None
        return services.invite_member(actor, organization_id=actor.organization_id, password=password, **values)

    def update(self, actor: Actor, row: Membership, values: dict[str, Any]) -> Membership:
        """Give another role."""
        return services.change_role(actor, organization_id=row.organization_id, membership_id=row.pk, **values)

    @deed(
        "Remove", permission="member.write", icon="person_remove", tone="bad",
        question="They lose everything in this organisation at once, and their keys there are revoked.",
    )  # fmt: skip
    def remove(self, actor: Actor, membership: Membership) -> str:
        """Take them out."""
        services.remove_member(actor, organization_id=membership.organization_id, membership_id=membership.pk)
        return f"{membership.user} is no longer a member."
