"""Hostile input is refused once, at the door, for every door (H01 to H09), over the live server."""

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator

import pytest

from tests.house.conftest import House
from tests.house.operations import operations
from tests.live import Answer

SERVERS = "/api/v1/mcp/servers"
KEYS = "/api/v1/auth/api-keys"
LOGIN = "/api/v1/auth/login"
DEEP = 100_000
REFUSED = (400, 413, 415)


def at(door: str, value: str, *, name: str = '"x"') -> bytes:
    """A body that would be good at this door but for one hostile value, given as JSON text."""
    if door == "/mcp":
        about = f'"protocolVersion": "2025-11-25", "clientInfo": {{"name": "agent", "version": "1", {name}: {value}}}'
        text = f'{{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {{"capabilities": {{}}, {about}}}}}'
        return text.encode("utf-8", "surrogatepass")
    good = {
        SERVERS: '"name": "Weather", "slug": "weather", "url": "https://example.com/mcp"',
        KEYS: '"name": "ci"',
        LOGIN: '"email": "a@b.example", "password": "wrong"',
    }[door]
    return f"{{{good}, {name}: {value}}}".encode("utf-8", "surrogatepass")


doors = pytest.mark.parametrize("door", [SERVERS, KEYS, LOGIN, "/mcp"])


def assert_refused(answer: Answer, *statuses: int) -> None:
    """The status, and an error in JSON without anything from inside."""
    assert answer.status in (statuses or (400,)), f"{answer.status} {answer.text[:300]}"
    assert answer.json()["error"]
    assert "Traceback" not in answer.text


@pytest.fixture(autouse=True)
def _everything_still_works(house: House) -> Iterator[None]:
    """After every case the lists answer (H03: one bad value must not break a list for everybody)."""
    yield
    assert house.rest.get(SERVERS).status == 200
    assert house.rest.get(KEYS).status == 200
    assert house.rest.get(SERVERS).json()["total"] == 0


@doors
@pytest.mark.parametrize("depth", [1_000, DEEP])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_h01_nesting_is_refused(house, door, depth, opening, closing):
    assert_refused(house.send(door, at(door, opening * depth + "1" + closing * depth)))
    assert_refused(house.send(door, (opening * depth).encode()))


@doors
def test_h02_a_long_body_is_refused(house, door):
    assert_refused(house.send(door, at(door, '"' + "x" * 5_000_000 + '"')), 413)


@doors
def test_h02_a_very_long_body_is_refused_before_it_is_sent(house, door):
    with raw(house, door, "Content-Length: 300000000") as connection:
        assert status_of(connection) == 413


@doors
def test_h02_a_body_without_length_is_refused_at_the_limit(house, door):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with raw(house, door, "Transfer-Encoding: chunked") as connection:
        with contextlib.suppress(OSError):
            for _ in range(80):
                connection.sendall(chunk)
        assert status_of(connection) == 413


@doors
@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "10, 20", "99999999999999999999"])
def test_h02_a_length_that_is_none_is_refused(house, door, length):
    with raw(house, door, f"Content-Length: {length}") as connection:
        assert status_of(connection) in REFUSED


@doors
def test_h02_a_body_that_ends_early_hurts_nobody(house, door):
    with raw(house, door, "Content-Length: 1000") as connection:
        connection.sendall(b'{"name": ')


@doors
def test_h02_a_compressed_body_is_not_opened(house, door):
    bomb = gzip.compress(b'"' + b"x" * 50_000_000 + b'"')

    assert_refused(house.send(door, bomb, **{"Content-Encoding": "gzip"}), *REFUSED)


@doors
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "[NaN]", '{"a": Infinity}'])
def test_h03_what_is_no_number_is_refused(house, door, value):
    assert_refused(house.send(door, at(door, value)))


@doors
def test_h04_nul_is_refused_in_values_and_names(house, door):
    assert_refused(house.send(door, at(door, '"a\\u0000b"')))
    assert_refused(house.send(door, at(door, '["a", {"b": "\\u0000"}]')))
    assert_refused(house.send(door, at(door, "1", name='"a\\u0000"')))
    assert_refused(house.send(door, at(door, '"a\x00b"')))


@pytest.mark.parametrize("path", [
    f"{SERVERS}%00", f"{SERVERS}/%00", f"{SERVERS}?page=%00", f"{SERVERS}?q=a%00b", f"{KEYS}?page=1%00", "/%00",
    "/admin/%00",
])  # fmt: skip
def test_h04_nul_is_refused_in_addresses(house, path):
    assert_refused(house.rest.get(path), 400)


@pytest.mark.parametrize("path", [SERVERS, "/mcp", "/admin/"])
@pytest.mark.parametrize("header", ["X-Organization", "X-Request-Id", "User-Agent", "Cookie"])
def test_h04_nul_is_refused_in_headers(house, path, header):
    with contextlib.closing(socket.create_connection(("127.0.0.1", house.live.port), 10)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{header}: a\x00b\r\n\r\n".encode())
        assert status_of(connection) == 400


@doors
@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "a\\ud83d", "\\udc00\\ud800"])
def test_h05_half_a_surrogate_pair_is_refused(house, door, text):
    assert_refused(house.send(door, at(door, f'"{text}"')))
    assert_refused(house.send(door, at(door, "1", name=f'"{text}"')))


@doors
def test_h05_a_whole_pair_is_text(house, door):
    answer = house.send(door, at(door, '"\\ud83d\\ude00"'))

    assert answer.status in (200, 422)


@doors
@pytest.mark.parametrize("value", [str(2**63), str(-(2**63) - 1), "9" * 5000, "1" + "0" * 400, "-" + "9" * 5000])
def test_h06_huge_integers_are_refused(house, door, value):
    assert_refused(house.send(door, at(door, value)))


@pytest.mark.parametrize("value", [2**31, 2**62, -1, 0, 1e300, 1.5, "9" * 30])
def test_h06_a_number_that_its_field_does_not_take_is_refused(house, value):
    body = {"name": "Weather", "slug": "weather", "url": "https://example.com/mcp", "max_concurrency": value}

    assert_refused(house.rest.post(SERVERS, body), 422)


@pytest.mark.parametrize(
    "query", ["page=99999999999999999999", "page=1e3", "page=-1", "page=0", "page=%D9%A1", "page_size=1000000000"]
)
@pytest.mark.parametrize("path", [SERVERS, KEYS, "/api/v1/jobs", "/api/v1/audit/logs", "/api/v1/metrics/events"])
def test_h06_a_page_that_is_none_is_refused(house, path, query):
    assert_refused(house.rest.get(f"{path}?{query}"))


@doors
def test_h07_a_name_given_twice_is_refused(house, door):
    assert_refused(house.send(door, at(door, '1, "x": 2')))
    assert_refused(house.send(door, at(door, '{"org": "a", "org": "b"}')))


@doors
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_h08_another_encoding_is_refused(house, door, encoding):
    body = at(door, '"é"').decode().encode(encoding)

    assert_refused(house.send(door, body), *REFUSED)


@doors
@pytest.mark.parametrize("text", [b"\xe9", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_h08_bytes_that_are_not_utf_8_are_refused(house, door, text):
    assert_refused(house.send(door, at(door, '"MARK"').replace(b"MARK", text)))


@doors
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "", "nothing"]
)
def test_h08_another_type_of_body_is_refused(house, door, kind):
    answer = house.send(door, b"<x>not json</x>", **{"Content-Type": kind})

    assert_refused(answer, *REFUSED)


@pytest.mark.parametrize("door", [SERVERS, KEYS, LOGIN])
@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/json", "application/json-seq"],
)
def test_h08_json_that_says_it_is_something_else_is_not_read(house, door, kind):
    assert_refused(house.send(door, at(door, '"a\\u0000b"'), **{"Content-Type": kind}), 415)
    assert_refused(house.send(door, at(door, "1"), **{"Content-Type": kind}), 415)


@pytest.mark.parametrize("kinds", [("application/json", "multipart/form-data"), ("text/plain", "application/json")])
def test_h08_a_body_of_two_types_is_not_read(house, kinds):
    body = at(SERVERS, '"a\\u0000b"')
    with raw(house, SERVERS, f"Content-Length: {len(body)}", "Content-Type: " + kinds[1], kind=kinds[0]) as connection:
        connection.sendall(body)
        assert status_of(connection) == 415


INJECTIONS = [
    "' OR 1=1--",
    "1; DROP TABLE accounts_user",
    "%' OR '1'='1",
    "a\\",
    "*",
    "(" * 200,
    "a" * 3000,
    "{$ne: 1}",
    "é\u202e",
]


@pytest.mark.parametrize("value", INJECTIONS)
def test_h09_a_filter_is_a_value_and_nothing_else(house, value):
    document = house.rest.get("/api/openapi.json").json()
    every = [each for each in operations(document) if each.is_list and not each.parameters]
    assert every
    for operation in every:
        for name in operation.filters:
            answer = house.rest.get(operation.path, query={name: value})
            assert answer.status in (200, 400), f"{operation}?{name}: {answer.status} {answer.text[:200]}"
            assert "syntax" not in answer.text.lower()
            if answer.status == 200:
                assert answer.json()["total"] == 0, f"{operation}?{name} found something"


@pytest.mark.parametrize("query", [
    "order_by=password", "ordering=password", "ordering=secret", "_connector=OR", "_negated=1",
    "user__password__startswith=a",
    "definition__x=1", "id__in=1", "organization_id=1", "pk=1", "filter[name]=a", "page[]=1", "__class__=1",
])  # fmt: skip
@pytest.mark.parametrize(
    "path",
    [SERVERS, KEYS, "/api/v1/orgs", "/api/v1/users", "/api/v1/jobs", "/api/v1/audit/logs", "/api/v1/metrics/events"],
)
def test_h09_a_filter_of_the_callers_own_is_refused(house, path, query):
    assert_refused(house.rest.get(f"{path}?{query}"))


@pytest.mark.parametrize("fields", [
    {"username": "a\x00b", "password": "x"}, {"username": "' OR 1=1--", "password": "' OR 1=1--"},
    {"username": "a" * 100_000, "password": "x"}, {"username": "\ud800", "password": "x"},
])  # fmt: skip
def test_the_admins_form_takes_none_of_it(house, fields):
    from urllib.parse import quote

    body = "&".join(f"{name}={quote(value, errors='surrogatepass')}" for name, value in fields.items()).encode()
    page = house.live.anonymous().get("/admin/login/")
    cookie = page.headers["set-cookie"].split(";")[0]
    token = cookie.partition("=")[2]

    answer = house.live.anonymous().post(
        "/admin/login/", body=body + f"&csrfmiddlewaretoken={token}".encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie, "Referer": house.live.url},
    )  # fmt: skip

    assert answer.status in (200, 400, 413, 429)
    assert "sessionid" not in answer.headers.get("set-cookie", "")


@contextlib.contextmanager
def raw(house: House, door: str, *headers: str, kind: str = "application/json") -> Iterator[socket.socket]:
    """A connection on which the head of a POST has been sent."""
    client = house.agent if door == "/mcp" else house.rest
    lines = [f"POST {door} HTTP/1.1", f"Host: 127.0.0.1:{house.live.port}", f"Content-Type: {kind}", *headers]
    lines += [f"{name}: {value}" for name, value in client.headers.items()]
    with contextlib.closing(socket.create_connection(("127.0.0.1", house.live.port), 10)) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        yield connection


def status_of(connection: socket.socket) -> int:
    """The status that the server answers."""
    return int(connection.recv(4096).split(b" ", 2)[1])


def test_a_good_body_passes_every_door(house):
    assert house.send(KEYS, json.dumps({"name": "ci"}).encode()).status == 201
    assert house.send("/mcp", at("/mcp", "1")).status == 200
