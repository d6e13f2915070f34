"""The admin door: its site, its menu, the switcher of organisations and the dashboard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth import logout as end_session
from django.contrib.auth import update_session_auth_hash
from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.templatetags.static import static
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST
from unfold.dataclasses import Favicon
from unfold.sites import UnfoldAdminSite

from apps.auth import services as auth
from apps.core.errors import ServiceError
from apps.core.staff import actor_of
from config.entrance import OwnPasswordForm, SecondFactorPages, StaffLogin, StaffLoginForm, confirm, guarded, login_code
from config.transfer.pages import transfer_urls

View = Callable[..., HttpResponse]
SHOWN = 6
SEARCH_AT_MOST = 30
ALL_ORGANIZATIONS = ""
COLORS = {
    "50": "oklch(97.5% .015 200)",
    "100": "oklch(94% .035 200)",
    "200": "oklch(89% .065 200)",
    "300": "oklch(83% .1 198)",
    "400": "oklch(75% .115 196)",
    "500": "oklch(61% .105 200)",
    "600": "oklch(50% .09 205)",
    "700": "oklch(43% .078 208)",
    "800": "oklch(37% .065 210)",
    "900": "oklch(32% .055 212)",
    "950": "oklch(23% .045 215)",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One line of the menu: the list of a model."""

    title: str
    icon: str
    model: str


MENU: Mapping[str, tuple[Place, ...]] = {
    "Servers": (
        Place("Servers", "dns", "registry_server"),
        Place("Capabilities", "build", "registry_capability"),
        Place("Bundles", "inventory_2", "gateway_bundle"),
        Place("Credentials", "passkey", "registry_credential"),
        Place("Health checks", "monitor_heart", "registry_healthcheck"),
        Place("Discoveries", "travel_explore", "registry_discovery"),
        Place("Secrets", "lock", "secrets_secret"),
    ),
    "Activity": (
        Place("Usage", "bar_chart", "usage_usageevent"),
        Place("Journal", "menu_book", "audit_entry"),
        Place("Jobs", "work_history", "jobs_job"),
        Place("Schedules", "schedule", "django_celery_beat_periodictask"),
    ),
    "People": (
        Place("Users", "person", "accounts_user"),
        Place("Members", "group", "accounts_membership"),
        Place("Invitations", "mail", "accounts_invitation"),
        Place("Organisations", "domain", "accounts_organization"),
        Place("API keys", "key", "accounts_apikey"),
        Place("Sessions", "devices", "accounts_refreshtoken"),
        Place("Failed logins", "gpp_maybe", "accounts_loginfailure"),
    ),
}


class StaffSite(UnfoldAdminSite):
    """The control room."""

    site_title = site_header = "Gatehouse"
    index_title = "Overview"
    site_url = None

    def has_permission(self, request: HttpRequest) -> bool:
        """Platform admins, and owners and admins of the organisation that they are in."""
        actor = getattr(request, "actor", None)
        if actor is None or not super().has_permission(request):
            return False
        return auth.is_staff(actor)

    def admin_view(self, view: View, cacheable: bool = False) -> View:
        """A view for staff; what no database can look for is refused before it."""
        return cast(View, super().admin_view(_refusing_nul(guarded(view)), cacheable))

    def extra_urls(self) -> list[URLPattern]:
        """The addresses of the switcher, of what a program needs to be connected, and of import and export."""
        switch = self.admin_view(require_POST(self.switch_organization))
        connect = self.admin_view(self.connect)
        return [
            path("switch-organization/", switch, name="switch_organization"),
            path("connect/", connect, name="connect"),
            path("login/code/", never_cache(csrf_protect(partial(login_code, self))), name="login_code"),
            path("confirm/", self.admin_view(partial(confirm, self)), name="confirm"),
            *SecondFactorPages(self).urls(),
            *transfer_urls(self),
        ]

    def extra_context(self, context: dict[str, Any], request: HttpRequest) -> dict[str, Any]:
        """What every page shows around its content."""
        context.update(
            site_url=None,
            site_symbol="fort",
            styles=[static("staff/staff.css")],
            scripts=[static("staff/staff.js")],
            site_favicons=[Favicon(href=static("staff/favicon.svg"), rel="icon", type="image/svg+xml")],
            colors={**context["colors"], "primary": COLORS},
            sidebar_show_search=True,
            show_back_button=True,
        )
        if self.has_permission(request):
            choices = list(self.organization_choices(request))
            context.update(
                site_dropdown=choices if len(choices) > 1 else None,
                site_subheader=next((item["name"] for item in choices if item["is_current"]), ""),
                switch_url=reverse(f"{self.name}:switch_organization"),
            )
        return context

    # Menu and search

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """The menu, with what waits for approval counted beside its place."""
        pages = self._pages()
        waiting = {model: count for model, count in waiting_counts(self, request).items() if count}
        return [
            {"title": None, "separator": False, "items": [_dashboard_item(request, reverse(f"{self.name}:index"))]},
            *(
                {"title": title, "separator": False, "items": list(self._items(request, places, pages, waiting))}
                for title, places in MENU.items()
            ),
        ]

    def _items(
        self, request: HttpRequest, places: Sequence[Place], pages: Mapping[str, Any], waiting: Mapping[str, int]
    ) -> Iterator[dict[str, Any]]:
        for place in places:
            page = pages.get(place.model)
            if page is None or not page.has_module_permission(request):
                continue
            link = reverse(f"{self.name}:{place.model}_changelist")
            item = {"title": place.title, "icon": place.icon, "link": link, "has_permission": True}
            if place.model in waiting:
                item.update(badge=str(waiting[place.model]), badge_variant="warning")
            yield {**item, "active": request.path.startswith(link)}
        if places is MENU["Servers"]:
            link = reverse(f"{self.name}:configuration")
            yield {
                "title": "Import and export", "icon": "swap_vert", "link": link, "has_permission": True,
                "active": request.path.startswith(link),
            }  # fmt: skip

    def _pages(self) -> dict[str, Any]:
        return {f"{model._meta.app_label}_{model._meta.model_name}": page for model, page in self._registry.items()}

    def page_of(self, model: str) -> Any:
        """The staff page of a model, by app_label_model; None where there is none."""
        return self._pages().get(model)

    def search(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Places of the menu, and servers, capabilities and members of the organisation, by their names."""
        words = request.GET.get("s", "").replace("\0", "").strip().lower()[:100]
        if not words:
            return HttpResponse()
        results = [*self._found_places(request, words), *self._found_rows(request, words)][:SEARCH_AT_MOST]
        template = (
            "unfold/helpers/command_results.html" if "extended" in request.GET else "unfold/helpers/search_results.html"
        )
        context = {
            "page_obj": Paginator(results, SEARCH_AT_MOST),
            "results": results,
            "page_counter": 0,
            "execution_time": 0,
        }
        return TemplateResponse(request, template, context, headers={"HX-Trigger": "search"})

    def _found_places(self, request: HttpRequest, words: str) -> Iterator[dict[str, str]]:
        for group in self.get_sidebar_list(request):
            for item in group["items"]:
                if words in item["title"].lower():
                    yield {
                        "title": item["title"],
                        "description": group["title"] or "",
                        "link": item["link"],
                        "icon": item["icon"],
                    }

    def _found_rows(self, request: HttpRequest, words: str) -> Iterator[dict[str, str]]:
        for name in ("registry_server", "registry_capability", "accounts_membership"):
            page = self.page_of(name)
            if page is None or not page.has_view_permission(request):
                continue
            rows, _ = page.get_search_results(request, page.get_queryset(request), words)
            for row in rows[:SHOWN]:
                kind = str(page.opts.verbose_name).capitalize()
                yield {"title": str(row), "description": kind, "link": page.url_of(row), "icon": "data_object"}

    # Organisations

    def organization_choices(self, request: HttpRequest) -> Iterator[dict[str, Any]]:
        """The organisations that who asks may work in, the current one marked."""
        actor = actor_of(request)
        if actor.is_platform_admin:
            yield _choice(ALL_ORGANIZATIONS, "All organisations", "public", is_current=actor.organization_id is None)
        for organization in auth.staff_organizations_of(request.user):  # type: ignore[arg-type]
            is_current = organization.id == actor.organization_id
            yield _choice(str(organization.id), organization.name, "domain", is_current=is_current)

    def switch_organization(self, request: HttpRequest) -> HttpResponse:
        """Work in another organisation from now on."""
        chosen = request.POST.get("organization", ALL_ORGANIZATIONS)
        found = next((item for item in self.organization_choices(request) if item["id"] == chosen), None)
        if found is None:
            messages.error(request, "You are not a member of that organisation.")
        elif chosen == ALL_ORGANIZATIONS:
            request.session.pop("organization_id", None)
        else:
            request.session["organization_id"] = chosen
        return HttpResponseRedirect(self._list_of(request, request.POST.get("next", "")))

    def _list_of(self, request: HttpRequest, address: str) -> str:
        """Where to go after switching: the same list, but no row of it, which the other organisation does not have."""
        lists = (reverse(f"{self.name}:{name}_changelist") for name in self._pages())
        if not url_has_allowed_host_and_scheme(address, allowed_hosts={request.get_host()}):
            address = ""
        return next((each for each in lists if address.startswith(each)), reverse(f"{self.name}:index"))

    # Signing in, and passwords

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The form for e-mail address and password; a second factor is asked for after it."""
        if request.method == "GET" and self.has_permission(request):
            return HttpResponseRedirect(reverse(f"{self.name}:index"))
        words = {"title": "Log in", "subtitle": None, "app_path": request.get_full_path()}
        context = {**self.each_context(request), **words, **(extra_context or {})}
        request.current_app = self.name
        view = StaffLogin.as_view(
            extra_context=context, authentication_form=StaffLoginForm, template_name="admin/login.html"
        )
        return cast(HttpResponse, view(request))

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """End the session; wherever the link says that one should go on, one goes to the form for signing in."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        end_session(request)
        return HttpResponseRedirect(reverse(f"{self.name}:login"))

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """One's own password, changed by the service, which ends all other sessions."""
        user: Any = request.user
        actor_of(request).require_confirmed()
        form = OwnPasswordForm(user, request.POST or None, address=actor_of(request).address)
        if request.method == "POST" and form.is_valid():
            try:
                auth.set_password(actor_of(request), user_id=user.pk, password=form.cleaned_data["new_password1"])
            except ServiceError as error:
                form.add_error("new_password1", error.message)
            else:
                user.refresh_from_db()
                update_session_auth_hash(request, user)
                return HttpResponseRedirect(reverse(f"{self.name}:password_change_done"))
        context = {**self.each_context(request), "form": form, "title": "Change your password", **(extra_context or {})}
        return TemplateResponse(request, "registration/password_change_form.html", context)

    # What the journal says

    def journal_of(self, request: HttpRequest, row: Model) -> Mapping[str, Any]:
        """A page of what was done to a row, newest first."""
        found: Mapping[str, Any] = self.page_of("audit_entry").history_of(request, row)
        return found

    # Getting started, and the dashboard

    def connect(self, request: HttpRequest) -> TemplateResponse:
        """How the programs of agents are connected."""
        from config.first_steps import ways_to_connect

        context = {**self.each_context(request), **ways_to_connect(), "title": "Connect an agent"}
        return TemplateResponse(request, "staff/connect.html", context)

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The dashboard."""
        from config.dashboard import dashboard

        return super().index(request, {**dashboard(self, request), **(extra_context or {})})  # type: ignore[no-any-return]


def _refusing_nul(view: View) -> View:
    """PostgreSQL fails on NUL where SQLite finds nothing: neither an address nor a form may hold one."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        sent = (request.path, *_words(request.GET), *_words(request.POST))
        if any("\0" in word for word in sent):
            raise BadRequest("NUL")
        return view(request, *args, **options)

    return guarded


def _words(sent: QueryDict) -> Iterator[str]:
    for name, values in sent.lists():
        yield name
        yield from (str(value) for value in values)


def waiting_counts(site: StaffSite, request: HttpRequest) -> dict[str, int]:
    """How many servers and capabilities wait for approval, by model."""
    counts = {}
    for name in ("registry_server", "registry_capability"):
        page = site.page_of(name)
        if page is not None and page.has_view_permission(request):
            counts[name] = page.waiting(request).count()
    return counts


def _choice(key: str, name: str, icon: str, *, is_current: bool) -> dict[str, Any]:
    return {"id": key, "name": name, "icon": icon, "is_current": is_current}


def _dashboard_item(request: HttpRequest, link: str) -> dict[str, Any]:
    return {
        "title": "Overview",
        "icon": "space_dashboard",
        "link": link,
        "active": request.path == link,
        "has_permission": True,
    }
