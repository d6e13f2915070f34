"""Whatever strangers write into names, addresses and headers: an event is one line, and terminals only show it."""

import io
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.conf import settings

from apps.core.logs import JsonFormatter
from config.doctor import Finding, as_json, as_text

FORGED = '{"time": "now", "level": "error", "message": "forged"}'
NASTY = (
    "\r\n" + FORGED, "\n" + FORGED, "\x1b[2J\x1b[31mred", "\x9b31m", "\u2028" + FORGED, "\x85" + FORGED,
    "\x0b\x0c\x1c",
)  # fmt: skip
LOGIN = "/api/v1/auth/login"
SERVERS = "/api/v1/mcp/servers"


class Written(logging.StreamHandler[io.StringIO]):
    """The handler of the installation, writing into memory and counting what it is given."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.events = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.events += 1
        super().emit(record)

    @property
    def text(self) -> str:
        """Everything written so far."""
        return self.stream.getvalue()


@pytest.fixture
def written() -> Iterator[Written]:
    """The whole log, in the form in which the installation writes it."""
    handler = Written()
    assert settings.LOGGING["formatters"] == {"json": {"()": "apps.core.logs.JsonFormatter"}}
    assert {each["formatter"] for each in settings.LOGGING["handlers"].values()} == {"json"}
    handler.setFormatter(JsonFormatter())
    root, level = logging.getLogger(), logging.getLogger().level
    apart = [logging.getLogger(name) for name, each in settings.LOGGING["loggers"].items() if "handlers" in each]
    root.setLevel(logging.DEBUG)
    for each in (root, *apart):
        each.addHandler(handler)
    yield handler
    for each in (root, *apart):
        each.removeHandler(handler)
    root.setLevel(level)


def assert_one_line_each(written: Written) -> list[dict[str, Any]]:
    """Each event is one line of JSON, and nothing in it can move a cursor."""
    lines = written.text.splitlines()
    assert len(lines) == written.events
    assert written.text.isascii() and all(line.isprintable() for line in lines)
    found = [json.loads(line) for line in lines]
    assert not [each for each in found if each["message"] == "forged"]
    return found


@pytest.mark.parametrize("nasty", NASTY)
def test_a_bug_at_a_hostile_address_leaves_one_line(house, written, monkeypatch, nasty):
    from apps.jobs import services

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"broken by {nasty}")

    monkeypatch.setattr(services, "get_job", fail)
    monkeypatch.setattr(services, "list_jobs", fail)
    # Control characters in a header are refused by the server itself, below.
    headers = {"User-Agent": "".join(each for each in nasty.encode().decode("latin-1") if each >= " ")}
    assert house.rest.get("/api/v1/jobs", headers=headers, query={"kind": nasty}).status in (400, 500)
    assert house.rest.get("/api/v1/jobs", headers=headers).status == 500

    found = assert_one_line_each(written)
    (event,) = [each for each in found if each["message"] == "unhandled error at /api/v1/jobs"][-1:]
    assert f"broken by {nasty}" in event["trace"]


@pytest.mark.parametrize("nasty", NASTY)
def test_hostile_names_and_addresses_leave_whole_lines(house, written, nasty):
    from urllib.parse import quote

    house.anonymous.get(f"/{quote(nasty)}/{quote(nasty)}")
    house.anonymous.get(f"/admin/{quote(nasty)}/")
    house.anonymous.get(f"/mcp/{quote(nasty)}")
    house.rest.get(f"{SERVERS}/{quote(nasty)}")
    house.anonymous.post(LOGIN, {"email": f"a{nasty}@b.example", "password": nasty})
    house.rest.post(SERVERS, {"name": nasty, "slug": nasty, "url": f"https://example.com/{nasty}"})
    message = {"jsonrpc": "2.0", "id": 1, "method": nasty, "params": {"name": nasty}}
    house.agent.post("/mcp", message)
    logging.getLogger("apps").warning("seen %s", nasty, extra={"agent": nasty, nasty: nasty})

    assert_one_line_each(written)


@pytest.mark.parametrize("line", ["GET /a\x1b[31m HTTP/1.1", "GET /\r\nX: y HTTP/1.1", "\x1b[31m", 'GET /"\n' + FORGED])
def test_bytes_that_are_no_request_leave_whole_lines(house, written, line):
    with closing(socket.create_connection(("127.0.0.1", house.live.port), 10)) as connection:
        connection.sendall(f"{line}\r\nHost: 127.0.0.1\r\nUser-Agent: \x1b[2J{FORGED}\r\n\r\n".encode())
        connection.recv(4096)

    assert_one_line_each(written)


@pytest.mark.parametrize("nasty", NASTY)
def test_the_doctor_lets_no_server_write_to_the_terminal(nasty):
    finding = Finding("server acme/x" + nasty, "wrong", f"It said: {nasty}", "manage.py doctor --check")

    text = as_text([finding])

    assert len(text.splitlines()) == 3 and text.replace("\n", "").isprintable()
    assert json.loads(as_json([finding]))["findings"][0]["why"] == finding.why
    assert as_json([finding]).isascii()
