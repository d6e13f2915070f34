"""The guarded way out: nothing inside the network is called, however it is written, named or reached."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from apps.core import egress
from apps.core.errors import BackendDown, BackendError, InvalidInput
from apps.registry.services.routes import connect
from tests.registry.conftest import make_route, run

LOCAL = [
    "http://127.0.0.1/", "http://0/", "http://0.0.0.0/", "http://localhost/", "http://localhost./", "http://[::1]/",
    "http://a.localhost/", "http://LOCALHOST/", "http://printer.local/", "http://x.internal/",
]  # fmt: skip
SPELLINGS = [
    "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://017700000001/",
    "http://0x7f.1/", "http://127.0.0.1./",
]  # fmt: skip
UNICODE = [
    "http://⑫⑦.⓪.⓪.①/", "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "http://127\u30020\u30020\u30021/",
    "http://ⓛocalhost/", "http://loc\u00adalhost/",
]  # fmt: skip
EMBEDDED = [
    "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://[fe80::1%25lo]/", "http://[fe80::1%lo]/", "http://[fd00:ec2::254]/", "http://[::]/", "http://[::ffff:7f00:1]/",
]  # fmt: skip
SPECIAL = [
    "http://169.254.169.254/", "http://0xA9FEA9FE/", "http://100.100.100.200/", "http://192.0.0.192/", "http://100.64.1.1/",
    "http://198.18.0.1/", "http://198.19.255.255/", "http://224.0.0.1/", "http://239.1.1.1/", "http://240.0.0.1/",
    "http://255.255.255.255/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://168.63.129.16/",
    "http://[ff02::1]/", "http://[fc00::1]/", "http://192.88.99.1/", "http://[3fff::1]/", "http://203.0.113.1/",
]  # fmt: skip
PARSERS = [
    "http://good@127.0.0.1/", "http://127.0.0.1@good.example/", "http://good.example\\@127.0.0.1/", "http://127.0.0.1%00.good/",
    "http://good.example/%00", "http://127.0.0.1\t/", "http://127.0.0.1\n/", " http://127.0.0.1/", "http:/\\127.0.0.1/",
    "http:///127.0.0.1/", "http:127.0.0.1/", "//127.0.0.1/", "http://", "http://:80/", "http://[::1", "http://a:99999/",
    "http://a:b/", "http://127%2e0%2e0%2e1/", "http://\ud800/", "", "http://user:pass@good.example/",
    "http://" + "a" * 3000,
]  # fmt: skip
SCHEMES = [
    "file:///etc/passwd", "gopher://127.0.0.1/", "ftp://127.0.0.1/", "dict://127.0.0.1/", "unix:///var/run/x",
    "http+unix://%2Fvar/x", "data:text/plain,x", "javascript:alert(1)", "ws://127.0.0.1/", "HTTPX://a/",
]  # fmt: skip
PORTS = [f"http://good.example:{port}/" for port in (22, 25, 6379, 5432, 8000, 9000, 11211)]


@pytest.mark.parametrize("url", [*LOCAL, *SPELLINGS, *UNICODE, *EMBEDDED, *SPECIAL, *PARSERS, *SCHEMES, *PORTS])
def test_an_address_inside_or_unclear_is_refused_when_it_is_saved_and_when_it_is_called(url: str) -> None:
    async def call() -> None:
        async with egress.request("GET", url, timeout_seconds=2):
            raise AssertionError("It was called.")

    with pytest.raises(InvalidInput):
        egress.check_url(url)
    with pytest.raises(InvalidInput):
        run(call)


@pytest.mark.parametrize(
    "url", ["https://good.example/mcp", "http://good.example:8080/x?y=1", "https://8.8.8.8/", "https://[2606:4700::1]/"]
)
def test_an_address_outside_may_be_saved(url: str) -> None:
    assert egress.check_url(url).host


class Sink:
    """A server inside the network; it counts who connects."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.connections = 0
        self.heads: list[bytes] = []
        self.host = host

    async def __aenter__(self) -> "Sink":
        self.server = await asyncio.start_server(self._count, self.host, 0)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while (head := await reader.readuntil(b"\r\n\r\n")).strip():
            self.heads.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()


@pytest.fixture
def names(monkeypatch: Any) -> Iterator[dict[str, list[str]]]:
    """A name server of the attacker's: the addresses of each name, one answer a question, the last one kept."""
    answers: dict[str, list[str]] = {}
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        key = str(host)
        if key not in answers:
            return original(host, port, *rest, **options)
        given = answers[key].pop(0) if len(answers[key]) > 1 else answers[key][0]
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "",
                (each, port, 0, 0) if ":" in each else (each, port),
            )
            for each in given.split(",")
        ]  # fmt: skip

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answers


async def get(url: str, seconds: float = 30) -> bytes:
    """The body of an answer."""
    async with egress.request("GET", url, timeout_seconds=seconds) as response:
        return await egress.read_limited(response, limit_bytes=1000)


def refused(work: Callable[[Sink], Any], monkeypatch: Any, host: str = "127.0.0.1") -> int:
    """How many connections the sink got while the work failed as if nobody were there."""

    async def whole() -> int:
        async with Sink(host) as sink:
            monkeypatch.setattr(egress, "OPEN_PORTS", frozenset({80, 443, sink.port}))
            with pytest.raises(BackendDown, match="cannot be reached"):
                await work(sink)
            return sink.connections

    return run(whole)


def test_a_name_of_an_inside_address_is_not_called(names: dict[str, list[str]], monkeypatch: Any) -> None:
    names["evil.example"] = ["127.0.0.1"]

    assert refused(lambda sink: get(f"http://evil.example:{sink.port}/"), monkeypatch) == 0


def test_a_name_that_changes_its_address_after_the_check_is_not_called(
    names: dict[str, list[str]], monkeypatch: Any
) -> None:
    names["evil.example"] = ["8.8.8.8", "127.0.0.1"]

    async def work(sink: Sink) -> bytes:
        assert await egress.addresses_of(f"http://evil.example:{sink.port}/", timeout_seconds=2) == ["8.8.8.8"]
        return await get(f"http://evil.example:{sink.port}/")

    assert refused(work, monkeypatch) == 0


@pytest.mark.parametrize(
    "answer", ["8.8.8.8,::1", "127.0.0.1,8.8.8.8", ",".join([*(f"8.8.8.{n}" for n in range(9)), "10.0.0.1"])]
)
def test_a_name_with_one_inside_address_among_many_is_not_called_at_all(
    names: dict[str, list[str]], monkeypatch: Any, answer: str
) -> None:
    names["evil.example"] = [answer]
    made: list[Any] = []
    original = egress._guarded_socket
    monkeypatch.setattr(egress, "_guarded_socket", lambda info: (made.append(info), original(info))[1])

    assert refused(lambda sink: get(f"http://evil.example:{sink.port}/"), monkeypatch) == 0
    assert made == []


def test_the_socket_itself_refuses_even_where_every_check_before_it_was_deceived(
    names: dict[str, list[str]], monkeypatch: Any
) -> None:
    names["evil.example"] = ["127.0.0.1"]

    async def deceived(_: Any, host: str, port: int = 0, family: Any = 0) -> Any:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(egress._WholeAnswerResolver, "resolve", deceived)

    assert refused(lambda sink: get(f"http://evil.example:{sink.port}/"), monkeypatch) == 0


def test_a_kept_connection_is_not_lent_to_a_name_that_now_means_the_inside(
    names: dict[str, list[str]], monkeypatch: Any, settings: Any
) -> None:
    async def work(sink: Sink) -> bytes:
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{sink.port}"})
        assert await get(f"http://127.0.0.1:{sink.port}/") == b"ok"  # leaves an open connection in the pool
        names["evil.example"] = ["127.0.0.1"]
        return await get(f"http://evil.example:{sink.port}/")

    assert refused(work, monkeypatch) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_never_followed(settings: Any, status: int) -> None:
    async def whole() -> tuple[int, int]:
        async with Sink() as sink:

            async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                there = f"http://127.0.0.1:{sink.port}/"
                writer.write(f"HTTP/1.1 {status} Go\r\nlocation: {there}\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()

            outside = await asyncio.start_server(redirect, "127.0.0.1", 0)
            port = outside.sockets[0].getsockname()[1]
            # Even a listed target is not followed: a redirect says where another server would like us to go.
            settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}", f"127.0.0.1:{sink.port}"})
            async with egress.request("GET", f"http://127.0.0.1:{port}/", timeout_seconds=3) as response:
                found = response.status
            outside.close()
            return found, sink.connections

    assert run(whole) == (status, 0)


def test_the_operators_list_opens_what_it_names_and_no_sibling(settings: Any) -> None:
    async def whole() -> None:
        async with Sink() as sink, Sink() as sibling:
            settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{sink.port}"})
            assert await get(f"http://127.0.0.1:{sink.port}/") == b"ok"
            for url in (
                f"http://127.0.0.1:{sibling.port}/", f"http://localhost:{sink.port}/", f"http://127.1:{sink.port}/",
                f"http://2130706433:{sink.port}/", f"http://[::ffff:127.0.0.1]:{sink.port}/", f"http://127.0.0.2:{sink.port}/",
                f"http://127.0.0.1:{sink.port}@good.example/", f"http://good.example:80#@127.0.0.1:{sink.port}/x y",
            ):  # fmt: skip
                with pytest.raises(InvalidInput):
                    await get(url)
            assert (sink.connections, sibling.connections) == (1, 0)
            settings.EGRESS_ALLOW = frozenset()
            with pytest.raises(InvalidInput):
                await get(f"http://127.0.0.1:{sink.port}/")

    run(whole)


def test_an_address_that_the_client_reads_otherwise_than_the_check_is_refused(monkeypatch: Any, settings: Any) -> None:
    settings.EGRESS_ALLOW = frozenset({"127.0.0.1:9000"})
    monkeypatch.setattr(egress, "URL", lambda url: URL("http://10.0.0.1:9000/"))

    with pytest.raises(InvalidInput, match="alike"):
        run(lambda: get("http://127.0.0.1:9000/read-otherwise"))


def test_a_listed_ipv6_address_is_open_in_either_spelling(settings: Any) -> None:
    settings.EGRESS_ALLOW = frozenset({"[::1]:9000"})
    assert egress.check_url("http://[::1]:9000/").host == "::1"
    settings.EGRESS_ALLOW = frozenset({"::1:9000"})
    assert egress.check_url("http://[::1]:9000/").host == "::1"


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("way", ["request", "touch", "streamable_http", "sse"])
def test_a_proxy_of_the_environment_and_a_netrc_are_used_by_no_client(
    settings: Any, monkeypatch: Any, tmp_path: Path, way: str
) -> None:
    async def whole() -> tuple[int, int]:
        async with Sink() as sink, Sink() as proxy:
            for name in PROXIES:
                monkeypatch.setenv(name, f"http://user:password@127.0.0.1:{proxy.port}")
            (tmp_path / "netrc").write_text("default login someone password netrc-secret\n")
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{sink.port}"})
            url = f"http://127.0.0.1:{sink.port}/"
            if way == "request":
                await get(url)
            elif way == "touch":
                await egress.touch(url, tls=False, timeout_seconds=2)
                await asyncio.sleep(0.1)  # lets the sink of this loop take the connection
            else:
                with pytest.raises(BackendError):  # the sink speaks no MCP
                    await connect(make_route(transport=way, url=url, timeout_seconds=2)).open()
            assert not any(b"authorization" in head.lower() for head in sink.heads)
            return sink.connections, proxy.connections

    reached, through_proxy = run(whole)
    assert reached >= 1
    assert through_proxy == 0


@pytest.mark.parametrize(
    "port", [21, 22, 23, 25, 53, 110, 1433, 3306, 5432, 5672, 6333, 6379, 8000, 9200, 11211, 27017]
)
def test_a_port_that_is_not_one_of_the_webs_is_refused_wherever_it_is_unless_it_is_listed(
    settings: Any, port: int
) -> None:
    settings.EGRESS_ALLOW = frozenset({f"8.8.4.4:{port}"})
    info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))

    with pytest.raises(InvalidInput):
        egress.check_url(f"https://8.8.8.8:{port}/")
    with pytest.raises(OSError, match="not one that Gatehouse may call"):
        egress._guarded_socket(info)  # even where the check of the address was deceived
    assert egress.check_url(f"https://8.8.4.4:{port}/").port == port


def test_gatehouse_itself_is_refused_by_its_name_and_by_its_address_unless_it_is_listed(
    names: dict[str, list[str]], settings: Any, monkeypatch: Any
) -> None:
    settings.PUBLIC_URL = "https://gatehouse.example"
    for url in ("https://gatehouse.example/mcp", "http://GATEHOUSE.example.:8080/mcp"):
        with pytest.raises(InvalidInput):
            egress.check_url(url)
    settings.EGRESS_ALLOW = frozenset({"gatehouse.example:443"})
    assert egress.check_url("https://gatehouse.example/mcp").host == "gatehouse.example"

    # A public address of this machine is like its loopback here: whatever listens on it is its own.
    monkeypatch.setattr(egress, "is_public", lambda address: True)
    names["own.example"] = ["127.0.0.1"]
    assert refused(lambda sink: get(f"http://own.example:{sink.port}/"), monkeypatch) == 0
    assert not egress._is_of_this_machine(socket.AF_INET, ("8.8.8.8", 443))


@pytest.mark.parametrize("way", ["request", "streamable_http", "sse", "resolve", "connect"])
def test_open_closed_and_filtered_ports_inside_are_told_apart_by_nothing(
    names: dict[str, list[str]], monkeypatch: Any, way: str
) -> None:
    """Not by the words, nor by the time: no socket is made, so there is nothing whose time could tell."""
    names["evil.example"] = ["127.0.0.1"]
    made: list[Any] = []
    original = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda *given: (made.append(given), original(*given))[1])
    asked: list[Any] = []
    loop_connect = asyncio.selector_events.BaseSelectorEventLoop.sock_connect
    monkeypatch.setattr(
        asyncio.selector_events.BaseSelectorEventLoop, "sock_connect",
        lambda loop, made, address: (asked.append(address), loop_connect(loop, made, address))[1],
    )  # fmt: skip

    async def said(port: int) -> str:
        url = f"http://evil.example:{port}/"
        ways: dict[str, Callable[[], Any]] = {
            "request": lambda: get(url),
            "resolve": lambda: egress.addresses_of(url, timeout_seconds=2),
            "connect": lambda: egress.touch(url, tls=False, timeout_seconds=2),
        }
        ask = ways.get(way, lambda: connect(make_route(transport=way, url=url, timeout_seconds=2)).open())
        with pytest.raises(BackendDown) as failure:
            await ask()
        return failure.value.message

    async def whole() -> set[str]:
        with socket.socket() as closed, socket.socket() as full:
            closed.bind(("127.0.0.1", 0))
            full.bind(("127.0.0.1", 0))
            full.listen(0)  # accepts nobody: once its queue is full, it is as silent as a filtered port
            async with Sink() as sink:
                ports = (sink.port, closed.getsockname()[1], full.getsockname()[1])
                monkeypatch.setattr(egress, "OPEN_PORTS", frozenset(ports))
                return {await said(port) for port in ports} if sink.connections == 0 else set()

    assert len(run(whole)) == 1
    assert asked == []
    assert not any(address[0] == "127.0.0.1" for _, address in made)


def test_a_cookie_of_a_server_is_not_kept(settings: Any) -> None:
    async def whole() -> list[bytes]:
        seen: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 2\r\n\r\nok")

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
        await get(f"http://127.0.0.1:{port}/")
        await get(f"http://127.0.0.1:{port}/")
        server.close()
        return seen

    seen = run(whole)

    assert len(seen) == 2
    assert not any(b"cookie" in head.lower() or b"accept-encoding" in head.lower() for head in seen)
