"""The REST door: mounts the routers, finds the actor, renders every error in one shape, joins the OpenAPI documents."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as NinjaValidationError
from ninja.operation import PathView
from ninja.security import HttpBearer

from apps.audit import services as audit
from apps.core import logs
from apps.core.actor import Actor
from apps.core.errors import (
    InvalidInput,
    Malformed,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RateLimited,
    ServiceError,
    TooLarge,
    UnsupportedMediaType,
    envelope,
    render,
)
from config.outages import as_outage

logger = logging.getLogger(__name__)
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_CODES = {
    kind.status: kind.code
    for kind in (Malformed, NotAuthenticated, NotPermitted, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType,
                 RateLimited)
}  # fmt: skip


# Who asks --------------------------------------------------------------------------------------------------------


class BearerActor(HttpBearer):
    """Finds the actor of a request from its bearer credential; a cookie is never one."""

    def __call__(self, request: HttpRequest) -> Actor:
        """The actor; raises NotAuthenticated."""
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise NotAuthenticated
        return self.authenticate(request, credential.strip())

    def authenticate(self, request: HttpRequest, token: str) -> Actor:
        """Remember the actor on the request and for the logs."""
        return remember_actor(request, token)


def remember_actor(request: HttpRequest, credential: str) -> Actor:
    """The actor of a REST credential, kept on the request; raises NotAuthenticated, Malformed or NotFound."""
    from apps.auth import services as auth

    address: str = getattr(request, "address", "")
    actor = auth.actor_from_bearer(
        credential,
        surface="rest",
        audience=settings.REST_AUDIENCE,
        address=address,
        organization=request.headers.get("X-Organization") or None,
    )
    request.actor = actor  # type: ignore[attr-defined]
    logs.current_actor.set(actor)
    return actor


# What is mounted -------------------------------------------------------------------------------------------------


@cache
def ninja_api() -> NinjaAPI:
    """The Ninja half of the API, with every router in its place; Ninja wants one of it in a process."""
    from apps.audit.api import router as audit_router
    from apps.gateway.api import router as gateway_router
    from apps.jobs.api import router as jobs_router
    from apps.registry.api import router as registry_router
    from apps.usage.api import router as usage_router

    made = NinjaAPI(title="Gatehouse", version=settings.VERSION, auth=BearerActor(), docs_url=None, openapi_url=None)
    made.add_router("/mcp", registry_router)
    made.add_router("/mcp", gateway_router)
    made.add_router("/jobs", jobs_router)
    made.add_router("/audit", audit_router)
    made.add_router("/metrics", usage_router)
    frameworks = (NinjaValidationError, AuthenticationError, HttpError, Http404, DatabaseError, InterfaceError)
    for kind in (ServiceError, *frameworks, Exception):
        made.exception_handler(kind)(_handle_ninja)
    refuse_unknown_queries(made)
    return made


def refuse_unknown_queries(made: NinjaAPI) -> None:
    """Answer 400 to a query name that an operation does not have: a filter that is ignored shows too much."""
    # Ninja works with copies of the routers, which it makes here; to watch the routers themselves has no effect.
    for router in made._get_bound_routers():
        for view in router.path_operations.values():
            _watch(view)


def _watch(view: PathView) -> None:
    for operation in view.operations:
        known = {
            field.alias or name
            for model in operation.models
            if getattr(model, "__ninja_param_source__", "") == "query"
            for name, field in _flat_fields(model)
        }
        operation._get_values = _checked(operation._get_values, known)  # type: ignore[method-assign]


def _flat_fields(model: Any) -> list[tuple[str, Any]]:
    flat = getattr(model, "__ninja_flatten_map__", None)
    if flat:
        return [(name, _Alias(name)) for name in flat]
    return list(model.model_fields.items())


class _Alias:
    def __init__(self, alias: str) -> None:
        self.alias = alias


def _checked(read: Callable[..., dict[str, Any]], known: set[str]) -> Callable[..., dict[str, Any]]:
    """Reading the values comes after finding the actor: a stranger is told 401 and nothing about names."""

    def checked(request: HttpRequest, *rest: Any) -> dict[str, Any]:
        unknown = sorted(set(request.GET) - known)
        if unknown:
            raise Malformed(f"There is no such filter: {', '.join(unknown)[:200]}.")
        return read(request, *rest)

    return checked


# How errors look -------------------------------------------------------------------------------------------------


_KNOWN: tuple[tuple[type[BaseException], Callable[[], ServiceError]], ...] = (
    (AuthenticationError, NotAuthenticated),
    (Http404, NotFound),
    (PermissionDenied, NotPermitted),
    (SuspiciousOperation, Malformed),
)


def as_service_error(error: BaseException) -> ServiceError | None:
    """Our error for one of the frameworks'; None for a bug."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, NinjaValidationError):
        return _refused_values(error.errors)
    outage = as_outage(error)
    if outage is not None:
        logger.warning("the database failed: %s", error)
        return outage
    return next((make() for kind, make in _KNOWN if isinstance(error, kind)), None)


def _refused_values(errors: list[dict[str, Any]]) -> ServiceError:
    """A path that is no id is not found, a query that is no query is malformed, a body's value is invalid."""
    places = {str(part["loc"][0]) for part in errors if part.get("loc")}
    if "path" in places:
        return NotFound()
    fields: dict[str, list[str]] = {}
    for part in errors:
        steps = [str(step) for step in part["loc"][1:]]
        name = ".".join(steps[1:] or steps) if places & {"body"} else ".".join(steps)
        fields.setdefault(name or "non_field", []).append(part["msg"])
    if "query" in places:
        return Malformed("The query was refused. See details.fields.", details={"fields": fields})
    return InvalidInput(details={"fields": fields})


def error_response(request: HttpRequest, error: ServiceError) -> HttpResponse:
    """The envelope as an HTTP answer; a refused change is written to the journal."""
    request_id: str = getattr(request, "request_id", "")
    actor: Actor | None = getattr(request, "actor", None)
    if isinstance(error, NotPermitted) and actor and request.method not in _SAFE:
        audit.record(
            actor, "request.refused", request.path, outcome="refused",
            details={"method": request.method, "code": error.code, **error.details},
        )  # fmt: skip
    response = JsonResponse(render(error, request_id), status=error.status)
    if isinstance(error, NotAuthenticated):
        response["WWW-Authenticate"] = 'Bearer realm="gatehouse"'
    if isinstance(error, MethodNotAllowed):
        response["Allow"] = ", ".join(error.details["allowed"])
    if "retry_after" in error.details:
        response["Retry-After"] = str(error.details["retry_after"])
    return response


def internal_error(request: HttpRequest, error: BaseException) -> HttpResponse:
    """A bug: logged with its trace, shown without."""
    logger.error("unhandled error at %s", request.path, exc_info=error)
    body = envelope("INTERNAL", ServiceError.default, request_id=getattr(request, "request_id", ""))
    return JsonResponse(body, status=500)


def _framework_refusal(request: HttpRequest, status: int, message: str) -> HttpResponse:
    """What a framework refused by itself, in its own words and our shape."""
    code = _CODES.get(status, Malformed.code)
    return JsonResponse(envelope(code, message, request_id=getattr(request, "request_id", "")), status=status)


def _handle_ninja(request: HttpRequest, error: Any) -> HttpResponse:
    if isinstance(error, HttpError):
        return _framework_refusal(request, error.status_code, str(error))
    known = as_service_error(error)
    return error_response(request, known) if known else internal_error(request, error)


def handle_drf_exception(error: Exception, context: dict[str, Any]) -> HttpResponse:
    """The exception handler of Django REST framework: the same envelope."""
    from rest_framework import exceptions

    request: HttpRequest = context["request"]._request
    if isinstance(error, exceptions.ValidationError):
        return error_response(request, InvalidInput(details={"fields": _drf_fields(error.detail)}))
    if isinstance(error, exceptions.AuthenticationFailed | exceptions.NotAuthenticated):
        return error_response(request, NotAuthenticated())
    if isinstance(error, exceptions.ParseError):
        return error_response(request, Malformed("The body is not valid JSON."))
    if isinstance(error, exceptions.APIException):
        return _framework_refusal(request, error.status_code, str(error.detail))
    known = as_service_error(error)
    return error_response(request, known) if known else internal_error(request, error)


def _drf_fields(detail: Any, place: str = "") -> dict[str, list[str]]:
    if isinstance(detail, dict):
        fields: dict[str, list[str]] = {}
        for name, part in detail.items():
            fields.update(_drf_fields(part, f"{place}.{name}".strip(".")))
        return fields
    messages = detail if isinstance(detail, list) else [detail]
    return {place.replace("non_field_errors", "non_field") or "non_field": [str(message) for message in messages]}


# One document ----------------------------------------------------------------------------------------------------


def join_documents(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add Ninja's half of the API to the document of the other half (a hook of drf-spectacular)."""
    other: dict[str, Any] = ninja_api().get_openapi_schema(path_prefix="/api/v1/")
    result.setdefault("paths", {}).update(other.get("paths", {}))
    components = result.setdefault("components", {})
    for kind, entries in other.get("components", {}).items():
        components.setdefault(kind, {}).update(entries)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token or an API key."}
    }
    for path in result["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict) and operation.get("security"):
                operation["security"] = [{"bearer": []}]
    _describe_errors(result)
    return result


def _describe_errors(document: dict[str, Any]) -> None:
    from apps.core.schemas import ErrorOut

    schemas = document["components"].setdefault("schemas", {})
    error = ErrorOut.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(error.pop("$defs", {}))
    schemas["ErrorOut"] = error
    answer = {
        "description": "Refused or failed; the code says why.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorOut"}}},
    }
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict) and "responses" in operation:
                operation["responses"].setdefault("4XX", answer)
                operation["responses"].setdefault("5XX", answer)
