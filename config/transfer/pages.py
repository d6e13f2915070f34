"""The staff pages of import and export: choose a file, see line by line what would come of it, confirm."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminTextareaWidget

from apps.core.errors import ConfirmationNeeded, ServiceError
from apps.core.staff import actor_of, badge, differences, reveal
from config.transfer.exports import FORMATS, export_configuration
from config.transfer.imports import import_document, rehearse
from config.transfer.items import LARGEST_BYTES, Document, carried, carry, read_document
from config.transfer.plans import Line, Plan

if TYPE_CHECKING:
    from config.staff import StaffSite

OUTCOMES: Mapping[str, tuple[str, Any]] = {
    "make": ("Made", "good"), "change": ("Changed", "info"), "leave": ("Left as it is", "quiet"),
    "refuse": ("Refused", "bad"),
}  # fmt: skip


class ImportForm(forms.Form):
    """A file, or its text."""

    file = forms.FileField(required=False, widget=UnfoldAdminFileFieldWidget, help_text="A .json file, at most 1 MB.")
    text = forms.CharField(
        required=False, max_length=LARGEST_BYTES, strip=False, label="Or paste it",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 10, "spellcheck": "false"}),
        help_text="A configuration of Gatehouse, or the mcp.json of a client.",
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        """One of the two, as bytes."""
        given: dict[str, Any] = dict(self.cleaned_data)
        if bool(given.get("file")) == bool(given.get("text")):
            raise forms.ValidationError("Choose a file, or paste its text.")
        if given.get("file") and given["file"].size > LARGEST_BYTES:
            raise forms.ValidationError("A configuration may have at most 1 MB. Import it in parts.")
        given["content"] = given["file"].read() if given.get("file") else given["text"].encode("utf-8", "surrogatepass")
        return given


def transfer_urls(site: "StaffSite") -> list[URLPattern]:
    """The addresses of import and export."""
    views: Mapping[str, Callable[..., HttpResponse]] = {
        "": lambda request: show(site, request),
        "preview/": require_POST(lambda request: preview(site, request)),
        "import/": require_POST(lambda request: confirm(site, request)),
        "export/": require_POST(lambda request: export(site, request)),
    }
    names = {
        "": "configuration",
        "preview/": "configuration_preview",
        "import/": "configuration_import",
        "export/": "configuration_export",
    }
    return [path(f"configuration/{part}", site.admin_view(view), name=names[part]) for part, view in views.items()]


def show(site: "StaffSite", request: HttpRequest, form: ImportForm | None = None, status: int = 200) -> HttpResponse:
    """Both ways: a file to take away, and one to bring. Whoever opens it proves first that it is them."""
    actor_of(request).require_confirmed()
    context = {
        "title": "Import and export",
        "form": form or ImportForm(),
        "formats": {name: words for name, (_, words) in FORMATS.items()},
    }
    return _page(site, request, "staff/configuration.html", context, status=status)


def preview(site: "StaffSite", request: HttpRequest) -> HttpResponse:
    """What would come of a file."""
    _come_back_here(site, request)
    form = ImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return show(site, request, form, 422)
    try:
        document = read_document(form.cleaned_data["content"])
        plan = rehearse(actor_of(request), document)
    except ConfirmationNeeded:
        raise
    except ServiceError as error:
        form.add_error(None, error.message)
        return show(site, request, _without_text(form), error.status)
    return _plan_page(site, request, document, plan)


def confirm(site: "StaffSite", request: HttpRequest) -> HttpResponse:
    """Do what was shown; show it again where it would be something else by now."""
    _come_back_here(site, request)
    seen = request.POST.get("digest", "")
    try:
        document = carried(request.POST.get("document", ""))
        plan = import_document(actor_of(request), document, digest=seen)
    except ConfirmationNeeded:
        raise
    except ServiceError as error:
        messages.error(request, error.message)
        return HttpResponseRedirect(reverse(f"{site.name}:configuration"))
    if plan.digest != seen:
        messages.warning(request, "Something has changed since you looked. Nothing was done yet: look again.")
        return _plan_page(site, request, document, plan)
    counts = plan.counts
    messages.success(
        request, f"Imported: {counts['make']} made, {counts['change']} changed, {counts['leave']} left as they were,"
        f" {counts['refuse']} refused.",
    )  # fmt: skip
    return HttpResponseRedirect(reverse(f"{site.name}:registry_server_changelist"))


def export(site: "StaffSite", request: HttpRequest) -> HttpResponse:
    """The configuration as a file to take away."""
    kind = request.POST.get("format", "")
    actor = actor_of(request)
    try:
        written = export_configuration(actor, kind=kind)
    except ServiceError as error:
        messages.error(request, error.message)
        return HttpResponseRedirect(reverse(f"{site.name}:configuration"))
    name = "mcp.json" if kind == "mcp.json" else f"gatehouse-{actor.organization_slug}-{timezone.now():%Y-%m-%d}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return HttpResponse(written, content_type=FORMATS[kind][0], headers=headers)


def _come_back_here(site: "StaffSite", request: HttpRequest) -> None:
    """Whoever has to prove first that it is them begins again: a file cannot be carried through that."""
    request.after_confirming = reverse(f"{site.name}:configuration")  # type: ignore[attr-defined]


def _plan_page(site: "StaffSite", request: HttpRequest, document: Document, plan: Plan) -> HttpResponse:
    context = {
        "title": "Preview of the import",
        "plan": plan,
        "summary": [badge(f"{plan.counts[each]} {words.lower()}", tone) for each, (words, tone) in OUTCOMES.items()],
        "lines": [_shown(line) for line in plan.lines],
        "carried": carry(document),
        "source": document.source if document.source != actor_of(request).organization_slug else "",
        "here": actor_of(request).organization_slug,
    }  # fmt: skip
    return _page(site, request, "staff/configuration_preview.html", context)


def _shown(line: Line) -> dict[str, Any]:
    words, tone = OUTCOMES[line.outcome]
    return {
        "kind": line.kind.capitalize(),
        "name": reveal(line.name),
        "outcome": badge(words, tone),
        "fields": differences(line.fields) if line.outcome != "leave" else [],
        "is_new": line.outcome == "make",
        "notes": [reveal(note) for note in (*([line.why] if line.why else []), *line.notes)],
    }


def _without_text(form: ImportForm) -> ImportForm:
    """The form without what was pasted: it may hold secrets, and is not sent back."""
    form.data = {}
    return form


def _page(
    site: "StaffSite", request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200
) -> HttpResponse:
    request.current_app = site.name
    return TemplateResponse(request, template, {**site.each_context(request), **context}, status=status)
