"""`manage.py up`: everything in one process, on embedded defaults, or one role of a grown installation."""

import contextlib
import fcntl
import gc
import json
import logging
import os
import re
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request  # allowed: it asks this installation alone whether it is ready
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from apps.core.errors import BackendError, ServiceError
from apps.secrets import services as secrets
from config import roles
from config.env import BASE_DIR
from config.management.commands.demo import Demo, make_demo
from config.management.commands.migrate import alone_as_web
from config.waiting import wait_for_parts

DRAIN_SECONDS = {"all": 6, "web": 30}
"""How long connections may take to end after a signal. Somebody waits for `all` at a terminal, nobody for a role."""
CUT_SECONDS = 3.0
READY_SECONDS = 60.0
PARENT_SECONDS = 0.5
HOLD_SECONDS = 2.0
"""How long the data folder may still be held by a process that has been killed."""
ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound


class Command(BaseCommand):
    """Start the platform and serve it until SIGINT or SIGTERM."""

    help = "Start everything in one process (the web server, a worker and the schedule), or one of them with --role."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """manage.py has handed --host, --port and --data to the settings already."""
        parser.add_argument("--host", help="The address to listen on (GATEHOUSE_HOST).")
        parser.add_argument("--port", help="The port to listen on (GATEHOUSE_PORT).")
        parser.add_argument("--data", type=Path, help="The folder for everything that is kept (GATEHOUSE_DATA).")
        parser.add_argument("--no-demo", action="store_true", help="Do not make the demo organisation; roles never do.")
        parser.add_argument(
            "--role", choices=["all", *roles.ROLES], default="all",
            help="One part of a grown installation: web, worker or beat. Unset: all of them in one process.",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Start, say where things are, serve, stop."""
        role: str = options["role"]
        os.umask(0o077)
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        if role != "all":
            roles.check_addresses(role)
        with contextlib.ExitStack() as held:
            listener = None
            if role in DRAIN_SECONDS:
                held.enter_context(only_one(settings.DATA_DIR))
                listener = held.enter_context(listening(settings.ENV.host, settings.ENV.port))
            wait_for_parts(role, self.stderr.write)
            prepare_database()
            with contextlib.suppress(KeyboardInterrupt):
                if listener is None:
                    roles.run(role, self.stdout)
                    return
                held.enter_context(alone_as_web())
                demo = demo_or_refusal() if role == "all" and not options["no_demo"] else None
                self.serve(role, listener, demo)

    def serve(self, role: str, listener: socket.socket, demo: Demo | None) -> None:
        """Serve until a signal comes, with a worker and a beat where everything is one; nothing is left afterwards."""
        from config.background import Background, ensure_schedules

        background = None
        if role == "all":
            ensure_schedules()
            background = Background()
        server = web_server(background, DRAIN_SECONDS[role])
        connections.close_all()  # this thread needs none any more
        if background:
            background.start()
        listen_to_make()
        threading.Thread(target=self.announce, args=(demo,), name="announcer", daemon=True).start()
        try:
            server.run(sockets=[listener])
        finally:
            if background:
                background.stop(seconds=1.0)

    def announce(self, demo: Demo | None) -> None:
        """Wait until `/ready` answers 200, then say where everything is."""
        if not wait_until_ready(settings.ENV.host, settings.ENV.port):
            self.stderr.write(f"/ready did not answer 200 within {READY_SECONDS:.0f} s. The log says why.")
            return
        gc.collect()
        gc.freeze()
        self.stdout.write(welcome(demo))
        self.stdout.flush()


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the data folder: without Redis, sessions live in one web process. With it, several share the folder."""
    refuse_unwritable(folder)
    is_shared = bool(settings.ENV.redis_url)
    with (folder / "up.lock").open("a+") as lock:
        if not hold(lock, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX):
            lock.seek(0)
            raise CommandError(
                f"Gatehouse runs on {folder} already, as process {lock.read().strip() or 'unknown'}."
                " Stop it, or name another folder with --data."
                " Several web processes need REDIS_URL, set for each of them."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def hold(lock: IO[str], kind: int) -> bool:
    """Whether the lock could be had. One who is dying, or `doctor` as it looks, has it for another moment."""
    deadline = time.monotonic() + HOLD_SECONDS
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def refuse_unwritable(folder: Path) -> None:
    """Raise CommandError unless files can be made in the folder, and in the database's place."""
    database = connection.settings_dict["NAME"] if connection.vendor == "sqlite" else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in {folder, Path(database).parent} if database else {folder}:
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise CommandError(
            f"The data folder {folder} cannot be written: {(error.strerror or str(error)).lower()}."
            " Make it writable for the user that runs Gatehouse, make room, or name another folder with --data."
        ) from error


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port first of all: what cannot be reached must not start."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(
            f"{host} is no address to listen on ({error.strerror}). Choose another with --host."
        ) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            raise CommandError(
                f"Port {port} of {host} cannot be used: {(error.strerror or str(error)).lower()}."
                " Stop what uses it, or choose another with --port."
            ) from error
        yield listener


def demo_or_refusal() -> Demo | None:
    """The demo, if it was made now; another start goes on where this one had to stop."""
    try:
        return make_demo()
    except BackendError as error:
        raise CommandError(f"The demo cannot be made: {error.message} Start again, or with --no-demo.") from error


def prepare_database() -> None:
    """Bring the database up to date and see that our keys open what it holds."""
    try:
        migrate()
        check_keys()
    except DatabaseError as error:
        place = connection.settings_dict["NAME"]
        raise CommandError(
            f"The database {place} cannot be used: {str(error).strip().splitlines()[0]}."
            f" It must belong to the user that runs Gatehouse. More: {sys.executable} {BASE_DIR / 'manage.py'} doctor"
        ) from error


def migrate() -> None:
    """Bring the database up to date, if it is not."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", interactive=False, verbosity=0)


def check_keys() -> None:
    """Refuse to start with keys that cannot open what the database holds: it would fail at the first use."""
    try:
        secrets.check_sealing_keys()
    except ServiceError as error:
        raise CommandError(f"Gatehouse cannot start.\n{error.message}") from error


def web_server(background: Any, drain_seconds: int) -> Any:
    """The web server of one process; a signal tells who listens and the background to stop while calls end."""
    import uvicorn

    from config.mcp_stopping import stopping

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            super().handle_exit(sig, frame)
            stopping.tell(drain_seconds)
            if background:
                background.ask_to_stop()
            end_in(drain_seconds + CUT_SECONDS)

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        "config.asgi:application", loop="uvloop", http="httptools", ws="websockets-sansio", lifespan="on",
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=drain_seconds,
    )  # fmt: skip
    return Server(config)


def end_in(seconds: float) -> None:
    """Whatever still runs some seconds after the signal is cut off: its rows say so, and it is run again."""
    watchdog = threading.Timer(seconds, os._exit, args=[os.EX_OK])
    watchdog.daemon = True
    watchdog.start()


def listen_to_make() -> None:
    """End also on a SIGINT that only make was sent: it tells its recipes nothing, and waits for them for ever."""
    make = os.getppid()
    if "MAKELEVEL" not in os.environ or not catches_interrupt(make):
        return

    def watch() -> None:
        while catches_interrupt(make):
            time.sleep(PARENT_SECONDS)
        if os.getppid() == make:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="make-watcher", daemon=True).start()


def catches_interrupt(pid: int) -> bool:
    """Whether a process would handle SIGINT; make gives its handler up as soon as it has been sent one."""
    with contextlib.suppress(OSError):
        found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return found is not None and bool(int(found[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def wait_until_ready(host: str, port: int) -> bool:
    """Whether `/ready` answers 200 in time."""
    address = f"[{host}]" if ":" in host else host
    url = f"http://{'127.0.0.1' if host in ANY_ADDRESS else address}:{port}/ready"
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            request = urllib.request.Request(url, headers={"Host": f"127.0.0.1:{port}"})
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310
                return True
        except urllib.error.HTTPError as refusal:
            refusal.close()
            time.sleep(0.2)
        except OSError:
            time.sleep(0.05)
    return False


def welcome(demo: Demo | None) -> str:
    """Where everything is, and on the first start what is shown once."""
    url = settings.PUBLIC_URL
    lines = [
        "",
        f"Gatehouse {settings.VERSION} is ready.",
        "",
        f"  Control room   {url}/admin/",
        f"  API documents  {url}/docs",
        f"  Agents (MCP)   {settings.MCP_AUDIENCE}",
        "",
    ]
    if demo is None:
        lines += [
            "An agent needs an API key: make one in the control room, or with the accounts of a new organisation:",
            f"  {provision_command()}",
        ]
        return "\n".join(lines)
    return "\n".join([
        *lines,
        "Made at this first start and shown only now:",
        *([f"  Admin account  {demo.admin['email']}  {demo.admin['password']}"] if demo.admin else []),
        f"  Demo key       {demo.key}",
        "",
        "Connect an agent, for instance Claude Code:",
        f"  claude mcp add --transport http gatehouse {settings.MCP_AUDIENCE}"
        f' --header "Authorization: Bearer {demo.key}"',
        "or any client that reads an mcp.json:",
        f"  {client_snippet(demo.key)}",
    ])  # fmt: skip


def provision_command() -> str:
    """The command line that makes an organisation in this installation, to be copied."""
    is_usual = settings.DATA_DIR == BASE_DIR / "data"
    variable = "" if is_usual else f"GATEHOUSE_DATA={shlex.quote(str(settings.DATA_DIR))} "
    return f"{variable}{sys.executable} {BASE_DIR / 'manage.py'} provision --org SLUG"


def client_snippet(key: str) -> str:
    """The entry of a client's mcp.json."""
    server = {"type": "http", "url": settings.MCP_AUDIENCE, "headers": {"Authorization": f"Bearer {key}"}}
    return json.dumps({"mcpServers": {"gatehouse": server}})


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(os.EX_OK)
