"""A grown installation: two web processes, a worker and a beat on a PostgreSQL and a Redis that may be stopped."""

import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.fixtures.faults import FaultProxy, OwnPostgres, OwnRedis, eventually
from tests.fixtures.queues import own_queue
from tests.fixtures.servers import Process
from tests.journeys.platform import Platform
from tests.journeys.rest import offered, signed_in, signed_in_as
from tests.live import Client

WEB_THREADS = 4
WORKER_PROCESSES = 2
TIME = "time__get_current_time"


class Role(Process):
    """A process that serves no web; it is ready when it says so."""

    is_warm = True

    def __init__(self, role: str, env: dict[str, str]) -> None:
        super().__init__([sys.executable, "manage.py", "up", "--role", role], env=env)
        self.role = role

    def wait_ready(self) -> None:
        """Return when it has said that it is ready."""
        assert eventually(self._has_said_so, 90), self.output()

    def _has_said_so(self) -> bool:
        assert self._started().poll() is None, self.output()
        return f"the {self.role} is ready." in self.output()


@dataclass
class Broker:
    """A broker behind a proxy: RabbitMQ where the tests have found one, else the installation's own Redis."""

    proxy: FaultProxy
    url: str

    @classmethod
    def of(cls, redis: OwnRedis) -> Self:
        """The broker, and the way to it."""
        parts = urlsplit(os.environ.get("TEST_BROKER_URL", redis.url))
        proxy = FaultProxy(parts.port or 5672, parts.hostname or "127.0.0.1")
        user = f"{parts.username}:{parts.password}@" if parts.username else ""
        return cls(proxy, f"{parts.scheme}://{user}127.0.0.1:{proxy.port}{parts.path}")


class Grown:
    """The installation with organisation acme, whose agents have a tool that tells the time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = OwnPostgres()
        self.redis = OwnRedis()
        self.broker = Broker.of(self.redis)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for part in (self.postgres, self.redis, self.broker.proxy):
                stack.enter_context(part)
            self.queue = stack.enter_context(own_queue(self.broker.url))
            self.one, self.two = (stack.enter_context(self.web()) for _ in range(2))
            self.worker, self.beat = (stack.enter_context(Role(role, self.one.env)) for role in ("worker", "beat"))
            self.made = self.one.provision()
            self.admin, self.developer = signed_in(self.one, "admin"), signed_in(self.one, "developer")
            self.key = self.made["keys"]["developer"]
            self.server = self._offer_time()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def webs(self) -> list[Platform]:
        """The web processes."""
        return [self.one, self.two]

    def at(self, web: Platform, client: Client) -> Client:
        """The same credential at another process."""
        return Client(web.url, client.headers)

    def web(self) -> Platform:
        """One more web process, which has not been started."""
        return Platform(
            self.folder, "--role", "web",
            DATABASE_URL=self.postgres.url, REDIS_URL=self.redis.url, BROKER_URL=self.broker.url,
            GATEHOUSE_QUEUE=self.queue, GATEHOUSE_PUBLIC_URL="http://gatehouse.test",
            GATEHOUSE_WEB_THREADS=str(WEB_THREADS), GATEHOUSE_WORKER_PROCESSES=str(WORKER_PROCESSES),
            GATEHOUSE_STDIO_ALLOW=shlex.join(["mcp-server-time"]),
        )  # fmt: skip

    def _offer_time(self) -> str:
        operator = signed_in_as(self.one, self.made["platform_admin"], **{"X-Organization": "acme"})
        body = {"name": "Time", "slug": "time", "transport": "stdio", "command": ["mcp-server-time"]}
        return f"/api/v1/mcp/servers/{offered(operator, self.admin, body)['id']}"
