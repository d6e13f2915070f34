"""Secrets that are easy to find again: planted wherever the platform takes or makes one, then looked for everywhere."""

import base64
import contextlib
import http.client
import json
import re
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psutil

SHORTEST = 10


@dataclass
class Canaries:
    """Each secret by its name, and the answers that may show it: the one that hands it out."""

    planted: dict[str, str] = field(default_factory=dict)
    shown_by: dict[str, set[int]] = field(default_factory=dict)

    def plant(self, name: str) -> str:
        """A new secret."""
        return self.keep(name, f"Canary-{re.sub('[^A-Za-z0-9]+', '-', name)}-{secrets.token_hex(12)}")

    def keep(self, name: str, value: str, *, answer: "Seen | None" = None) -> str:
        """A secret that the platform made; `answer` is where it was shown, once."""
        assert len(value) >= SHORTEST
        self.planted[name] = value
        self.shown_by[name] = {id(answer)} if answer else set()
        return value

    def found_in(self, where: str, content: bytes, *, seen: "Seen | None" = None, but: Iterable[str] = ()) -> list[str]:
        """A line for each secret that is in there and may not be."""
        lowered = content.lower()
        return [
            f"{name} in {where}: …{_around(lowered, spelling)}…"
            for name, value in self.planted.items()
            if name not in but and id(seen) not in self.shown_by[name]
            for spelling in _spellings(value)
            if spelling in lowered
        ]


def _spellings(value: str) -> Iterator[bytes]:
    """As it is, in an address, in JSON, in base64 wherever it may begin; all in small letters."""
    yield value.lower().encode()
    yield quote(value, safe="").lower().encode()
    yield json.dumps(value)[1:-1].lower().encode()
    for before in range(3):
        whole = base64.b64encode(b"x" * before + value.encode() + b"xx")
        yield whole[4 if before else 0 : -4].lower()


def _around(content: bytes, spelling: bytes) -> str:
    place = content.index(spelling)
    return content[max(0, place - 120) : place + 60].decode("utf-8", "replace")


@dataclass(eq=False)
class Seen:
    """One answer, as it came."""

    asked: str
    status: int
    head: str
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def shown(self) -> bytes:
        """Headers and body, but for the cookie of one's own session, which is renewed with each visit."""
        return re.sub(r"(?im)^set-cookie: sessionid=.*$", "", self.head).encode() + self.body

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Visitor:
    """Asks, and remembers every answer; a browser when it keeps cookies."""

    port: int
    seen: list[Seen]
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> Seen:
        """One request. Bytes are sent as they are, anything else as JSON."""
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if content is not None and not isinstance(content, bytes):
            content = json.dumps(content).encode()
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            head = "".join(f"{name}: {value}\n" for name, value in answer.getheaders())
            seen = Seen(f"{method} {path}", answer.status, head, answer.read())
        finally:
            connection.close()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                self.cookies.update({each.key: each.value for each in SimpleCookie(value).values()})
        self.seen.append(seen)
        return seen

    def get(self, path: str) -> Seen:
        """GET."""
        return self.ask("GET", path)

    def post(self, path: str, content: Any = None, **headers: str) -> Seen:
        """POST."""
        return self.ask("POST", path, content, **headers)

    def fill(self, path: str, fields: Mapping[str, str]) -> Seen:
        """Open a page with a form and send it; the hidden fields are sent along."""
        page = self.get(path)
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        return self.post(
            path, urlencode({**hidden, **fields}).encode(),
            Content_Type="application/x-www-form-urlencoded", Referer=f"http://127.0.0.1:{self.port}{path}",
        )  # fmt: skip

    def links(self, page: Seen) -> list[str]:
        """The addresses of the control room that a page links to."""
        return sorted({each.partition("#")[0] for each in re.findall(r'href="(/admin/[^"]+)"', page.text)})


def places_of(pid: int, *, is_ours: bool) -> Iterator[tuple[str, bytes]]:
    """What other users of the machine can read of a process: its command line; and, of a child, what it was given."""
    folder = Path(f"/proc/{pid}")
    try:
        yield f"the command line of {pid}", (folder / "cmdline").read_bytes()
        if not is_ours:
            yield f"the variables of child {pid}", (folder / "environ").read_bytes()
    except OSError:
        return


def processes_of(pid: int) -> Iterator[tuple[str, bytes]]:
    """The places of a process and of all its descendants."""
    yield from places_of(pid, is_ours=True)
    for child in psutil.Process(pid).children(recursive=True):
        yield from places_of(child.pid, is_ours=False)


def files_of(data: Path) -> Iterator[tuple[str, bytes]]:
    """Everything that the platform keeps, the write-ahead log of the database too; its keys are where they belong."""
    for path in sorted(data.rglob("*")):
        if path.is_file() and "secrets" not in path.relative_to(data).parts:
            yield f"the file {path.name}", path.read_bytes()


def rows_of(url: str) -> Iterator[tuple[str, bytes]]:
    """Every row of every table of a PostgreSQL database."""
    import psycopg

    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f'SELECT t::text FROM "{table}" t').fetchall():  # noqa: S608 - from the catalogue
                yield f"the table {table}", row.encode()


class Wire:
    """A wire to a service of others on which every byte is kept, in both directions."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.bytes = bytearray()
        self._service = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user = f"{parts.username or ''}:{parts.password or ''}@" if parts.username or parts.password else ""
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{self._listener.getsockname()[1]}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no further connection."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            service = socket.create_connection(self._service)
            for ends in ((caller, service), (service, caller)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                self.bytes += part
                target.sendall(part)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
