"""A process that has imported everything once and forks workers and platforms: `python -m tests.jobs.nursery [up]`.

Starting one costs seconds of imports, and tests that kill them start many. Each line of its input is a JSON object:
`command`, of manage.py or `write`, `env` and `conf`, what differs in our settings and in Celery's, and `log`, a file
for its output. It answers with the id of the child, which leads a process group of its own.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psutil

from tests.processes import PROJECT, environment

END_SECONDS = 60.0


def main() -> None:
    """Fork a child for every line until the input ends."""
    import django
    from django.db import connections

    django.setup()
    preload()
    connections.close_all()  # children of one connection would read each other's answers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for a child
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            be_born(order)
        print(pid, flush=True)


def preload() -> None:
    """Import what a worker and, if that was asked for, a whole platform import as they start."""
    import celery.bin.celery
    import celery.concurrency.prefork
    import celery.concurrency.thread  # noqa: F401
    import django_celery_beat.schedulers  # noqa: F401

    from config.celery import app
    from tests.jobs import work  # noqa: F401 - tasks that this file's children know

    app.loader.import_default_modules()
    app.finalize()
    if "up" in sys.argv[1:]:
        import uvicorn  # noqa: F401

        import config.asgi
        import config.background
        import config.management.commands.up  # noqa: F401


def be_born(order: dict[str, Any]) -> None:
    """Become what was ordered, and never return."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    status = 1
    try:
        run(order["command"], order["env"], order["conf"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        threading._shutdown()  # type: ignore[attr-defined]  # as at every exit: pools end what their threads have begun
        os._exit(status)


def run(command: list[str], env: dict[str, Any], conf: dict[str, Any]) -> None:
    """Run a command of manage.py, or write."""
    from django.conf import settings
    from django.core.management import execute_from_command_line

    from config.celery import app
    from tests.jobs import writing

    settings.ENV = replace(settings.ENV, **env)
    app.conf.update(conf)
    if command[0] == "write":
        writing.write(*command[1:])
    else:
        execute_from_command_line(["manage.py", *command])


@dataclass
class Child:
    """A process out of a nursery."""

    pid: int
    log: Path

    def __post_init__(self) -> None:
        self._process = psutil.Process(self.pid)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_running()

    def children(self) -> list[psutil.Process]:
        """Its own children."""
        try:
            return self._process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def send(self, number: int) -> None:
        """Send a signal to it alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL for it and everything it has started."""
        for process in [self._process, *self.children()]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.wait()

    def wait(self, seconds: float = END_SECONDS) -> None:
        """Return when it has ended."""
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} did not end in {seconds} s:\n{self.output()}")
            time.sleep(0.01)

    def output(self) -> str:
        """What it has written."""
        return self.log.read_text(errors="replace")


@dataclass
class Nursery:
    """Starts children; a context manager that leaves none of them."""

    folder: Path
    kinds: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.nursery", *self.kinds], cwd=PROJECT, env=environment(**self.env),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._answer()
        return self

    def start(self, *command: str, env: dict[str, Any] | None = None, conf: dict[str, Any] | None = None) -> Child:
        """Start a child that runs this command; `env` names fields of `config.env.Env`."""
        log = self.folder / f"child-{len(self.children)}.log"
        log.touch()  # it may be read before the child has opened it
        order = {"command": command, "env": env or {}, "conf": conf or {}, "log": str(log)}
        assert self._process.stdin
        print(json.dumps(order), file=self._process.stdin, flush=True)
        child = Child(self._answer(), log)
        self.children.append(child)
        return child

    def _answer(self) -> int:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the nursery ended"
        return int(line)

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(END_SECONDS)


if __name__ == "__main__":
    main()
