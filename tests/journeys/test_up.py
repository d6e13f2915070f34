"""`manage.py up`: a newcomer starts the platform, uses it, stops it, starts it again."""

import base64
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.fixtures import warm
from tests.fixtures.servers import PROJECT, free_port, url_answers
from tests.gateway.agent import LEGACY, MODERN
from tests.gateway.speaker import Speaker, rest_of
from tests.gateway.sse_speaker import SseSpeaker
from tests.journeys.agents import ERAS, call, call_over_stdio, tool_names
from tests.journeys.platform import COMMAND_SECONDS, ColdPlatform, Platform, clean_environment

pytestmark = pytest.mark.slow_process

SECONDS_TO_END = 10
SECONDS_TO_START = 6
MIB_AT_REST = 220
MIB_WITH_CHILD = 300
TIME_TOOL = "time__get_current_time"


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with ColdPlatform(tmp_path_factory.mktemp("up")) as started:
        yield started


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def pss_mib(pid: int) -> float:
    """The proportional memory of a process and its descendants."""
    texts = [Path(f"/proc/{each.pid}/smaps_rollup").read_text() for each in family(pid)]
    return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts) / 1024


def up(*flags: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run `up` where it must refuse to start."""
    command = [sys.executable, "manage.py", "up", *flags]
    return warm.run(command, cwd=PROJECT, env=clean_environment(**env), timeout=COMMAND_SECONDS)


def test_the_first_start_prints_what_a_newcomer_needs(platform):
    text = platform.output()

    assert "Gatehouse 0.1.0 is ready." in text
    for address in (f"{platform.url}/admin/", f"{platform.url}/docs", f"{platform.url}/mcp"):
        assert address in text
    assert re.search(r"Admin account\s+admin@gatehouse\.example\s+\S{20}", text)
    key = platform.demo_key()
    assert (
        f'claude mcp add --transport http gatehouse {platform.url}/mcp --header "Authorization: Bearer {key}"' in text
    )
    snippet = json.loads(re.search(r'\{"mcpServers".*\}', text)[0])
    assert snippet["mcpServers"]["gatehouse"]["headers"] == {"Authorization": f"Bearer {key}"}
    assert "Traceback" not in text


def test_nothing_that_is_logged_at_the_start_is_a_warning(platform):
    logged = [json.loads(line) for line in platform.output().splitlines() if line.startswith('{"time"')]

    assert [line for line in logged if line["level"] not in ("info", "debug")] == []


@pytest.mark.parametrize("era", ERAS)
def test_the_printed_key_lists_and_calls_the_demo(platform, era):
    assert TIME_TOOL in tool_names(f"{platform.url}/mcp", platform.demo_key(), era)

    answer = call(f"{platform.url}/mcp", platform.demo_key(), TIME_TOOL, {"timezone": "Europe/Paris"}, era)

    assert not answer.is_error, answer
    assert json.loads(answer.content[0].text)["timezone"] == "Europe/Paris"


def test_the_printed_key_calls_the_demo_over_stdio(platform):
    env = {**platform.env, "GATEHOUSE_KEY": platform.demo_key()}
    command = [sys.executable, "manage.py", "mcp", "stdio"]

    answer = call_over_stdio(command, env, str(PROJECT), TIME_TOOL, {"timezone": "UTC"})

    assert not answer.is_error, answer


def test_the_printed_account_opens_the_api(platform):
    email, password = re.search(r"Admin account\s+(\S+)\s+(\S+)", platform.output()).groups()
    body = json.dumps({"email": email, "password": password})

    done = subprocess.run(
        ["curl", "-sf", f"{platform.url}/api/v1/auth/login", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert json.loads(done.stdout)["access"]


def test_what_is_made_at_the_first_start_is_the_owners_alone(platform):
    assert [path for path in (platform.data / "secrets").iterdir() if path.stat().st_mode & 0o077] == []
    assert (platform.data / "gatehouse.sqlite3").stat().st_mode & 0o077 == 0


def test_a_second_start_on_the_same_folder_is_refused(platform):
    refused = up("--data", str(platform.data), "--port", str(free_port()))

    assert refused.returncode == 1
    assert f"runs on {platform.data} already, as process {platform.pid}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_in_use_is_said_in_one_sentence(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = up(GATEHOUSE_DATA=str(tmp_path), GATEHOUSE_PORT=port)

    assert refused.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be used: address already in use." in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "gatehouse.sqlite3").exists()


@pytest.mark.parametrize("flags", [["--port", "notaport"], ["--port"], ["--host", "203.0.113.7"]])
def test_a_flag_that_makes_no_sense_is_said_without_a_trace(tmp_path, flags):
    refused = up(*flags, GATEHOUSE_DATA=str(tmp_path), GATEHOUSE_PORT=str(free_port()))

    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert refused.stderr.strip()


def test_flags_do_what_the_variables_do_and_win(tmp_path):
    flagged, port = tmp_path / "flagged", free_port()
    flags = ("--data", str(flagged), "--port", str(port), "--no-demo")

    platform = Platform(tmp_path / "unused", *flags)
    platform.ready = f"http://127.0.0.1:{port}/ready"

    with platform:
        assert f"http://127.0.0.1:{port}/mcp" in platform.output()
        assert not url_answers(f"{platform.url}/ready")
    assert not (tmp_path / "unused").exists()


def test_two_that_start_at_once_on_one_database_both_come_up(tmp_path):
    database = f"sqlite://{tmp_path / 'shared.sqlite3'}"
    keys = {f"GATEHOUSE_{name}": "s" * 40 for name in ("SECRET_KEY", "KEY_PEPPER", "JOURNAL_KEY")}
    keys["GATEHOUSE_SEALING_KEYS"] = f"1:{base64.b64encode(b's' * 32).decode()}"
    both = [Platform(tmp_path / name, "--no-demo", DATABASE_URL=database, **keys) for name in ("one", "two")]
    started = [
        subprocess.Popen(each.command, cwd=PROJECT, env=each.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for each in both
    ]
    try:
        deadline = time.monotonic() + 180
        while not all(url_answers(f"{each.url}/ready") for each in both) and time.monotonic() < deadline:
            assert [process.stderr.read() for process in started if process.poll() is not None] == []
            time.sleep(0.1)
        assert all(url_answers(f"{each.url}/ready") for each in both)
    finally:
        for process in started:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize(("number", "statuses"), [(signal.SIGINT, {0, 130}), (signal.SIGTERM, {0})])
def test_a_signal_ends_everything_in_time(tmp_path, number, statuses):
    with ColdPlatform(tmp_path) as platform:
        call(f"{platform.url}/mcp", platform.demo_key(), TIME_TOOL, {"timezone": "UTC"})
        members = family(platform.pid)
        assert len(members) > 1, "the demo's child should be running"

        psutil.Process(platform.pid).send_signal(number)
        status = platform.popen.wait(SECONDS_TO_END)

        assert status in statuses
        assert [each for each in members if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        assert platform.group() == []
        assert "Traceback" not in platform.output()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_only_make_gets_ends_everything_too(tmp_path, number):
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"up:\n\t@exec {sys.executable} manage.py up --no-demo\n")
    platform = Platform(tmp_path / "data")
    # Whoever runs the tests in the background lets them ignore SIGINT; a person's terminal does not.
    platform.command = ["env", "--default-signal=INT", "make", "--file", str(makefile), "up"]

    with platform:
        members = family(platform.pid)
        assert len(members) == 2, "make and the platform"

        psutil.Process(platform.pid).send_signal(number)
        platform.popen.wait(SECONDS_TO_END)

        assert [each for each in members if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        assert "Traceback" not in platform.output()


def test_a_call_is_not_lost_on_a_clean_stop(tmp_path):
    with Platform(tmp_path) as platform:
        call(f"{platform.url}/mcp", platform.demo_key(), TIME_TOOL, {"timezone": "UTC"})
        platform.stop(signal.SIGTERM)
        counted = platform.manage(
            "shell", "-v", "0", "-c",
            "from apps.usage.models import UsageEvent as U; print(U.objects.filter(name__startswith='time').count())",
        )  # fmt: skip

    assert counted.stdout.strip() == "1", counted.stderr


def test_who_only_listens_keeps_nobody_waiting_at_the_end(tmp_path):
    with Platform(tmp_path, GATEHOUSE_MCP_SSE="1") as platform:
        doors, key = (platform.url,), platform.demo_key()
        old, new, piped = Speaker(doors, key, LEGACY), Speaker(doors, key, MODERN), SseSpeaker(doors, key, "2024-11-05")
        for each in (old, new, piped):
            each.begin()
        streams = [old.listen(), new.listen(), piped.stream]

        platform.stop(signal.SIGTERM)

        for stream in streams:
            rest_of(stream)
        assert "Cancel" not in platform.output()
        assert '"level": "error"' not in platform.output()


def test_the_second_start_makes_nothing_and_shows_no_secret(tmp_path):
    with Platform(tmp_path) as first:
        key = first.demo_key()
        first.stop(signal.SIGTERM)

    with Platform(tmp_path, port=first.port) as second:
        assert "Demo key" not in second.output()
        assert "Admin account" not in second.output()
        command = f"GATEHOUSE_DATA={tmp_path} {sys.executable} {PROJECT / 'manage.py'} provision --org SLUG"
        assert command in second.output()
        assert TIME_TOOL in tool_names(f"{second.url}/mcp", key)


def test_without_the_demo_nothing_is_made(tmp_path):
    with Platform(tmp_path, "--no-demo") as platform:
        assert "Demo key" not in platform.output()
        made = platform.provision("acme")

    assert made["platform_admin"]["email"]


@pytest.mark.measured
def test_the_second_start_is_quick(tmp_path):
    with ColdPlatform(tmp_path) as platform:
        platform.stop(signal.SIGTERM)
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        with ColdPlatform(tmp_path):
            seconds.append(time.monotonic() - began)

    assert statistics.median(seconds) <= SECONDS_TO_START, seconds


@pytest.mark.measured
def test_at_rest_it_is_small(tmp_path):
    with ColdPlatform(tmp_path, GATEHOUSE_STDIO_IDLE_SECONDS="2") as platform:
        call(f"{platform.url}/mcp", platform.demo_key(), TIME_TOOL, {"timezone": "UTC"})
        with_child = pss_mib(platform.pid)
        deadline = time.monotonic() + 30
        while len(family(platform.pid)) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(family(platform.pid)) == 1
        at_rest = pss_mib(platform.pid)

    assert with_child <= MIB_WITH_CHILD
    assert at_rest <= MIB_AT_REST
