"""The whole ASGI application under uvicorn, in a thread, on a real port."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import uvicorn

from tests.people import Person

PATIENCE_SECONDS = 120
TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Client:
    """A small HTTP client on real sockets that keeps a bearer credential; never raises for a status."""

    base: str
    headers: dict[str, str] = field(default_factory=dict)

    def request(
        self, method: str, path: str, json_body: Any = None, *, body: bytes | None = None,
        headers: dict[str, str] | None = None, query: dict[str, Any] | None = None, timeout: float = 30,
    ) -> Answer:  # fmt: skip
        """Send one request; `json_body` is sent as JSON, `body` as it is."""
        sent = {**self.headers, **(headers or {})}
        if json_body is not None:
            body = json.dumps(json_body).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        url = self.base + path + (f"?{urlencode(query)}" if query else "")
        request = Request(url, data=body, headers=sent, method=method)
        try:
            with urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except HTTPError as error:
            return Answer(error.code, _lower(error.headers), error.read())

    def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, json_body: Any = None, **options: Any) -> Answer:
        """POST."""
        return self.request("POST", path, json_body, **options)

    def patch(self, path: str, json_body: Any = None, **options: Any) -> Answer:
        """PATCH."""
        return self.request("PATCH", path, json_body, **options)

    def delete(self, path: str, **options: Any) -> Answer:
        """DELETE."""
        return self.request("DELETE", path, **options)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Server(uvicorn.Server):
    """Uvicorn, which otherwise notices only at its next tick that it is to end."""

    async def main_loop(self) -> None:
        """Tick until the end."""
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), TICK_SECONDS)

    def end(self) -> None:
        """End at once; called from another thread."""
        self.should_exit = True
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._ended.set)


class Live:
    """Starts the application on a free port of the loopback interface and stops it."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        config = uvicorn.Config(
            "config.asgi:application", log_config=None, access_log=False, proxy_headers=False, lifespan="on",
            ws="websockets-sansio", timeout_graceful_shutdown=3,
        )  # fmt: skip
        self._server = Server(config)
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("The live server did not start.")
            time.sleep(0.01)
        return self

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._socket]))

    def __exit__(self, *_: object) -> None:
        self._server.end()
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            raise RuntimeError("The live server did not stop.")

    @property
    def mcp_url(self) -> str:
        """The MCP endpoint."""
        return f"{self.url}/mcp"

    def anonymous(self) -> Client:
        """A client without a credential."""
        return Client(self.url)

    def rest(self, person: Person) -> Client:
        """A client that signed in as this person."""
        body = {"email": person.email, "password": person.password}
        if person.organization:
            body["organization"] = person.organization.slug
        answer = Client(self.url).post("/api/v1/auth/login", body)
        if answer.status != 200:
            raise AssertionError(f"{person.email} could not sign in: {answer.status} {answer.text}")
        return Client(self.url, {"Authorization": f"Bearer {answer.json()['access']}"})

    def key(self, person: Person, scopes: tuple[str, ...] = ()) -> str:
        """A fresh API key of this person, in plain text."""
        from apps.auth import services as auth

        return auth.create_key(person.actor, name="test", scopes=scopes).plain

    def with_key(self, key: str) -> Client:
        """A client with an API key."""
        return Client(self.url, {"Authorization": f"Bearer {key}"})
