"""The way into the control room: password, second factor, and the proof that it is still the same person."""

import re
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME, get_user_model, login, update_session_auth_hash
from django.contrib.auth.views import LoginView
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.crypto import constant_time_compare
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST
from unfold.forms import AdminOwnPasswordChangeForm, AuthenticationForm
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from apps.audit import services as audit
from apps.auth import services as auth
from apps.core.errors import ConfirmationNeeded, ServiceError
from apps.core.staff import actor_of

View = Callable[..., HttpResponse]

WRONG = "E-mail address and password do not belong together."
CONFIRMED_AT = "confirmed_at"
HALF = "half_signed_in"
HALF_SECONDS = 300
LONGEST_CODE = 64
LONGEST_PASSWORD = 1024
# What a browser reads as another path than the one it looks like.
_CROOKED = re.compile(r"\\|//|/\.|%2e|%2f|%5c", re.IGNORECASE)
_WITHOUT_SECOND_FACTOR = frozenset({
    "second_factor", "second_factor_begin", "second_factor_confirm", "confirm", "logout", "password_change",
    "password_change_done", "jsi18n",
})  # fmt: skip


def is_confirmed(request: HttpRequest) -> bool:
    """Whether whoever is signed in has proved a moment ago that it is them."""
    since = time.time() - float(request.session.get(CONFIRMED_AT, 0))
    return 0 <= since < settings.CONFIRM_SECONDS


def guarded(view: View) -> View:
    """A view that sends away whoever has no second factor where one is demanded, and asks for a proof where one is."""

    @wraps(view)
    def inner(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        user: Any = request.user
        place = request.resolver_match.url_name if request.resolver_match else ""
        if place not in _WITHOUT_SECOND_FACTOR and auth.is_second_factor_missing(user):
            return HttpResponseRedirect(reverse("admin:second_factor"))
        try:
            return view(request, *args, **options)
        except ConfirmationNeeded:
            # A form that was sent is not kept: what is typed into it may be a secret.
            back = getattr(request, "after_confirming", "") or request.get_full_path()
            return HttpResponseRedirect(f"{reverse('admin:confirm')}?{REDIRECT_FIELD_NAME}={quote(back)}")

    return inner


def safe_next(request: HttpRequest, address: str) -> str:
    """Where to go on: an address inside the control room, whatever somebody has put into the link."""
    path_alone = re.split(r"[?#]", address, maxsplit=1)[0]
    is_plain = address.isascii() and address.isprintable() and not _CROOKED.search(path_alone)
    is_inside = is_plain and address.startswith(reverse("admin:index"))
    if is_inside and url_has_allowed_host_and_scheme(address, allowed_hosts={request.get_host()}):
        return address
    return reverse("admin:index")


# Forms -----------------------------------------------------------------------------------------------------------


class StaffLoginForm(AuthenticationForm):
    """Signs in with e-mail address and password, under the lock-out that every door has."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["username"].label = "E-mail address"
        self.fields["username"].widget.input_type = "email"
        self.fields["username"].widget.attrs.update(autocomplete="username", inputmode="email")

    def clean(self) -> dict[str, Any]:
        """Check the password by the service; whoever runs no organisation is told no more than a wrong password."""
        email, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if email and password:
            address: str = getattr(self.request, "address", "")
            try:
                self.user_cache = auth.verify_password(email=email, password=password, address=address)
            except ServiceError as error:
                raise ValidationError(error.message, code=error.code) from error
            self.confirm_login_allowed(self.user_cache)
        return dict(self.cleaned_data)

    def confirm_login_allowed(self, user: Any) -> None:
        """Refuse whoever runs no organisation, with the words for a wrong password."""
        if not user.is_staff:
            raise ValidationError(WRONG, code="NOT_AUTHENTICATED")


class CodeForm(forms.Form):
    """A code of a second factor."""

    code = forms.CharField(
        max_length=LONGEST_CODE,
        label="Code",
        help_text="The six digits that your authenticator shows, or one of your recovery codes.",
        widget=UnfoldAdminTextInputWidget(
            attrs={"autocomplete": "one-time-code", "autofocus": "", "autocapitalize": "none", "spellcheck": "false"}
        ),
    )


class FirstCodeForm(CodeForm):
    """The code that shows that an authenticator has the seed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["code"].help_text = "The six digits that it shows."


class PasswordForm(forms.Form):
    """One's own password once more."""

    password = forms.CharField(
        max_length=LONGEST_PASSWORD,
        strip=False,
        label="Password",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password", "autofocus": ""}),
    )


class OwnPasswordForm(AdminOwnPasswordChangeForm):
    """Changes one's own password; guesses at the old one are counted like those of a login."""

    def __init__(self, user: Any, *args: Any, address: str, **options: Any) -> None:
        super().__init__(user, *args, **options)
        self.address = address

    def clean_old_password(self) -> str:
        """The old password, checked by the service."""
        given: str = self.cleaned_data["old_password"]
        try:
            auth.verify_password(email=self.user.email, password=given, address=self.address)
        except ServiceError as error:
            raise ValidationError(error.message, code=error.code) from error
        return given


# Signing in ------------------------------------------------------------------------------------------------------


class StaffLogin(LoginView):
    """The first step, and without a second factor the last."""

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """Let them in, or ask for the code first."""
        user, goal = form.get_user(), safe_next(self.request, self.get_success_url())
        if not auth.has_second_factor(user):
            _enter(self.request, user)
            return HttpResponseRedirect(goal)
        self.request.session.cycle_key()
        half = {"user": str(user.pk), "at": time.time(), "hash": user.get_session_auth_hash()}
        self.request.session[HALF] = half
        return HttpResponseRedirect(f"{reverse('admin:login_code')}?{REDIRECT_FIELD_NAME}={quote(goal)}")


def login_code(site: Any, request: HttpRequest) -> HttpResponse:
    """The second step: ask whoever has just given the right password for the code, and judge it."""
    user = _half_signed_in(request)
    goal = safe_next(request, request.GET.get(REDIRECT_FIELD_NAME, ""))
    if user is None:
        return HttpResponseRedirect(f"{reverse('admin:login')}?{REDIRECT_FIELD_NAME}={quote(goal)}")
    form = CodeForm(request.POST or None)
    if form.is_valid() and _accepts(form, "code", lambda code: _check(request, user, code)):
        del request.session[HALF]
        _enter(request, user)
        return HttpResponseRedirect(goal)
    return _ask(site, request, form, title="Second step", button="Log in", out=reverse("admin:login"))


def _check(request: HttpRequest, user: Any, code: str) -> None:
    auth.verify_code(user, code=code, address=request.address)  # type: ignore[attr-defined]


def _half_signed_in(request: HttpRequest) -> Any:
    """Whose password was right a moment ago; None where that is long ago, or where it would not be now."""
    half = request.session.get(HALF, {})
    if not half or not 0 <= time.time() - half["at"] < HALF_SECONDS:
        return None
    user: Any = get_user_model().objects.filter(pk=half["user"]).first()
    if user is None or not user.is_staff or not constant_time_compare(half["hash"], user.get_session_auth_hash()):
        return None
    return user


def _enter(request: HttpRequest, user: Any) -> None:
    """Sign in, confirmed for a while, and write it into the journal."""
    login(request, user, backend=settings.AUTHENTICATION_BACKENDS[0])
    request.session[CONFIRMED_AT] = time.time()
    runs = auth.staff_organizations_of(user)
    if len(runs) == 1:  # there is nothing to choose: a newcomer begins in the one organisation that there is
        request.session["organization_id"] = str(runs[0].id)
    address: str = request.address  # type: ignore[attr-defined]
    where = None if user.is_superuser else runs[0].id
    actor = auth.actor_for_user(user, organization_id=where, surface="admin", address=address)
    audit.record(actor, "session.opened", f"user:{user.email}")


# Confirming ------------------------------------------------------------------------------------------------------


def confirm(site: Any, request: HttpRequest) -> HttpResponse:
    """Ask who is signed in to prove that it is still them, and go back to what they were about to do."""
    actor = actor_of(request)
    has_code = auth.has_second_factor(request.user)  # type: ignore[arg-type]
    form: forms.Form = (CodeForm if has_code else PasswordForm)(request.POST or None)
    name = "code" if has_code else "password"
    goal = safe_next(request, request.GET.get(REDIRECT_FIELD_NAME, ""))
    if form.is_valid() and _accepts(form, name, lambda proof: auth.confirm_identity(actor, proof=proof)):
        request.session[CONFIRMED_AT] = time.time()
        return HttpResponseRedirect(goal)
    lead = "What comes next opens doors. Nothing has been changed yet."
    return _ask(
        site, request, form, title="Confirm that it is you", button="Confirm", out=reverse("admin:index"), lead=lead
    )


def _accepts(form: forms.Form, name: str, judge: Callable[[str], None]) -> bool:
    try:
        judge(form.cleaned_data[name])
    except ServiceError as error:
        form.add_error(name, error.message)
        return False
    return True


def _ask(site: Any, request: HttpRequest, form: forms.Form, **words: str) -> TemplateResponse:
    context = {**site.each_context(request), "form": form, "app_path": request.get_full_path(), **words}
    request.current_app = site.name
    return TemplateResponse(request, "staff/prove.html", context)


# The second factor of one's own ----------------------------------------------------------------------------------


class SecondFactorPages:
    """Setting up one's own second factor, and taking it away."""

    def __init__(self, site: Any) -> None:
        self.site = site

    def urls(self) -> list[URLPattern]:
        """Their addresses."""
        deeds = {"begin": self.begin, "confirm": self.confirm, "renew": self.renew, "remove": self.remove}
        return [
            path("second-factor/", self.site.admin_view(self.show), name="second_factor"),
            *(
                path(f"second-factor/{name}/", self.site.admin_view(require_POST(view)), name=f"second_factor_{name}")
                for name, view in deeds.items()
            ),
        ]

    def show(self, request: HttpRequest, form: CodeForm | None = None) -> HttpResponse:
        """How it stands, and the seed that waits for its first code."""
        actor = actor_of(request)
        standing = auth.describe_second_factor(actor)
        pending = auth.pending_second_factor(actor) if standing.is_pending else None
        return self._page(
            request, standing=standing, pending=pending, qr=_drawn(pending.uri) if pending else "",
            form=form or FirstCodeForm(),
        )  # fmt: skip

    def begin(self, request: HttpRequest) -> HttpResponse:
        """Make a seed."""
        return self._then_show(request, lambda: auth.begin_second_factor(actor_of(request)))

    def confirm(self, request: HttpRequest) -> HttpResponse:
        """Judge the first code and show the recovery codes, this once."""
        form = FirstCodeForm(request.POST)
        if not form.is_valid():
            return self.show(request, form)
        try:
            codes = auth.confirm_second_factor(actor_of(request), code=form.cleaned_data["code"])
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            form.add_error("code", error.message)
            return self.show(request, form)
        self._stay(request)
        return self._page(request, codes=codes)

    def renew(self, request: HttpRequest) -> HttpResponse:
        """Make new recovery codes and show them, this once."""
        request.after_confirming = reverse("admin:second_factor")  # type: ignore[attr-defined]
        return self._page(request, codes=auth.renew_recovery_codes(actor_of(request)))

    def remove(self, request: HttpRequest) -> HttpResponse:
        """Take it away."""
        actor = actor_of(request)
        return self._then_show(request, lambda: auth.remove_second_factor(actor, user_id=actor.user_id or UUID(int=0)))

    def _then_show(self, request: HttpRequest, do: Callable[[], object]) -> HttpResponse:
        request.after_confirming = reverse("admin:second_factor")  # type: ignore[attr-defined]
        try:
            do()
        except ConfirmationNeeded:
            raise
        except ServiceError as error:
            messages.error(request, error.message)
        self._stay(request)
        return HttpResponseRedirect(reverse("admin:second_factor"))

    def _stay(self, request: HttpRequest) -> None:
        """Every session of the user has ended; this one goes on."""
        user: Any = request.user
        user.refresh_from_db()
        update_session_auth_hash(request, user)

    def _page(self, request: HttpRequest, **more: Any) -> TemplateResponse:
        request.current_app = self.site.name
        context = {**self.site.each_context(request), "title": "Second factor", **more}
        return TemplateResponse(request, "staff/second_factor.html", context)


def _drawn(uri: str) -> str:
    """A QR code as a picture inside the page: it is drawn here, and asks nobody."""
    import segno

    return str(segno.make(uri, error="m", micro=False).svg_data_uri(scale=5, border=3, dark="#111", light="#fff"))
