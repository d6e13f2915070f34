"""What every Django request passes: its id and address, the policy of a page, and the actor of the admin."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest, HttpResponse, JsonResponse

from apps.core import logs
from apps.core.actor import Actor
from apps.core.errors import Malformed, MethodNotAllowed, NotFound, ServiceError, UnsupportedMediaType, render
from config.headers import ADMIN_PREFIX, policy_of_page

_PLAIN_REFUSALS = {kind.status: kind for kind in (Malformed, NotFound, MethodNotAllowed, UnsupportedMediaType)}

GetResponse = Callable[[HttpRequest], HttpResponse]


class RequestMiddleware:
    """Gives the request `request_id`, `address`, `nonce` and `actor`, and a page its policy."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serve one request."""
        request.request_id = request.META.get("gatehouse.request_id") or f"req_{uuid4().hex}"  # type: ignore[attr-defined]
        request.address = request.META.get("gatehouse.address") or request.META.get("REMOTE_ADDR", "")  # type: ignore[attr-defined]
        request.nonce = secrets.token_urlsafe(16)  # type: ignore[attr-defined]
        request.actor = None  # type: ignore[attr-defined]
        marks = logs.request_id.set(request.request_id), logs.current_actor.set(None)  # type: ignore[attr-defined]
        try:
            response = _in_our_shape(request, self.get_response(request))
        finally:
            logs.request_id.reset(marks[0])
            logs.current_actor.reset(marks[1])
        if response.headers.get("Content-Type", "").startswith("text/html"):
            policy = policy_of_page(request.path, request.nonce)  # type: ignore[attr-defined]
            response.headers["Content-Security-Policy"] = policy
        if request.path.startswith(("/api/", ADMIN_PREFIX)):
            response.headers.setdefault("Cache-Control", "no-store")
        return response


def _in_our_shape(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The API's refusals that a framework made as plain text (405, say) get the envelope like all others."""
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    if not request.path.startswith("/api/") or response.status_code not in _PLAIN_REFUSALS or is_json:
        return response
    error = _PLAIN_REFUSALS[response.status_code]()
    shaped = JsonResponse(render(error, logs.request_id.get()), status=error.status)
    if "Allow" in response.headers:
        shaped["Allow"] = response["Allow"]
    return shaped


class StaffMiddleware:
    """Gives admin requests their actor: the signed-in user in the organisation that the session chose."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serve one request."""
        if request.path.startswith(ADMIN_PREFIX) and isinstance(request.user, AbstractBaseUser):
            request.actor = staff_actor(request, request.user)  # type: ignore[attr-defined]
            logs.current_actor.set(request.actor)  # type: ignore[attr-defined]
        return self.get_response(request)


def staff_actor(request: HttpRequest, user: Any) -> Actor | None:
    """Who is signed in, in the organisation that the session chose and whose control room opens for them."""
    from apps.auth import services as auth
    from config.entrance import is_confirmed

    address: str = request.address  # type: ignore[attr-defined]
    for organization_id in _possible_organizations(request, user):
        try:
            actor = auth.actor_for_user(user, organization_id=organization_id, surface="admin", address=address)
            return replace(actor, is_confirmed=is_confirmed(request))
        except ServiceError:
            request.session.pop("organization_id", None)
    return None


def _possible_organizations(request: HttpRequest, user: Any) -> Iterator[UUID | None]:
    """The one that the session chose, if the user runs it; then all for a platform admin, the first for others."""
    from apps.auth import services as auth

    runs = [organization.id for organization in auth.staff_organizations_of(user)]
    chosen = next((each for each in runs if str(each) == request.session.get("organization_id")), None)
    if chosen:
        yield chosen
    elif "organization_id" in request.session:
        del request.session["organization_id"]
    if user.is_superuser:
        yield None
    else:
        yield from runs
