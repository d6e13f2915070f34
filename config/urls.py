"""Every address that Django answers; /mcp is answered by the MCP door before Django sees it."""

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularRedocView, SpectacularSwaggerSplitView

from apps.core.errors import Malformed, NotFound, NotPermitted, ServiceError
from config import health, pages, rest
from config.outages import as_outage


def home(request: HttpRequest) -> HttpResponse:
    """The front door: the control room."""
    return HttpResponseRedirect("/admin/")


def _handler(make: Callable[[], ServiceError]) -> Callable[..., HttpResponse]:
    def handle(request: HttpRequest, exception: Any = None, **_: Any) -> HttpResponse:
        error = make()
        if _wants_page(request):
            return render(request, "error.html", {"error": error, "status": error.status}, status=error.status)
        return rest.error_response(request, error)

    return handle


def _wants_page(request: HttpRequest) -> bool:
    return not request.path.startswith("/api/") and "text/html" in request.headers.get("Accept", "")


def refuse_forgery(request: HttpRequest, reason: str = "") -> HttpResponse:
    """What a form is told that did not come from a page of ours, or from one that is too old."""
    return _handler(
        lambda: NotPermitted("This did not come from a page of ours, or the page was too old. Load it again.")
    )(request)


handler400 = _handler(Malformed)
handler403 = _handler(NotPermitted)
handler404 = _handler(NotFound)
handler500 = _handler(lambda: as_outage(sys.exc_info()[1]) or ServiceError())


class DocumentMaker(SchemaGenerator):
    """Makes the OpenAPI document once for each process: it takes a quarter of a second, and anybody may ask for it."""

    def get_schema(self, request: Any = None, public: bool = False) -> Any:
        """The document, the same for everybody."""
        return _document()


@lru_cache
def _document() -> Any:
    return SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]


_schema = SpectacularJSONAPIView.as_view(generator_class=DocumentMaker)
_READ_ONLY = ["get", "head"]  # what Django REST framework says to OPTIONS has no page of theirs to be shown on
_swagger = SpectacularSwaggerSplitView.as_view(
    url_name="openapi", template_name="swagger.html", http_method_names=_READ_ONLY
)
_redoc = SpectacularRedocView.as_view(url_name="openapi", template_name="redoc.html", http_method_names=_READ_ONLY)

urlpatterns = [
    path("", home),
    path("live", health.live),
    path("ready", health.ready),
    path("health", health.health),
    path("health/detailed", health.detailed),
    path("admin/", admin.site.urls),
    path("invitation", pages.invitation),
    path("api/openapi.json", _schema, name="openapi"),
    path("docs", _swagger),
    path("redoc", _redoc),
    path("api/docs", _swagger),
    path("api/redoc", _redoc),
    path("api/v1/", include("apps.auth.api")),
    path("api/v1/", rest.ninja_api().urls),
    path(".well-known/", include("apps.auth.api.well_known")),
]
