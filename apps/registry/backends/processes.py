"""Ends processes for good: the one that was started, its group, and descendants that left the group.

Linux tells the session of every process, and the variables it was started with: a child's HOME is a folder of its own,
so that a descendant is known by it even where it has begun a session of its own. One that also changed its variables
is not found; the user namespace and the missing capabilities hold it all the same.
"""

import atexit
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

ROUNDS = 25
ROUND_SECONDS = 0.02
NOBODY = -1

_living: dict[int, str] = {}


def remember(pid: int, home: str) -> None:
    """Note a child, so that it is ended with this process."""
    _living[pid] = home


def forget(pid: int) -> None:
    """The child is gone."""
    _living.pop(pid, None)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the process group of a child that still runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def end_family(pid: int, home: str) -> None:
    """Kill whatever is left of a child and its descendants, see them gone, remove its folder. Takes milliseconds."""
    for _ in range(ROUNDS):
        found = _family(pid, home)
        for member in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, signal.SIGKILL)
            _reap(member, pid)
        if not found:
            break
        time.sleep(ROUND_SECONDS)
    shutil.rmtree(home, ignore_errors=True)


def _family(pid: int, home: str) -> list[int]:
    mark = f"HOME={home}".encode()
    numbers = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [number for number in numbers if number != os.getpid() and _belongs(number, pid, mark)]


def _belongs(number: int, session: int, mark: bytes) -> bool:
    folder = Path("/proc") / str(number)
    try:
        state, *fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        if state == "Z":
            return False
        return int(fields[2]) == session or mark in (folder / "environ").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return False


def _reap(member: int, child: int) -> None:
    """Collect an orphan where this process is the one that orphans come to; the child itself has its own watcher."""
    if member != child:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(member, os.WNOHANG)


@atexit.register
def _end_all() -> None:
    for pid, home in list(_living.items()):
        signal_group(pid, signal.SIGKILL)
        end_family(pid, home)
        forget(pid)
