"""The client of stdio servers against one that misbehaves; real processes, and none of them left."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from apps.core.errors import BackendDown, BackendError, BackendTimeout
from apps.registry.backends.stdio import Stdio
from tests.fixtures import servers
from tests.registry.conftest import make_route, run

pytestmark = pytest.mark.slow_process
Work = Callable[[Stdio], Awaitable[Any]]


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory: Any, monkeypatch: Any) -> Iterator[None]:
    """Each test leaves no process and no folder of a child behind."""
    folder = tmp_path_factory.mktemp("children")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    left = [child for child in psutil.Process().children(recursive=True) if "stdio_evil" in " ".join(child.cmdline())]
    assert left == []
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []
    assert list(folder.iterdir()) == []


async def call(upstream: Stdio, name: str, seconds: float = 60, **arguments: Any) -> str:
    """The text that a tool answers."""
    result = await upstream.request("tools/call", {"name": name, "arguments": arguments}, timeout_seconds=seconds)
    text: str = result["content"][0]["text"]
    return text


def with_child(command: list[str], work: Work, **values: Any) -> Any:
    """Open, work, close."""

    async def whole() -> Any:
        upstream = Stdio(make_route(transport="stdio", command=tuple(command), **values))
        await upstream.open()
        try:
            return await work(upstream)
        finally:
            await upstream.aclose()

    return run(whole)


@pytest.mark.parametrize("era", ["", "2025-11-25", "2026-07-28"])
def test_both_eras_are_spoken(stdio_command: list[str], era: str) -> None:
    async def work(upstream: Stdio) -> tuple[str, str]:
        return upstream.protocol_version, await call(upstream, "echo", text="grüße")

    assert with_child(stdio_command, work, protocol_version=era) == (era or "2026-07-28", "grüße")


@pytest.mark.measured
def test_calls_share_one_process_and_do_not_wait_for_each_other(stdio_command: list[str]) -> None:
    async def work(upstream: Stdio) -> tuple[list[str], float]:
        started = time.monotonic()
        answers = await asyncio.gather(*(call(upstream, "sleep", ms=300) for _ in range(10)))
        return answers, time.monotonic() - started

    answers, seconds = with_child(stdio_command, work)

    assert answers == ["slept 300"] * 10
    assert seconds < 1.5


def test_a_child_that_we_cannot_hear_any_more_is_given_up_and_the_log_says_why(
    stdio_command: list[str], monkeypatch: Any, caplog: Any
) -> None:
    async def work(upstream: Stdio) -> None:
        def fail(*_: Any) -> None:
            raise KeyError("a fault of ours")

        monkeypatch.setattr("apps.registry.backends.wire.decode_all", fail)
        with pytest.raises(BackendDown):
            await call(upstream, "echo", text="hello")
        assert not upstream.is_open

    with_child(stdio_command, work)

    assert "a fault of ours" in caplog.text


def test_a_child_is_given_its_variables_and_nothing_else(stdio_command: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("GATEHOUSE_CANARY", "secret")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        found = json.loads(with_child(stdio_command, lambda up: call(up, "environ"), env={"CITY": "Riga"}))
    finally:
        os.close(leaked)

    home = found["environ"].pop("HOME")
    assert found["environ"] == {"CITY": "Riga", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    assert found["cwd"] == home
    assert not Path(home).exists()
    assert found["umask"] == "0o77"
    assert {number for number, what in found["files"].items() if "/fd" not in what} == {"0", "1", "2"}
    assert found["process_group"] == found["session"] == found["pid"]
    assert found["parent_environ_readable"] is False


def test_a_child_finds_the_platforms_own_files_empty(stdio_command: list[str], settings: Any, tmp_path: Path) -> None:
    """As root and as nobody: the same user owns the keys."""
    folder, file = tmp_path / "data", tmp_path / "env"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "key").write_text("hunter2")
    file.write_text("hunter2")
    settings.HIDDEN_FROM_CHILDREN = (str(folder), str(file), str(tmp_path / "nothing"), "")

    found = json.loads(
        with_child(stdio_command, lambda up: call(up, "look", paths=[str(folder / "secrets" / "key"), str(file)]))
    )

    assert found == [None, ""]
    assert (folder / "secrets" / "key").read_text() == file.read_text() == "hunter2"


def test_without_root_the_child_finds_them_empty_too(tmp_path: Path) -> None:
    system_python = "/usr/bin/python3"
    if os.getuid() != 0 or not Path(system_python).exists():
        pytest.skip("Needs root, to become somebody else, and a Python that everybody may run.")
    for folder in (tmp_path, *(each for each in tmp_path.parents if not each.stat().st_mode & 0o001)):
        folder.chmod(0o755)
    secret = tmp_path / "data" / "key"
    secret.parent.mkdir()
    secret.write_text("hunter2")
    for path in (secret, secret.parent):
        os.chown(path, 65534, 65534)
        path.chmod(0o700)
    launcher = (servers.PROJECT / "apps/registry/backends/launcher.py").read_text()
    reads = f"import os\nprint(os.path.exists({str(secret)!r}))"
    parent = textwrap.dedent(
        f"""
        import os, subprocess, sys
        launcher, reads, hidden = sys.argv[1:]
        child = ["{system_python}", "-I", "-S", "-", str(os.getpid()), hidden, "{system_python}", "-c", reads]
        done = subprocess.run(child, input=launcher, capture_output=True, text=True)
        print(os.path.exists("{secret}"), done.stdout)
        """
    )

    done = subprocess.run(
        [system_python, "-c", parent, launcher, reads, str(secret.parent)], user=65534, group=65534, extra_groups=[],
        cwd="/", capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert done.stdout.split() == ["True", "False"]


def test_without_root_the_child_cannot_read_the_parents_environment_either(tmp_path: Path) -> None:
    system_python = "/usr/bin/python3"
    if os.getuid() != 0 or not Path(system_python).exists():
        pytest.skip("Needs root, to become somebody else, and a Python that everybody may run.")
    reads = (
        "import os\ntry: print(bool(open(f'/proc/{os.getppid()}/environ','rb').read()))\nexcept OSError: print(False)"
    )
    parent = textwrap.dedent(
        f"""
        import os, subprocess, sys
        def child(*launcher):
            command = [*launcher, "{system_python}", "-c", sys.argv[2]]
            return subprocess.run(command, input=sys.argv[1], capture_output=True, text=True).stdout.strip()
        print(child(), child("{system_python}", "-I", "-S", "-", str(os.getpid()), ""))
        """
    )
    launcher = (servers.PROJECT / "apps/registry/backends/launcher.py").read_text()

    done = subprocess.run(
        [system_python, "-c", parent, launcher, reads], user=65534, group=65534, extra_groups=[], cwd="/",
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    plain, launched = done.stdout.split()
    assert launched == "False"
    assert plain == "True"  # so that the line above says something


@pytest.mark.measured
def test_a_flood_on_standard_error_matters_to_nobody(stdio_command: list[str]) -> None:
    before = psutil.Process().memory_info().rss

    answer = with_child(stdio_command, lambda up: call(up, "stderr_flood", 60, megabytes=1024))

    assert answer == "wrote 1024 MB"
    assert psutil.Process().memory_info().rss - before < 30_000_000


def test_some_garbage_on_standard_output_is_skipped_and_much_of_it_ends_the_child(stdio_command: list[str]) -> None:
    assert with_child(stdio_command, lambda up: call(up, "garbage", lines=900)) == "wrote 900 lines"
    with pytest.raises(BackendDown, match="standard error"):
        with_child(stdio_command, lambda up: call(up, "garbage", lines=1100))


def test_a_line_beyond_the_limit_fails_its_own_request_only(stdio_command: list[str], settings: Any) -> None:
    settings.UPSTREAM_MAX_RESULT_BYTES = 1_000_000

    async def work(upstream: Stdio) -> tuple[Any, str, str]:
        other = asyncio.create_task(call(upstream, "sleep", ms=500))
        [failure] = await asyncio.gather(call(upstream, "echo", text="x" * 1_100_000), return_exceptions=True)
        return failure, await other, await call(upstream, "echo", text="alive")

    failure, other, after = with_child(stdio_command, work)

    assert isinstance(failure, BackendError)
    assert "more than 1000000 bytes" in failure.message
    assert (other, after) == ("slept 500", "alive")


@pytest.mark.measured
def test_a_child_that_stops_reading_meets_the_deadline_and_is_ended(stdio_command: list[str]) -> None:
    async def work(upstream: Stdio) -> tuple[float, bool]:
        await call(upstream, "never_read_stdin")
        started = time.monotonic()
        with pytest.raises(BackendTimeout):
            await call(upstream, "echo", 1.0, text="x" * 500_000)
        return time.monotonic() - started, upstream.is_open

    seconds, is_open = with_child(stdio_command, work)

    assert 0.9 <= seconds <= 1.1
    assert not is_open


def test_a_child_that_does_not_answer_is_told_and_lives_on(stdio_command: list[str]) -> None:
    async def work(upstream: Stdio) -> str:
        with pytest.raises(BackendTimeout):
            await call(upstream, "sleep", 0.5, ms=2000)
        return await call(upstream, "echo", text="alive")

    assert with_child(stdio_command, work) == "alive"


@pytest.mark.measured
def test_a_child_that_ends_fails_those_who_wait_at_once(stdio_command: list[str]) -> None:
    async def work(upstream: Stdio) -> tuple[list[Any], float, bool]:
        waiting = [asyncio.create_task(call(upstream, "sleep", 30, ms=20_000)) for _ in range(3)]
        await asyncio.sleep(0.2)
        started = time.monotonic()
        results = await asyncio.gather(call(upstream, "exit_now"), *waiting, return_exceptions=True)
        return results, time.monotonic() - started, upstream.is_open

    results, seconds, is_open = with_child(stdio_command, work)

    assert all(isinstance(result, BackendDown) for result in results)
    assert "status 3" in str(results[0])
    assert seconds < 1
    assert not is_open


@pytest.mark.parametrize("new_session", [False, True])
def test_no_descendant_outlives_its_child(stdio_command: list[str], tmp_path: Path, new_session: bool) -> None:
    path = tmp_path / "pid"

    grandchild = int(
        with_child(stdio_command, lambda up: call(up, "fork_grandchild", path=str(path), new_session=new_session))
    )

    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


@pytest.mark.measured
def test_a_child_that_ignores_sigterm_is_killed(stdio_command: list[str]) -> None:
    async def work() -> tuple[int, float]:
        upstream = Stdio(make_route(transport="stdio", command=tuple(stdio_command)))
        await upstream.open()
        pid = json.loads(await call(upstream, "environ"))["pid"]
        await call(upstream, "ignore_sigterm")
        started = time.monotonic()
        await upstream.aclose()
        return pid, time.monotonic() - started

    pid, seconds = run(work)

    assert not psutil.pid_exists(pid)
    assert 3.5 < seconds < 6


def test_the_death_of_the_parent_ends_the_child(stdio_command: list[str], tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, json, os, sys, time, uuid
            os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
            from apps.registry.backends.base import ServerRoute
            from apps.registry.backends.stdio import Stdio
            route = ServerRoute(
                id=uuid.uuid4(), organization_id=uuid.uuid4(), slug="evil", name="Evil", transport="stdio",
                command=tuple({stdio_command!r}),
            )
            async def main():
                upstream = Stdio(route)
                await upstream.open()
                await upstream.request("tools/call", {{"name": "ignore_sigterm"}}, timeout_seconds=5)
                print(upstream._child.pid, flush=True)
                await asyncio.sleep(60)
            asyncio.run(main())
            """
        )
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(servers.PROJECT),
        "GATEHOUSE_STDIO_ALLOW": " ".join(stdio_command),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait(30)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_program_that_cannot_speak_is_told_apart_by_its_last_words(settings: Any) -> None:
    settings.STDIO_ALLOW = ("/bin/sh -c 'echo no such key >&2; exit 4'",)

    with pytest.raises(BackendDown, match=r"status 4.*no such key"):
        with_child(["/bin/sh", "-c", "echo no such key >&2; exit 4"], lambda up: call(up, "echo"))


def test_a_variable_that_chooses_which_code_runs_is_not_given_to_a_child(stdio_command: list[str]) -> None:
    with pytest.raises(BackendDown, match="LD_PRELOAD"):
        with_child(stdio_command, lambda up: call(up, "echo"), env={"LD_PRELOAD": "/tmp/x.so"})


def test_a_command_that_the_operator_no_longer_lists_is_not_started(stdio_command: list[str], settings: Any) -> None:
    settings.STDIO_ALLOW = ()

    with pytest.raises(BackendDown, match="GATEHOUSE_STDIO_ALLOW"):
        with_child(stdio_command, lambda up: call(up, "echo"))


def test_a_server_of_the_older_era_that_dies_of_an_unknown_question_is_started_again(
    settings: Any, tmp_path: Path
) -> None:
    script = tmp_path / "old.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys
            for line in sys.stdin:
                asked = json.loads(line)
                if asked["method"] == "server/discover":
                    raise SystemExit(1)
                if "id" in asked:
                    shown = {"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {"name": "old"}}
                    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": shown}), flush=True)
            """
        )
    )
    settings.STDIO_ALLOW = (f"{sys.executable} {script}",)

    async def work(upstream: Stdio) -> str:
        return upstream.protocol_version

    assert with_child([sys.executable, str(script)], work) == "2024-11-05"


def test_a_server_of_the_newest_era_that_is_slow_to_start_is_understood(
    settings: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys, time
            time.sleep(1)
            for line in sys.stdin:
                asked = json.loads(line)
                answer = {"result": {"supportedVersions": ["2026-07-28"], "capabilities": {}}}
                if asked["method"] != "server/discover":
                    answer = {"error": {"code": -32022, "message": "This connection speaks 2026-07-28."}}
                print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
            """
        )
    )
    settings.STDIO_ALLOW = (f"{sys.executable} {script}",)
    monkeypatch.setattr("apps.registry.backends.stdio.PROBE_SECONDS", 0.5)

    async def work(upstream: Stdio) -> str:
        return upstream.protocol_version

    assert with_child([sys.executable, str(script)], work) == "2026-07-28"
