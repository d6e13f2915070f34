"""What every answer tells a browser, and what no page of another origin gets from us (O01, O02, O03)."""

import json
from typing import Any

import pytest

from config.headers import SECURITY_HEADERS, secured
from tests.house.conftest import House
from tests.live import Answer
from tests.people import PASSWORD

PAGES = ("/admin/login/", "/docs", "/redoc", "/api/docs", "/api/redoc", "/nothing/here")
REFUSED_PAGES = ("/admin/", "/admin/%00", "/nothing", "/api/v1/nothing", "/static/nothing.js")
STRANGERS = (
    "https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:8000.evil.example",
    "http://evil.127.0.0.1:8000", "http://127.0.0.1:8001", "https://127.0.0.1:8000", "http://127.0.0.1:8000@evil.example",
    "file://", "chrome-extension://abcdefghijklmnop",
)  # fmt: skip
SIGN_IN = ("/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/logout", "/api/v1/auth/invitations/accept")
WITH_PAGE = {"Accept": "text/html"}


def every_kind_of_answer(house: House) -> dict[str, Answer]:
    """Pages, documents, files, refusals of every layer, and the endpoint for agents."""
    ask = house.anonymous
    found = {path: ask.get(path, headers=WITH_PAGE) for path in (*PAGES, *REFUSED_PAGES)}
    found |= {path: ask.get(path) for path in ("/live", "/ready", "/health", "/.well-known/jwks.json")}
    found |= {path: ask.get(path) for path in ("/api/openapi.json", "/static/staff/staff.css", "/mcp", "/mcp/x", "/")}
    found["REST"] = house.rest.get("/api/v1/auth/me")
    found["a bad body"] = house.rest.post("/api/v1/mcp/servers", body=b"{")
    found["a bad type"] = house.rest.post("/api/v1/mcp/servers", body=b"{}", headers={"Content-Type": "text/plain"})
    found["too large"] = house.rest.post("/api/v1/mcp/servers", body=b" " * (4 * 1024**2 + 1))
    found["a bad method"] = house.rest.request("PUT", "/api/v1/auth/me")
    found["a bad host"] = ask.get("/admin/login/", headers={"Host": "evil.example"})
    found["MCP"] = house.agent.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    found["forgery"] = ask.post("/admin/login/", body=b"username=a", headers={"Content-Type": "text/plain"})
    return found


def directives(answer: Answer) -> dict[str, list[str]]:
    """The policy of an answer, part by part."""
    parts = (part.split() for part in answer.headers["content-security-policy"].split(";"))
    return {name: values for name, *values in parts}


def test_o01_no_answer_leaves_without_its_security_headers(house):
    found = every_kind_of_answer(house)

    assert {200, 400, 401, 403, 404, 405, 413, 415} <= {answer.status for answer in found.values()}
    for what, answer in found.items():
        for name, value in SECURITY_HEADERS.items():
            if name != "Content-Security-Policy":
                assert answer.headers[name.lower()] == value, (what, name)
        policy = directives(answer)
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == ["'none'"], what
        assert "strict-transport-security" not in answer.headers, what


def test_o01_only_what_bears_the_nonce_of_this_answer_runs_on_a_page(house):
    for path in ("/docs", "/redoc", "/nothing/here"):
        first, second = (house.anonymous.get(path, headers=WITH_PAGE) for _ in range(2))
        policy = directives(first)
        (nonce,) = policy["script-src"]

        assert nonce.startswith("'nonce-") and len(nonce) > 20
        assert policy["style-src"] == ["'self'", nonce]
        assert directives(second)["script-src"] != policy["script-src"]
        assert first.text.count("<script") == first.text.count(f'<script nonce="{nonce[7:-1]}"'), path


def test_o01_the_control_room_is_allowed_two_things_more_and_no_third(house):
    policy = directives(house.anonymous.get("/admin/login/", headers=WITH_PAGE))

    assert policy.pop("script-src") == ["'self'", "'unsafe-eval'"]
    assert policy.pop("style-src") == ["'self'", "'unsafe-inline'"]
    rest = directives(house.anonymous.get("/docs", headers=WITH_PAGE))
    del rest["script-src"], rest["style-src"]
    assert policy == rest
    assert {source for sources in policy.values() for source in sources} == {"'none'", "'self'", "data:"}


@pytest.mark.parametrize(
    ("scheme", "forwarded", "proxies", "is_sent"),
    [("https", b"", 0, True), ("http", b"https", 1, True), ("http", b"https", 0, False), ("http", b"http", 1, False)],
)
def test_o01_the_order_to_come_back_by_https_is_given_over_https_alone(settings, scheme, forwarded, proxies, is_sent):
    settings.SECURE_HSTS_SECONDS, settings.TRUSTED_PROXIES = 31_536_000, proxies
    scope = {"scheme": scheme, "headers": [(b"x-forwarded-proto", forwarded)] if forwarded else []}

    assert (b"strict-transport-security" in dict(secured(scope, []))) is is_sent
    assert dict(secured(scope, [(b"Content-Security-Policy", b"own")]))[b"Content-Security-Policy"] == b"own"


def test_o02_a_cookie_opens_no_address_of_the_api(house):
    cookie = signed_in_cookie(house)

    for path, body in every_write(house):
        for kind in (
            "application/json",
            "text/plain",
            "application/x-www-form-urlencoded",
            "text/plain;application/json",
        ):
            answer = house.anonymous.post(path, body=body, headers={"Cookie": cookie, "Content-Type": kind})
            assert answer.status in (401, 415), (path, kind, answer.text)


def test_o02_signing_in_by_rest_leaves_no_cookie_behind_that_a_page_could_use(house):
    body = {"email": "alice@acme.example", "password": PASSWORD}
    answer = house.anonymous.post("/api/v1/auth/login", body, headers={"Origin": "https://evil.example"})

    assert answer.status == 200
    assert "set-cookie" not in answer.headers


def test_o02_no_page_of_another_origin_is_answered_by_the_endpoint_for_agents(house):
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}

    for origin in STRANGERS:
        assert house.agent.post("/mcp", message, headers={"Origin": origin}).status == 403, origin
    assert house.anonymous.post("/mcp", message, headers={"Cookie": signed_in_cookie(house)}).status == 401


def test_o03_no_origin_is_ever_told_that_it_may_read(house):
    cookie = signed_in_cookie(house)
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}

    for origin in STRANGERS:
        for path in ("/api/v1/auth/me", "/api/v1/auth/login", "/mcp", "/admin/", "/health", "/.well-known/jwks.json"):
            for method, more in (("OPTIONS", asked), ("GET", {"Cookie": cookie}), ("POST", {})):
                answer = house.anonymous.request(method, path, headers={"Origin": origin, **more})
                assert not [name for name in answer.headers if name.startswith("access-control-")], (origin, path)


def signed_in_cookie(house: House) -> str:
    """The cookie of a session in the control room."""
    from django.test import Client

    from apps.auth.models import User

    browser = Client()
    browser.force_login(User.objects.get(email="alice@acme.example"))
    return f"sessionid={browser.cookies['sessionid'].value}"


def every_write(house: House) -> list[tuple[str, bytes]]:
    """Where POST changes something, by the document, and a body for it."""
    document: dict[str, Any] = house.anonymous.get("/api/openapi.json").json()
    nowhere = "00000000-0000-7000-8000-000000000000"
    body = json.dumps({"name": "x", "email": "x@evil.example"}).encode()
    found = [
        (path.replace("{", "\0").replace("}", "\0"), body)
        for path, item in document["paths"].items()
        if "post" in item and not path.startswith(SIGN_IN)
    ]
    assert len(found) > 10
    return [("".join(nowhere if number % 2 else part for number, part in enumerate(path.split("\0"))), body)
            for path, body in found]  # fmt: skip
