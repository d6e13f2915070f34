"""Every kind of error has the one shape, at every address, over the live server."""

import re
from datetime import datetime
from typing import Any

import pytest

from tests.live import Answer

SERVERS = "/api/v1/mcp/servers"
KEYS = "/api/v1/auth/api-keys"
NOWHERE = "0198c0de-0000-7000-8000-00000000c0de"
TELLTALES = re.compile(r"Traceback|File \"|\.py\b|SELECT |sqlite|psycopg|apps\.|/site-packages/", re.IGNORECASE)


def assert_envelope(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The status, the code and exactly the documented shape, without anything from inside."""
    assert answer.status == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "details", "timestamp", "request_id"}
    assert error["code"] == code
    assert re.search(r"\w[.?]$", error["message"]), error["message"]
    assert isinstance(error["details"], dict)
    assert datetime.fromisoformat(error["timestamp"]).tzinfo is not None
    assert error["request_id"] == answer.headers["x-request-id"]
    assert not TELLTALES.search(answer.text)
    return error


@pytest.mark.parametrize("path", [
    "/api", "/api/", "/api/nothing", "/api/v1", "/api/v1/nothing", "/api/v1/nothing/", "/api/v2/mcp/servers",
    "/nothing",
    "/.well-known/nothing", "/admin.php", f"{SERVERS}/not-an-id", "/api/v1/orgs/not-an-id", "/static/nothing.js",
])  # fmt: skip
def test_an_unknown_address_is_not_found(house, path):
    assert_envelope(house.rest.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    "path", [f"{SERVERS}/{NOWHERE}", f"{KEYS}/{NOWHERE}", f"/api/v1/orgs/{NOWHERE}", f"/api/v1/jobs/{NOWHERE}"]
)
def test_an_unknown_thing_is_not_found(house, path):
    method = "DELETE" if path.startswith(KEYS) else "GET"

    assert_envelope(house.rest.request(method, path), 404, "NOT_FOUND")


def test_a_browser_gets_a_page_outside_the_api_and_json_inside(house):
    html = {"Accept": "text/html,application/xhtml+xml"}

    page = house.anonymous.get("/nothing", headers=html)
    inside = house.anonymous.get("/api/nothing", headers=html)

    assert page.status == 404
    assert page.headers["content-type"].startswith("text/html")
    assert not TELLTALES.search(page.text)
    assert_envelope(inside, 404, "NOT_FOUND")


@pytest.mark.parametrize(("method", "path"), [
    ("DELETE", SERVERS), ("PUT", SERVERS), ("GET", "/api/v1/auth/login"), ("DELETE", "/api/v1/orgs"),
    ("PATCH", "/api/v1/jobs"),
])  # fmt: skip
def test_a_method_that_is_not_taken(house, method, path):
    answer = house.rest.request(method, path)

    assert_envelope(answer, 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/docs", "/redoc", "/api/docs", "/api/redoc"])
def test_the_documents_are_only_read(house, path, method):
    assert_envelope(house.anonymous.request(method, path), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("path", ["/live", "/health", "/", "/admin/", "/admin/login/", "/admin/registry/server/add/"])
def test_a_form_from_elsewhere_is_refused_in_the_same_shape(house, path):
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = house.anonymous.post(path, body=b"a=b", headers=form)
    page = house.anonymous.post(path, body=b"a=b", headers={**form, "Accept": "text/html"})

    assert_envelope(answer, 403, "NOT_PERMITTED")
    assert page.status == 403
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["x-request-id"] in page.text
    assert not TELLTALES.search(page.text)


@pytest.mark.parametrize(
    ("path", "body"), [("/api/v1/auth/login", b"email=a"), (KEYS, b"name: ci"), (SERVERS, b"name: x")]
)
def test_a_body_of_another_type(house, path, body):
    answer = house.rest.post(path, body=body, headers={"Content-Type": "application/yaml"})

    assert answer.status in (400, 415)
    assert_envelope(answer, answer.status, {400: "MALFORMED", 415: "UNSUPPORTED_MEDIA_TYPE"}[answer.status])


@pytest.mark.parametrize("path", ["/api/v1/auth/login", KEYS, SERVERS])
@pytest.mark.parametrize("body", [b"{", b"[1,", b"nothing", b"\xff\xfe", b"{'a': 1}", b'{"a": 1} 2'])
def test_a_body_that_is_no_json_is_malformed(house, path, body):
    assert_envelope(house.rest.post(path, body=body), 400, "MALFORMED")


@pytest.mark.parametrize(
    "query", ["nothing=1", "page=0", "page=x", "page_size=100000000", "page=-1", "page=1&nothing=%27"]
)
@pytest.mark.parametrize("path", [SERVERS, KEYS, "/api/v1/audit/logs", "/api/v1/jobs", "/api/v1/metrics/events"])
def test_a_query_that_means_nothing_is_malformed(house, path, query):
    assert_envelope(house.rest.get(f"{path}?{query}"), 400, "MALFORMED")


@pytest.mark.parametrize("credential", [
    None, "Bearer nothing", "Bearer gate_" + "x" * 16, "Basic YWxpY2U6cGFzc3dvcmQ=", "Bearer", "Bearer  ", "nothing",
])  # fmt: skip
@pytest.mark.parametrize("path", [SERVERS, KEYS, "/api/v1/orgs", "/api/v1/audit/logs"])
def test_nobody_is_told_to_sign_in(house, path, credential):
    answer = house.anonymous.get(path, headers={"Authorization": credential} if credential else {})

    assert_envelope(answer, 401, "NOT_AUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_viewer_is_told_which_permission_is_missing(house):
    body = {"name": "Weather", "slug": "weather", "url": "https://example.com/mcp"}

    error = assert_envelope(house.viewer.post(SERVERS, body), 403, "NOT_PERMITTED")

    assert error["details"]["permission"] == "server.write"


def test_a_slug_that_is_taken_is_a_conflict(house):
    client = house.rest
    body = {"name": "Weather", "slug": "weather", "url": "https://example.com/mcp"}
    assert client.post(SERVERS, body).status == 201

    assert_envelope(client.post(SERVERS, body), 409, "CONFLICT")


@pytest.mark.parametrize("path", [SERVERS, KEYS, "/api/v1/auth/login", "/admin/login/", "/nothing"])
def test_a_body_that_is_too_large(house, path):
    answer = house.rest.post(path, body=b'"' + b"x" * 5_000_000 + b'"')

    assert_envelope(answer, 413, "TOO_LARGE")


@pytest.mark.parametrize(("path", "body", "field"), [
    (SERVERS, {"name": "Weather", "slug": "Not A Slug", "url": "https://example.com/mcp"}, "slug"),
    (SERVERS, {"slug": "weather", "url": "https://example.com/mcp"}, "name"),
    (SERVERS, {"name": "Weather", "slug": "weather", "url": "http://127.0.0.1/"}, "url"),
    (SERVERS, {"name": "Weather", "slug": "weather", "url": "https://example.com/mcp", "nothing": 1}, "nothing"),
    (KEYS, {"scopes": []}, "name"),
    (KEYS, {"name": "ci", "nothing": 1}, "nothing"),
    ("/api/v1/auth/login", {"email": 1, "password": "x"}, "email"),
])  # fmt: skip
def test_a_value_that_is_refused_names_its_field(house, path, body, field):
    error = assert_envelope(house.rest.post(path, body), 422, "INVALID_INPUT")

    assert field in error["details"]["fields"]
    assert all(isinstance(text, str) for texts in error["details"]["fields"].values() for text in texts)


@pytest.mark.parametrize(("service", "path"), [
    ("apps.registry.services.list_servers", SERVERS), ("apps.auth.services.list_keys", KEYS),
])  # fmt: skip
def test_a_bug_shows_nothing_of_itself(house, monkeypatch, caplog, service, path):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("SELECT secret FROM apps.registry")

    client = house.rest
    monkeypatch.setattr(service, fail)
    answer = client.get(path)

    assert_envelope(answer, 500, "INTERNAL")
    assert "SELECT secret" in caplog.text


def test_a_database_that_does_not_answer_is_said_to_be_down(house, monkeypatch):
    from django.db import OperationalError

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("could not connect to /var/run/postgresql")

    client = house.rest
    monkeypatch.setattr("apps.registry.services.list_servers", fail)

    assert_envelope(client.get(SERVERS), 503, "BACKEND_DOWN")


def test_the_callers_request_id_is_kept_and_a_strange_one_is_not(house):
    kept = house.anonymous.get("/api/nothing", headers={"X-Request-Id": "trace-0123456789"})
    strange = house.anonymous.get("/api/nothing", headers={"X-Request-Id": "<script>alert(1)</script>"})

    assert kept.json()["error"]["request_id"] == "trace-0123456789"
    assert strange.json()["error"]["request_id"].startswith("req_")
