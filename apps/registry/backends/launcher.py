"""Starts a stdio server with as little as possible of what this process may do; run as a script, never imported.

    python -I -S launcher.py PARENT_PID HIDDEN PROGRAM [ARGUMENT …]

It needs no code between fork and exec in the parent: it runs after exec, changes itself, and becomes the program.
Files that were open are closed, new files are private, there are no core dumps, no new privileges (set-uid programs
gain none) and no capabilities. Without root, a user namespace of its own (where the kernel allows one) keeps the child
from reading the memory and the environment of the parent, which runs as the same user; with root, the missing
capabilities do. When the parent dies, the child is killed.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
MS_BIND = 0x1000
MS_PRIVATE_BELOW = 0x4000 | 0x40000
HIGHEST_CAPABILITY = 63
HIGHEST_FILE = 65_536
NOT_STARTED = 127


def close_files() -> None:
    """Close all that is open but the three streams."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208 - no paths are needed
    except OSError:
        numbers = list(range(3, HIGHEST_FILE))
    for number in numbers:
        if number > 2:  # noqa: PLR2004 - 0, 1 and 2 are the streams
            with contextlib.suppress(OSError):
                os.close(number)


def leave_user_namespace(libc: ctypes.CDLL) -> None:
    """Move into a user namespace where only we exist, under our own number; nothing changes where that is forbidden."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def hide(libc: ctypes.CDLL, paths: list[str], needed: list[str]) -> None:
    """Put something empty over each path, for us alone; not over one that holds what we need to run."""
    wanted = [Path(path).resolve() for path in paths if path and Path(path).exists()]
    wanted = [path for path in wanted if not any(Path(each).resolve().is_relative_to(path) for each in needed)]
    if not wanted or libc.unshare(CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, MS_PRIVATE_BELOW, None) != 0:
        return  # without the last step the whole machine would see what is mounted next
    for path in wanted:
        if path.is_dir():
            libc.mount(b"none", os.fsencode(path), b"tmpfs", MS_NOSUID_NODEV_NOEXEC, b"size=4k,mode=000")
        else:
            libc.mount(b"/dev/null", os.fsencode(path), None, MS_BIND, None)


def drop_privileges(libc: ctypes.CDLL) -> None:
    """No capability can be had any more, neither now nor through another program."""
    for capability in range(HIGHEST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> None:
    """Change into what the child may be, and become it."""
    parent, hidden, program, arguments = int(sys.argv[1]), sys.argv[2].split("\n"), sys.argv[3], sys.argv[3:]
    close_files()
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if os.getuid() != 0:
            leave_user_namespace(libc)
        hide(libc, hidden, [program, str(Path.cwd())])
        drop_privileges(libc)
        # Last, because a change of credentials forgets it.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() not in (parent, 0):
        sys.exit(NOT_STARTED)
    try:
        os.execv(program, arguments)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"{program} cannot be started: {error.strerror}\n")
        sys.exit(NOT_STARTED)


if __name__ == "__main__":
    main()
