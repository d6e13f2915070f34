"""The one guarded way out: every outgoing HTTP call is checked at the moment its socket is made.

A name may resolve to another address between a check and a connection, and a client may skip the resolver for a
literal address. The socket factory sees the very address that is about to be connected, so the rule lives there.
`check_url` applies the same rule to what can be known when an address is saved.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from django.conf import settings
from yarl import URL

from apps.core import budget
from apps.core.errors import BackendDown, BackendError, BackendTimeout, InvalidInput, TooLarge

OPEN_PORTS = frozenset({80, 443, 8080, 8443})
POOL_SIZE = 200
LONGEST_URL = 2048
KEEPALIVE_SECONDS = 4.0
"""Less than the five after which uvicorn and Node, which serve most upstreams, close a quiet connection: a request that
meets the end of its connection on the way cannot be sent again, as nobody knows whether it was carried out."""
_BAD_URL = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]|%00")
_NOT_GLOBAL = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "100.64.0.0/10", "198.18.0.0/15", "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48",
                 "2002::/16", "2001::/32", "::/96", "fec0::/10", "192.88.99.0/24", "3fff::/20", "5f00::/16",
                 "168.63.129.16/32")  # the last one is Azure's metadata host, public only by its number
)  # fmt: skip
REFUSED = "This address is not one that Gatehouse may call. An operator can list it in GATEHOUSE_EGRESS_ALLOW."

Pool = aiohttp.ClientSession
Response = aiohttp.ClientResponse

_trusted: ContextVar[bool] = ContextVar("egress_trusted", default=False)


class _Refused(OSError):
    """The address is not allowed; an OSError, so that the connector treats it like any failed connection."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL points: what the operator's list is compared with."""

    host: str
    port: int

    @property
    def is_listed(self) -> bool:
        """Whether the operator listed exactly this host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return not settings.EGRESS_ALLOW.isdisjoint((f"{host}:{self.port}", f"{self.host}:{self.port}"))


def check_url(url: str, *, field: str = "url") -> Target:
    """Refuse what can never be called: other schemes, credentials in the URL, literal private addresses.

    Raises InvalidInput for the field. Names are judged again, by address, whenever they are connected.
    """
    if len(url) > LONGEST_URL or _BAD_URL.search(url):
        raise InvalidInput.for_field(
            field, "This is not a web address: it has spaces, control characters or backslashes."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise InvalidInput.for_field(field, "This is not a web address.") from error
    if parts.scheme not in ("http", "https") or not url.lower().startswith((f"{parts.scheme}://",)) or not host:
        raise InvalidInput.for_field(field, "The address must start with http:// or https:// and name a host.")
    if "@" in parts.netloc:
        raise InvalidInput.for_field(field, "Leave user and password out of the address; add them as a credential.")
    target = Target(host, port if port is not None else (443 if parts.scheme == "https" else 80))
    if target.is_listed:
        return target
    if not host.isascii() or "%" in host or target.port not in OPEN_PORTS or _is_ourselves(host):
        raise InvalidInput.for_field(field, REFUSED)
    if _is_local_name(host) or any(not is_public(address) for address in _literal_addresses(host)):
        raise InvalidInput.for_field(field, REFUSED)
    return target


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet; embedded IPv4 addresses count as what they embed."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return False
    return not any(ip.version == network.version and ip in network for network in _NOT_GLOBAL)


def _is_local_name(host: str) -> bool:
    name = host.rstrip(".")
    return name in ("localhost", "") or name.endswith((".localhost", ".local", ".internal", ".localdomain"))


def _literal_addresses(host: str) -> list[str]:
    """The address that a host means without any DNS, in every spelling that the system's parser takes."""
    try:
        return [str(ipaddress.ip_address(host.strip("[]").partition("%")[0]))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))]
    except OSError:
        return []


def _is_ourselves(host: str) -> bool:
    """Whether this is where we are reached: a server that is Gatehouse itself would call itself without end."""
    return host.rstrip(".") == (urlsplit(settings.PUBLIC_URL).hostname or "").rstrip(".")


def _is_of_this_machine(family: int, address: tuple[Any, ...]) -> bool:
    """Whether a public address is one of this machine's own: what listens here is meant for its neighbours at most.

    A datagram socket is told where it would send, and sends nothing; to itself a machine sends from that very address.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
        return bool(probe.getsockname()[0] == address[0])


def _guarded_socket(addr_info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = addr_info
    if not _trusted.get() and not (
        is_public(address[0]) and address[1] in OPEN_PORTS and not _is_of_this_machine(family, address)
    ):
        raise _Refused(REFUSED)
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setblocking(False)
    return made


class _WholeAnswerResolver(AbstractResolver):
    """Refuses a name altogether when one of its addresses is private: such a name is an attempt, not a mistake."""

    def __init__(self) -> None:
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """All addresses of the name, or an OSError."""
        found = await self._inner.resolve(host, port, family)
        if not _trusted.get() and any(not is_public(result["host"]) for result in found):
            raise _Refused(REFUSED)
        return found

    async def close(self) -> None:
        """Nothing is held."""


@cache
def ssl_context() -> ssl.SSLContext:
    """The process's one TLS context; loading the CA bundle costs more than most calls."""
    return ssl.create_default_context()


def new_session() -> aiohttp.ClientSession:
    """A pool of connections for the running event loop; whoever makes it closes it."""
    connector = aiohttp.TCPConnector(
        limit=POOL_SIZE,
        limit_per_host=0,
        ssl=ssl_context(),
        resolver=_WholeAnswerResolver(),
        socket_factory=_guarded_socket,
        keepalive_timeout=KEEPALIVE_SECONDS,
        use_dns_cache=False,
    )
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # the deadline of the whole exchange is the only one
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        auto_decompress=False,
        raise_for_status=False,
    )


_sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}


def shared_session() -> aiohttp.ClientSession:
    """The pool of the running event loop, made on first use. `close_shared_session` ends it."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.closed:
        for old in [known for known in _sessions if known.is_closed()]:
            del _sessions[old]
        session = _sessions[loop] = new_session()
    return session


async def close_shared_session() -> None:
    """Close the running loop's pool, if it has one."""
    session = _sessions.pop(asyncio.get_running_loop(), None)
    if session is not None:
        await session.close()


@lru_cache(maxsize=4096)
def _prepare(url: str, listed: frozenset[str]) -> tuple[Target, URL]:
    """The checked target of a URL, and the URL as the client reads it: both must mean the same place.

    `listed` is the operator's list, so that what is remembered ends with it.
    """
    target, parsed = check_url(url), URL(url)
    if (parsed.raw_host or "", parsed.port) != (target.host, target.port):
        raise InvalidInput.for_field("url", "This is not a web address that every program reads alike.")
    return target, parsed


@asynccontextmanager
async def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    session: aiohttp.ClientSession | None = None,
    timeout_seconds: float,
    limit: asyncio.Timeout | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send one request and yield the answer; redirects are answers, never followed, and nothing is decompressed.

    `timeout_seconds` bounds the whole exchange, the reading of the body included. Whoever may have to move that bound
    meanwhile gives it as a `limit` too.
    Raises BackendTimeout, BackendDown or BackendError; what the caller raises inside passes through.
    """
    target, parsed = _prepare(url, settings.EGRESS_ALLOW)
    mark = _trusted.set(target.is_listed)
    try:
        async with (
            limit or asyncio.timeout(timeout_seconds),
            (session or shared_session()).request(
                method, parsed, headers=headers, data=body, allow_redirects=False
            ) as response,
        ):
            _check_encoding(target, response)
            yield response
    except TimeoutError as error:
        raise BackendTimeout(f"{target.host} did not answer within {timeout_seconds:g} seconds.") from error
    except aiohttp.ClientConnectorError as error:
        raise BackendDown(f"{target.host} cannot be reached.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise BackendError(f"{target.host} broke off its answer.") from error
    finally:
        _trusted.reset(mark)


def _check_encoding(target: Target, response: aiohttp.ClientResponse) -> None:
    """A few compressed bytes can become gigabytes, and we never ask for any."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BackendError(f"{target.host} compresses its answer, which it was not asked to do.")


async def addresses_of(url: str, *, timeout_seconds: float) -> list[str]:
    """The addresses that a URL's host means now; raises InvalidInput, BackendTimeout or BackendDown with the reason."""
    target = check_url(url)
    return list(dict.fromkeys(info[4][0] for info in await _resolve(target, timeout_seconds)))


async def touch(url: str, *, tls: bool, timeout_seconds: float) -> str:
    """Connect to a URL's host and say how that went, without sending a request; for the test of a connection."""
    target = check_url(url)
    mark = _trusted.set(target.is_listed)
    try:
        found = await _resolve(target, timeout_seconds)
        async with asyncio.timeout(timeout_seconds):
            return await _touch(target, found, tls=tls)
    except TimeoutError as error:
        raise BackendTimeout(
            f"{target.host} did not accept a connection within {timeout_seconds:g} seconds."
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise BackendDown(f"The certificate of {target.host} is not trusted: {error.verify_message}.") from error
    except ssl.SSLError as error:
        raise BackendDown(f"{target.host} does not speak TLS on port {target.port}.") from error
    except OSError as error:
        raise BackendDown(f"{target.host} accepts no connection on port {target.port}. Is it running?") from error
    finally:
        _trusted.reset(mark)


async def _resolve(target: Target, timeout_seconds: float) -> list[tuple[Any, ...]]:
    try:
        async with asyncio.timeout(timeout_seconds):
            loop = asyncio.get_running_loop()
            found: list[tuple[Any, ...]] = list(
                await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            )
    except TimeoutError as error:
        raise BackendTimeout(f"The name {target.host} was not resolved within {timeout_seconds:g} seconds.") from error
    except OSError as error:
        raise BackendDown(f"The name {target.host} cannot be resolved. Check its spelling.") from error
    if not target.is_listed and not all(is_public(info[4][0]) for info in found):
        raise BackendDown(REFUSED)
    return found


async def _touch(target: Target, found: list[tuple[Any, ...]], *, tls: bool) -> str:
    failure: OSError = OSError("no address")
    for info in found:
        made = _guarded_socket(info)
        try:
            await asyncio.get_running_loop().sock_connect(made, info[4])
        except OSError as error:
            failure = error
            made.close()
            continue
        except BaseException:
            made.close()
            raise
        if not tls:
            made.close()
            return f"{info[4][0]} accepts connections on port {target.port}."
        _, writer = await asyncio.open_connection(sock=made, ssl=ssl_context(), server_hostname=target.host)
        version = writer.get_extra_info("ssl_object").version()
        writer.close()
        return f"{version}; the certificate is valid for {target.host}."
    raise failure


async def counted(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same parts, each counted into what the process holds: reading stops while that is too much."""
    share = budget.current()
    async for part in parts:
        if share is not None:
            await share.grow(len(part))
        yield part


async def read_limited(response: aiohttp.ClientResponse, *, limit_bytes: int) -> bytes:
    """The body; raises TooLarge as soon as it is known to be longer than the limit. Waits where too much is held."""
    if response.content_length is not None and response.content_length > limit_bytes:
        raise TooLarge(f"The answer has more than {limit_bytes} bytes.")
    parts: list[bytes] = []
    size = 0
    async for part in counted(response.content.iter_any()):
        size += len(part)
        if size > limit_bytes:
            response.close()
            raise TooLarge(f"The answer has more than {limit_bytes} bytes.")
        parts.append(part)
    return b"".join(parts)
