"""Pages for people who are not signed in: the one on which somebody accepts an invitation."""

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.auth import services as auth
from apps.core.errors import ServiceError
from apps.core.staff.forms import add_refusal

LONGEST_TOKEN = 200
LONGEST_NAME = 100
LONGEST_PASSWORD = 1024


class InvitationForm(forms.Form):
    """What it takes to join. The token comes from the part of the link that browsers keep to themselves."""

    token = forms.CharField(
        label="Invitation", max_length=LONGEST_TOKEN, widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="What the link has behind its #.",
    )  # fmt: skip
    name = forms.CharField(
        label="Your name", max_length=LONGEST_NAME, required=False,
        widget=forms.TextInput(attrs={"autocomplete": "name"}), help_text="If you are new here.",
    )  # fmt: skip
    password = forms.CharField(
        label="Password", max_length=LONGEST_PASSWORD, strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="If your e-mail address has an account here, its password. Otherwise choose one: at least 12"
        " characters, and not a common one.",
    )  # fmt: skip
    again = forms.CharField(
        label="The same password again", max_length=LONGEST_PASSWORD, strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        """Both passwords are the same."""
        given = super().clean() or {}
        if given.get("password") != given.get("again"):
            self.add_error("again", "This is not the same password.")
        return given


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def invitation(request: HttpRequest) -> HttpResponse:
    """Accept an invitation."""
    form = InvitationForm(request.POST or None, label_suffix="")
    context: dict[str, Any] = {"form": form, "member": None}
    if request.method == "POST" and form.is_valid():
        given = {name: form.cleaned_data[name] for name in ("token", "name", "password")}
        try:
            context["member"] = auth.accept_invitation(**given, address=request.address)  # type: ignore[attr-defined]
        except ServiceError as error:
            add_refusal(form, error)
    return render(request, "invitation.html", context)
