"""The one OpenAPI document, and the pages that show it without asking anybody else (API-1)."""

import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.house.operations import METHODS, PARAMETER, operations

LINKS = re.compile(r"""(?:src|href|action)\s*=\s*["']([^"']+)["']""")
LOADS = re.compile(r"""url\(\s*["']?([^"')]+)["']?\s*\)|@import\s+["']([^"']+)["']|fetch\(\s*["']([^"']+)["']""")


@pytest.fixture
def document(house) -> dict[str, Any]:
    answer = house.anonymous.get("/api/openapi.json")
    assert answer.status == 200
    assert "json" in answer.headers["content-type"]
    found: dict[str, Any] = answer.json()
    return found


def every(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from every(child)


def test_it_is_openapi_3_1_and_says_who_it_is(document):
    assert re.fullmatch(r"3\.1\.\d", document["openapi"])
    assert document["info"]["title"] == "Gatehouse"
    assert document["info"]["version"]
    assert set(document) <= {"openapi", "info", "servers", "paths", "components", "security", "tags", "externalDocs"}


def test_the_official_schema_of_openapi_accepts_it(document):
    OpenAPIV31SpecValidator(document).validate()


def test_every_reference_leads_somewhere(document):
    broken = []
    for each in every(document):
        reference = each.get("$ref")
        if isinstance(reference, str):
            place: Any = document
            for step in reference.removeprefix("#/").split("/"):
                place = place.get(step) if isinstance(place, dict) else None
            broken += [reference] if place is None else []

    assert broken == []


def test_every_schema_is_a_json_schema(document):
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    # OpenAPI 3.0's own words mean nothing in 3.1.
    assert [each for each in every(document["components"]["schemas"]) if isinstance(each.get("nullable"), bool)] == []


def test_every_operation_is_whole(document):
    names = []
    for operation in operations(document):
        described = operation.described
        names.append(described["operationId"])
        declared = {each["name"] for each in described.get("parameters", []) if each["in"] == "path"}
        assert declared == set(operation.parameters), str(operation)
        assert described["responses"], str(operation)
        assert described.get("tags"), str(operation)
        assert described.get("summary") or described.get("description"), str(operation)

    assert len(names) == len(set(names))
    assert all(
        set(methods) <= {*METHODS, "parameters", "summary", "description"} for methods in document["paths"].values()
    )


def test_both_halves_are_in_it(document):
    paths = set(document["paths"])

    assert {"/api/v1/auth/login", "/api/v1/auth/api-keys", "/api/v1/mcp/servers", "/api/v1/jobs/{job_id}"} <= paths
    assert "bearer" in document["components"]["securitySchemes"]


def test_every_address_of_it_is_answered_and_every_address_answered_is_in_it(document):
    from django.urls import get_resolver

    documented = {PARAMETER.sub("{}", path) for path in document["paths"]}
    answered = {path for path in routes(get_resolver().url_patterns) if path.startswith("/api/v1/")}

    assert answered - documented == {"/api/v1/"} & answered
    assert documented - answered - {"/.well-known/jwks.json"} == set()


def routes(patterns: Any, prefix: str = "/") -> Iterator[str]:
    """The addresses below some URL patterns, their parameters as {}."""
    for pattern in patterns:
        path = prefix + re.sub(r"<[^>]+>", "{}", str(pattern.pattern))
        if hasattr(pattern, "url_patterns"):
            yield from routes(pattern.url_patterns, path)
        else:
            yield path


def test_the_errors_are_in_it(document):
    for operation in operations(document):
        if operation.path.startswith("/api/"):
            schema = operation.described["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorOut"}


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/api/docs", "/api/redoc"])
def test_a_documentation_page_loads_from_here_alone(house, page):
    answer = house.anonymous.get(page, headers={"Accept": "text/html"})
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]

    loaded = [urljoin(house.live.url + page, unescape(link)) for link in LINKS.findall(answer.text)]
    loaded += [urljoin(house.live.url + page, next(filter(None, found))) for found in LOADS.findall(answer.text)]

    assert loaded
    for link in loaded:
        assert urlsplit(link).scheme == "data" or link.startswith(house.live.url), link
        if link.startswith(house.live.url):
            asset = house.anonymous.get(link.removeprefix(house.live.url))
            assert asset.status == 200, link
            if "css" in asset.headers["content-type"]:
                assert [
                    url for found in LOADS.findall(asset.text) for url in found if url.startswith(("http", "//"))
                ] == []


def test_no_inline_script_needs_an_exception(house):
    for page in ("/docs", "/redoc"):
        answer = house.anonymous.get(page)
        policy = answer.headers["content-security-policy"]
        scripts = next(part for part in policy.split(";") if part.strip().startswith("script-src"))
        assert "unsafe" not in scripts
        assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>\s*\S", answer.text) == []
