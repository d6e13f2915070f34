"""Staff pages of API keys. A key is shown once, on the page that answers its making, and kept nowhere."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.core.cache import cache
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget

from apps.auth import services
from apps.auth.admin.looks import key_state
from apps.auth.models import ApiKey
from apps.core.actor import Actor
from apps.core.staff import (
    ScopedFilter,
    ServiceForm,
    TemplateParts,
    TenantAdmin,
    WordsField,
    actor_of,
    ago,
    badge,
    code,
    column,
    deed,
    link,
    reveal,
    words,
)

_ONCE = "key_forms"
_FORMS_AT_ONCE = 10
_CLICK_SECONDS = 60


class KeyForm(ServiceForm):
    """A new key. `once` is good for one key: sending the page again makes none."""

    scopes = WordsField(
        required=False,
        help_text="What the key may do out of what its owner may: tool.read, tool.call:time__*. Empty: everything.",
    )
    allowed_addresses = WordsField(
        required=False,
        help_text="From which addresses or networks the key may be used: 10.0.0.0/8. Empty: from everywhere.",
    )
    once = forms.CharField(widget=forms.HiddenInput, required=False)

    class Meta:
        model = ApiKey
        fields = ("name", "user", "scopes", "allowed_addresses", "expires_at")


class RotateForm(forms.Form):
    """How long the old key still opens."""

    overlap_seconds = forms.TypedChoiceField(
        label="The old key still works for",
        choices=[(0, "no time at all"), (3600, "an hour"), (86_400, "a day"), (7 * 86_400, "a week")],
        initial=86_400,
        coerce=int,
        widget=UnfoldAdminSelectWidget,
    )


def _may_be_rotated(key: ApiKey) -> bool:
    is_usable = not key.revoked_at and (key.expires_at is None or key.expires_at > timezone.now())
    return is_usable and (key.successor is None or key.successor.revoked_at is not None)


@admin.register(ApiKey)
class ApiKeyAdmin(TenantAdmin):
    """Make keys for agents and scripts, and revoke them."""

    form = KeyForm
    view_permission = "key.read"
    add_permission = "key.write"
    confirms_add = True
    intro = "Keys are for agents and scripts. A key can do what its owner may do here, narrowed by its scopes."
    empty_title = "No key yet"
    empty_text = "Add a key, copy it, and give it to an agent together with the address /mcp."

    list_display = ("name_shown", "owner", "state", "prefix_shown", "scopes_shown", "used", "expires")
    list_display_links = ("name_shown",)
    list_filter = (("user", ScopedFilter),)
    list_select_related = ("organization", "user", "successor")
    search_fields = ("name", "user__email")
    search_help_text = "Search by name or owner"
    sortable_by = ()
    ordering = ("-id",)
    add_fieldsets = ((None, {"fields": ("name", "user", "scopes", "allowed_addresses", "expires_at", "once")}),)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "name_shown", "owner", "prefix_shown", "scopes_shown", "addresses_shown", "expires", "used", "made",
                    "replaced",
                )
            },
        ),
    )  # fmt: skip
    readonly_fields = (
        "name_shown", "owner", "prefix_shown", "scopes_shown", "addresses_shown", "expires", "used", "made", "replaced",
    )  # fmt: skip

    def summary(self, row: ApiKey) -> Sequence[object]:
        """Whether it opens anything."""
        return [key_state(row)]

    @column("Name")
    def name_shown(self, key: ApiKey) -> SafeString:
        """What it is called."""
        return reveal(key.name)

    @column("Owner")
    def owner(self, key: ApiKey) -> SafeString:
        """Whose rights it has."""
        return link("accounts_user", key.user_id, key.user)

    @column("State")
    def state(self, key: ApiKey) -> SafeString:
        """Whether it opens anything."""
        return key_state(key)

    @column("Begins with")
    def prefix_shown(self, key: ApiKey) -> SafeString:
        """What may be shown of it."""
        return code(key.prefix)

    @column("Scopes")
    def scopes_shown(self, key: ApiKey) -> SafeString:
        """What it may do out of what its owner may."""
        return words(key.scopes) if key.scopes else badge("everything the owner may")

    @column("Usable from")
    def addresses_shown(self, key: ApiKey) -> SafeString:
        """From where it may be used."""
        return words(key.allowed_addresses) if key.allowed_addresses else badge("everywhere")

    @column("Replaced by")
    def replaced(self, key: ApiKey) -> SafeString | str:
        """Its successor."""
        return link("accounts_apikey", key.successor_id, key.successor.prefix) if key.successor else "nothing"

    @column("Last used")
    def used(self, key: ApiKey) -> SafeString:
        """When, and from where."""
        return ago(key.last_used_at)

    @column("Expires")
    def expires(self, key: ApiKey) -> SafeString | str:
        """When it stops working."""
        return ago(key.expires_at) if key.expires_at else "never"

    @column("Made")
    def made(self, key: ApiKey) -> SafeString:
        """When."""
        return ago(key.created_at)

    @deed(
        "Revoke", permission="key.read", icon="key_off", tone="bad", confirms=True,
        is_offered=lambda key: not key.revoked_at,
        question="Whoever uses this key is shut out at once, everywhere. It cannot be undone.",
    )  # fmt: skip
    def revoke(self, actor: Actor, key: ApiKey) -> str:
        """End it."""
        services.revoke_key(actor, key_id=key.pk)
        return f"{key} is revoked."

    @deed("Rotate", permission="key.read", icon="autorenew", confirms=True, form=RotateForm, is_offered=_may_be_rotated)
    def rotate(self, actor: Actor, key: ApiKey, form: forms.Form) -> TemplateParts:
        """Show its successor, this once."""
        new = services.rotate_key(actor, key_id=key.pk, **form.cleaned_data)
        return TemplateParts("staff/new_key.html", {"title": "New API key", "plain": new.plain})

    # Making a key

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """For oneself unless somebody else is chosen, with a fresh one-time word."""
        initial = super().get_changeform_initial_data(request)
        return {"user": actor_of(request).user_id, **initial, "once": _new_once(request)}

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Only active members can own keys: people are those of the organisation, and a key is made within one."""
        if db_field.name == "user":
            people = self.admin_site.get_model_admin(db_field.remote_field.model)
            options["queryset"] = people.get_queryset(request).filter(is_active=True)
        return super().formfield_for_foreignkey(db_field, request, **options)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """A form that has made its key makes no second one: the page was sent again."""
        is_new = request.method == "POST" and object_id is None
        if is_new:
            actor_of(request).require_confirmed()  # before the form's word is spent
        if is_new and not _take_once(request):
            messages.warning(request, "A key is shown only once. If it was lost, revoke it and add another.")
            return HttpResponseRedirect(reverse("admin:accounts_apikey_changelist"))
        answer = super().changeform_view(request, object_id, form_url, extra_context)
        if is_new and getattr(answer, "context_data", {}).get("errors"):
            _give_back(request)
        return answer

    def create(self, actor: Actor, values: dict[str, Any]) -> ApiKey:
        """Make it; its text goes no further than the answer to this request."""
        new = services.create_key(
            actor,
            name=values["name"],
            scopes=values["scopes"],
            expires_at=values["expires_at"],
            user_id=values["user"].pk,
            allowed_addresses=values["allowed_addresses"],
        )
        new.key.plain = new.plain  # type: ignore[attr-defined]
        return new.key

    def response_add(self, request: HttpRequest, obj: Model, post_url_continue: str | None = None) -> HttpResponse:
        """Show the key, this once."""
        key = cast(Any, obj)
        context = self.page_context(request, key, title="New API key", plain=key.plain)
        response = TemplateResponse(request, "staff/new_key.html", context)
        add_never_cache_headers(response)
        return response.render()


def _new_once(request: HttpRequest) -> str:
    """A word that is good for one key; the session remembers the last few."""
    word = secrets.token_urlsafe(16)
    _remember(request, word)
    return word


def _take_once(request: HttpRequest) -> bool:
    """Whether the form's word was good; it is no longer. Of two clicks at the same time only one counts."""
    known, word = request.session.get(_ONCE, []), request.POST.get("once", "")
    request.session[_ONCE] = [each for each in known if each != word]
    return word in known and _is_first_click(word)


def _is_first_click(word: str) -> bool:
    try:
        return bool(cache.add(_spent(word), True, _CLICK_SECONDS))
    except Exception:  # each cache backend raises errors of its own
        # Without the cache two clicks at the same time make two keys, which staff see; no key at all would be worse.
        return True


def _give_back(request: HttpRequest) -> None:
    """The form was refused and made no key: its word is good again."""
    word = request.POST.get("once", "")
    _remember(request, word)
    with suppress(Exception):  # without the cache nothing was spent
        cache.delete(_spent(word))


def _remember(request: HttpRequest, word: str) -> None:
    request.session[_ONCE] = [*request.session.get(_ONCE, []), word][-_FORMS_AT_ONCE:]


def _spent(word: str) -> str:
    return f"key-form:{word}"
