"""Pages, cursors and ids that nobody was given are refused or cut down, on every list there is (H17, H18)."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client as Browser

from tests.factories.registry import ServerFactory
from tests.house.conftest import House
from tests.house.operations import Operation, operations
from tests.live import Answer
from tests.people import Person, make_person
from tests.staff.rooms import list_url

NO_PAGES = ("-1", "0", "1e9", "1.5", "9" * 30, "%D9%A1", "0x10", "", "null", "1,2")
NO_SIZES = ("-1", "0", "1000000000", "1e9", "9" * 30, "%D9%A1%D9%A0", "null")
NO_CURSORS: tuple[Any, ...] = ("x", "-1", "0", "9" * 400, "", "\u0661", "AAAA", 5, 10**9, {"a": 1}, ["x"], True)
LISTS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")
NO_IDS = (
    "9" * 40, "0", "-1", "%D9%A1%D9%A2", "00000000-0000-7000-8000-00000000000%D9%A1", "a" * 3000, "..%2F..%2Fetc",
    "%F0%9F%98%80", "%0D%0A", "%1B%5B31m", "00000000-0000-7000-8000-000000000000",
)  # fmt: skip
FAR_PAGE = 100_000
INVALID_PARAMS = -32602
MODERN = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


@pytest.fixture(scope="module")
def ids(house: House) -> dict[str, str]:
    """What the lists below something are asked for."""
    from apps.auth.models import Organization

    acme = Organization.objects.get(slug="acme")
    return {"organization_id": str(acme.pk), "server_id": str(ServerFactory(organization=acme).pk)}


def described(house: House) -> list[Operation]:
    """Every operation that the document describes."""
    return list(operations(house.rest.get("/api/openapi.json").json()))


def test_h17_a_page_that_is_none_is_refused_by_every_list(house, ids):
    lists = [each for each in described(house) if each.is_list]
    assert len(lists) >= 10

    for each in lists:
        assert {"page", "page_size"} <= set(each.filters), each
        for name, values in (("page", NO_PAGES), ("page_size", NO_SIZES)):
            for value in values:
                answer = house.rest.get(f"{each.at(ids)}?{name}={value}")
                assert (answer.status, answer.json()["error"]["code"]) == (400, "MALFORMED"), (each, name, value)


def test_h17_a_page_behind_the_last_is_empty_and_says_how_many_there_are(house, ids):
    for each in (each for each in described(house) if each.is_list):
        first = house.rest.get(f"{each.at(ids)}?page=1&page_size=1").json()
        far = house.rest.get(f"{each.at(ids)}?page={FAR_PAGE}&page_size=100")

        assert (far.status, far.json()["items"]) == (200, []), each
        assert len(first["items"]) <= 1, each
        # Journal and calls may have grown by what was just asked.
        assert far.json()["total"] >= first["total"], each


def test_h17_every_other_number_that_a_query_takes_has_bounds(house, ids):
    for each in described(house):
        for name, schema in each.filters.items():
            if schema.get("type") == "integer" and name not in ("page", "page_size"):
                for value in ("-1", "1000000000000", "9" * 30):
                    answer = house.rest.request(each.method.upper(), f"{each.at(ids)}?{name}={value}")
                    assert answer.status == 400, (each, name, value)


@pytest.fixture(scope="module")
def session(house: House) -> dict[str, str]:
    """The headers of an open session of the 2025 era."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
    opened = house.agent.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about})
    headers = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    house.agent.post("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    return headers


@pytest.mark.parametrize("method", LISTS)
def test_h17_a_cursor_that_nobody_was_given_is_refused_by_every_mcp_list(house, session, method):
    for cursor in NO_CURSORS:
        message = {"jsonrpc": "2.0", "id": 2, "method": method, "params": {"cursor": cursor}}
        answer = house.agent.post("/mcp", message, headers=session).json()
        assert answer["error"]["code"] == INVALID_PARAMS, (method, cursor)

        modern = {**message, "params": {"cursor": cursor, "_meta": MODERN}}
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
        answer = house.agent.post("/mcp", modern, headers=headers).json()
        assert answer["error"]["code"] == INVALID_PARAMS, (method, cursor)

    message = {"jsonrpc": "2.0", "id": 3, "method": method, "params": {}}
    assert "result" in house.agent.post("/mcp", message, headers=session).json()


@pytest.mark.parametrize("arguments", [
    {"limit": -1}, {"limit": 0}, {"limit": 10**9}, {"limit": 1.5}, {"limit": "\u0661"}, {"cursor": "x"},
    {"cursor": "-1"}, {"cursor": "\u0661"}, {"cursor": "9" * 300}, {"cursor": 5},
])  # fmt: skip
def test_h17_search_refuses_pages_and_cursors_that_are_none(house, session, arguments):
    params = {"name": "search", "arguments": {"query": "", **arguments}}
    message = {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": params}

    result = house.agent.post("/mcp", message, headers=session).json()["result"]

    assert result["isError"] and result["_meta"]["gatehouse/error"]["code"] == "INVALID_INPUT"


def ask(house: House, operation: Operation, value: str) -> Answer:
    """The operation with this in place of every id."""
    address = operation.at(dict.fromkeys(operation.parameters, value))
    return house.rest.request(operation.method.upper(), address, operation.body())


def test_h18_an_id_that_is_none_is_not_found_by_any_operation(house):
    with_ids = [each for each in described(house) if each.parameters]
    assert len(with_ids) >= 30

    for each in with_ids:
        for value in NO_IDS:
            answer = house.rest.request(
                each.method.upper(), each.at(dict.fromkeys(each.parameters, value)), each.body()
            )
            assert (answer.status, answer.json()["error"]["code"]) == (404, "NOT_FOUND"), (each, value)
            assert "Traceback" not in answer.text


def test_h18_an_id_with_nul_is_refused_before_anybody_looks_for_it(house):
    # An address with NUL is no address at all: it gets the answer that it gets everywhere else (H04).
    for each in described(house):
        if each.parameters:
            answer = house.rest.request(
                each.method.upper(), each.at(dict.fromkeys(each.parameters, "a%00")), each.body()
            )
            assert (answer.status, answer.json()["error"]["code"]) == (400, "MALFORMED"), each


@pytest.fixture(scope="module")
def browser(house: House) -> Iterator[Browser]:
    """The control room, seen by a platform admin."""
    person: Person = make_person("root", None, "")
    signed_in = Browser()
    signed_in.force_login(person.user)
    yield signed_in


def test_h18_a_row_that_is_none_is_shown_on_no_page_of_the_control_room(browser):
    for model in admin.site._registry:
        for value in ("9" * 40, "%1B%5B31m%D9%A1"):
            answer = browser.get(f"{list_url(model)}{value}/change/")
            assert answer.status_code in (302, 404), (model, value)
            assert "\x1b" not in str(answer.headers), (model, value)
