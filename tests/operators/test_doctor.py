"""`manage.py doctor`: each planted fault is named, and its cure, typed in, cures it."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures import warm
from tests.fixtures.servers import PROJECT, evil_upstream, free_port
from tests.journeys.platform import Platform, clean_environment

SLOWEST_BEAT_SECONDS = 180


@dataclass(frozen=True)
class Fault:
    """What is planted by variables, and the line that must name it."""

    what: str
    why: str
    env: dict[str, str]


FORGET = 'from apps.registry.models import *; Server.objects.filter(slug__startswith="planted").delete()'
OFF = "from django_celery_beat.models import PeriodicTask; PeriodicTask.objects.update(enabled=False)"
FAULTS = {
    "a setting given twice": Fault(
        "setting GATEHOUSE_KEY", "both set", {"GATEHOUSE_KEY": "k", "GATEHOUSE_KEY_FILE": "/dev/null"}
    ),
    "a missing file": Fault("setting GATEHOUSE_KEY", "No such file", {"GATEHOUSE_KEY_FILE": "/nowhere/key"}),
    "production without its secrets": Fault(
        "setting GATEHOUSE_SEALING_KEYS", "must be given in production", {"GATEHOUSE_ENV": "production"}
    ),
    "a data folder that is none": Fault("setting GATEHOUSE_DATA", "cannot be used", {"GATEHOUSE_DATA": "/dev/null/d"}),
    "keys that seal something else": Fault(
        "sealing keys", "not the one that sealed", {"GATEHOUSE_SEALING_KEYS": f"1:{b64encode(bytes(32)).decode()}"}
    ),
}  # fmt: skip
"""They keep Django from starting, or change where everything is; what can be wrong beside others is planted below."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with its demo that has run for long enough for its worker to be seen."""
    with Platform(tmp_path_factory.mktemp("doctor")) as started:
        wait_for_worker(started.env)
        yield started


def wait_for_worker(env: dict[str, str]) -> None:
    """Return when the doctor has seen a worker."""
    deadline = time.monotonic() + SLOWEST_BEAT_SECONDS
    while (worker := find(doctor("", env)[0], "worker"))["state"] != "ok":
        assert time.monotonic() < deadline, worker
        time.sleep(1)


def doctor(first: str, env: dict[str, str]) -> tuple[list[dict[str, str]], int]:
    """Findings and status, after something else was typed into the same shell."""
    done = subprocess.run(
        ["bash", "-c", f"{first}\n{warm.command_line('manage.py', 'doctor', '--json')}"],
        cwd=PROJECT, env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("{") or first, done.stderr
    return json.loads(done.stdout[done.stdout.index("{\n") :])["findings"], done.returncode


def find(findings: list[dict[str, str]], what: str) -> dict[str, str]:
    """The line about one part."""
    return next((each for each in findings if each["what"] == what), {"state": "absent", "what": what})


def wrong(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    """What is not well."""
    return [each for each in findings if each["state"] == "wrong"]


@pytest.mark.slow_process
def test_nothing_is_wrong_with_a_fresh_platform(platform):
    findings, status = doctor("", platform.env)

    assert (wrong(findings), status) == ([], 0)
    assert {each["what"] for each in findings} == {
        *("settings", "secret files", "disk", "port", "cache", "broker", "database", "migrations", "clock"),
        *("sealing keys", "second factors", "worker", "schedules", "jobs", "server demo/time"),
        *("egress allowlist", "stdio allowlist"),
    }


@pytest.mark.slow_process
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_and_its_cure_cures_it(name, platform, tmp_path):
    fault = FAULTS[name]
    env = {**platform.env, "HOME": str(tmp_path), **fault.env}

    findings, status = doctor("", env)
    named = find(findings, fault.what)
    assert (named["state"], status) == ("wrong", 1), findings
    assert fault.why in named["why"]

    # Production lacks several settings; all of what is named is typed, line by line.
    cures = "\n".join(each["cure"] for each in wrong(findings))
    after, _ = doctor(cures, env)
    assert find(after, fault.what)["state"] in ("ok", "absent", "note"), after


PLANT = (
    f"{OFF}\n"
    + """
from apps.auth.models import Organization
from apps.registry.models import Server
from django.utils import timezone
organization = Organization.objects.get()
def plant(end, **fields):
    fields = {{"slug": f"planted-{{end}}", "check_interval_seconds": 3600, **fields}}
    Server(organization=organization, name="Planted", **fields).store()
now = timezone.now()
plant("down", url="http://127.0.0.1:{port}/mcp", health="unhealthy", health_message="Nothing answers.", checked_at=now)
plant("private", url="http://localhost:{port}/mcp", health="healthy", checked_at=now)
plant("unlisted", transport="stdio", command=["mcp-server-time", "--local-timezone", "Europe/Paris"])
plant("missing", transport="stdio", command=["mcp-server-planted"])
"""
)
MANY = {
    "setting GATEHOUSE_LOG_LEVLE", "setting BREAKER_FAILURES", "secret files", "port", "cache", "broker", "migrations",
    "schedules", "server demo/planted-down", "server demo/planted-private", "server demo/planted-unlisted",
    "server demo/planted-missing",
}  # fmt: skip
ROUNDS = 5


@pytest.mark.slow_process
def test_twelve_faults_at_once_are_all_named_and_cured_by_typing_what_it_says(platform, tmp_path):
    port, programs = free_port(), tmp_path / "bin"
    programs.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        env = {
            **platform.env, "HOME": str(tmp_path), "PATH": f"{programs}:{platform.env['PATH']}",
            "GATEHOUSE_LOG_LEVLE": "info", "BREAKER_FAILURES": "five", "REDIS_URL": "redis://127.0.0.1:1/0",
            "BROKER_URL": "amqp://u:hidden@127.0.0.1:1//", "GATEHOUSE_PORT": str(squatter.getsockname()[1]),
            "GATEHOUSE_EGRESS_ALLOW": f"127.0.0.1:{port}", "GATEHOUSE_STDIO_ALLOW": "mcp-server-planted",
        }  # fmt: skip
        (platform.data / "secrets" / "gatehouse_key_pepper").chmod(0o644)
        for planting in (("shell", "--command", PLANT.format(port=port)), ("migrate", "sessions", "zero")):
            planted = platform.manage(*planting)
            assert planted.returncode == 0, planted.stderr

        # What cannot be typed is done as its line says: the server is started, the program is installed.
        with evil_upstream(port):
            named, findings = type_every_cure(env, programs / "mcp-server-planted")
        platform.manage("shell", "--command", FORGET)

    assert (set(named), wrong(findings)) == (MANY, [])
    assert "Start it, then look again" in named["server demo/planted-down"]
    assert "Install it" in named["server demo/planted-missing"]
    assert find(findings, "server demo/planted-missing")["state"] == "ok"
    assert "hidden" not in json.dumps(named)


def type_every_cure(env: dict[str, str], program: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Type what the doctor says in one shell until nothing is wrong: why each part was first, and the last findings."""
    named: dict[str, str] = {}
    kept, typed = "", ""
    for _ in range(ROUNDS):
        findings, _ = doctor(kept + typed, env)
        if not wrong(findings):
            break
        kept += "".join(line for line in typed.splitlines(keepends=True) if line.startswith(("export ", "unset ")))
        typed = "".join(f"{each['cure']}\n" for each in wrong(findings))
        named = {**{each["what"]: each["why"] for each in wrong(findings)}, **named}
        if not program.exists() and "Install it" in named.get("server demo/planted-missing", ""):
            program.symlink_to(Path(sys.executable).parent / "mcp-server-time")
    return named, findings


@pytest.mark.slow_process
def test_an_empty_folder_is_led_to_a_running_platform_by_cures_alone(tmp_path):
    env = clean_environment(GATEHOUSE_DATA=str(tmp_path / "data"), GATEHOUSE_PORT=str(free_port()))
    findings, _ = doctor("", env)
    assert find(findings, "database")["why"].startswith("There is no database yet")
    assert not (tmp_path / "data" / "gatehouse.sqlite3").exists()

    findings, status = doctor(find(findings, "database")["cure"] + " > /dev/null", env)
    assert (find(findings, "migrations")["state"], status) == ("ok", 1)
    assert find(findings, "worker")["why"].startswith("Neither schedule nor worker runs")

    up = subprocess.Popen(
        shlex.split(find(findings, "worker")["cure"]), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_worker(env)
        assert wrong(doctor("", env)[0]) == []
    finally:
        up.terminate()
        up.wait(60)


@pytest.mark.slow_process
def test_a_database_without_its_tables_is_migrated_by_the_cure(tmp_path):
    env = clean_environment(GATEHOUSE_DATA=str(tmp_path))
    (tmp_path / "gatehouse.sqlite3").touch()
    named = find(doctor("", env)[0], "migrations")

    assert "migrations are not applied" in named["why"]
    assert find(doctor(named["cure"] + " > /dev/null", env)[0], "migrations")["state"] == "ok"


@pytest.mark.slow_process
def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path):
    env = clean_environment(GATEHOUSE_DATA=str(tmp_path), DATABASE_URL="postgres://someone:hidden@127.0.0.1:1/gate")
    findings, status = doctor("", env)
    named = find(findings, "database")

    assert (named["state"], status) == ("wrong", 1)
    assert "127.0.0.1:1/gate does not answer" in named["why"]
    assert "systemctl start postgresql" in named["cure"]
    assert "hidden" not in json.dumps(findings)


# One part at a time -----------------------------------------------------------------------------------------------


def test_a_misspelt_secret_is_not_repeated(monkeypatch):
    from config.doctor import environment
    from config.env import env

    env.cache_clear()
    monkeypatch.setenv("GATEHOUSE_SECRET_KYE", "canary-0123456789-0123456789-0123456789")
    try:
        findings = environment.examine_settings()
    finally:
        monkeypatch.undo()
        env.cache_clear()

    assert findings[0].cure == 'export GATEHOUSE_SECRET_KEY="$GATEHOUSE_SECRET_KYE"; unset GATEHOUSE_SECRET_KYE'
    assert "canary" not in repr(findings)


def test_a_setting_of_the_file_is_cured_in_the_file(monkeypatch, tmp_path):
    from config.doctor import findings

    file = tmp_path / ".env"
    file.write_text("GATEHOUSE_PORT=eighty\nexport GATEHOUSE_HOST='::'\n")
    monkeypatch.setattr("config.doctor.findings.BASE_DIR", tmp_path)
    monkeypatch.setattr(
        "config.doctor.findings.given_in_file", lambda: {"GATEHOUSE_PORT": "eighty", "GATEHOUSE_HOST": "::"}
    )
    for cure in (findings.drop_variable("GATEHOUSE_PORT"), findings.set_variable("GATEHOUSE_HOST", "a b")):
        subprocess.run(["bash", "-c", cure], check=True)

    assert file.read_text() == "GATEHOUSE_HOST='a b'\n"


def test_a_secret_that_was_never_made_is_made_once_by_the_cure(monkeypatch, tmp_path):
    from config.doctor import environment

    monkeypatch.setenv("GATEHOUSE_DATA", str(tmp_path))
    cure = environment._cure("GATEHOUSE_SEALING_KEYS", "must be given in production")
    done = subprocess.run(
        ["bash", "-c", f"{cure}; cat $GATEHOUSE_SEALING_KEYS_FILE"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )

    assert done.stdout.startswith("1:")
    path = Path(tmp_path / "secrets" / "gatehouse_sealing_keys")
    assert path.stat().st_mode & 0o077 == 0
    assert environment._cure("GATEHOUSE_SEALING_KEYS", "must be given in production") == (
        f"export GATEHOUSE_SEALING_KEYS_FILE={path}"
    )


@pytest.mark.parametrize(("apart", "state"), [(0.4, "ok"), (-4.9, "ok"), (5.1, "wrong"), (-3600, "wrong")])
def test_clocks_may_not_be_far_apart(apart, state):
    from config.doctor import parts

    assert parts.judge_clock(apart).state == state


def test_an_examination_that_fails_hides_none_of_the_others():
    from config import doctor

    def fail():
        raise RuntimeError("with a secret in it")

    found = doctor._guarded("disk", fail)
    assert (found[0].state, "secret" in found[0].why) == ("wrong", False)
    assert found[0].cure.endswith("manage.py check --traceback")


def test_a_full_disk_is_named(monkeypatch):
    from config.doctor import parts

    monkeypatch.setattr(
        parts.shutil, "disk_usage", lambda _: parts.shutil._ntuple_diskusage(100 << 30, 99 << 30, 1 << 30)
    )

    assert parts.examine_disk().state == "wrong"


def test_a_disk_that_is_nearly_full_is_named_and_what_fills_it_is_shown(settings, tmp_path):
    from config.doctor import parts

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=520m", "none", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("Only root may make a disk.")
    try:
        settings.DATA_DIR = disk
        assert parts.examine_disk().state == "ok"
        (disk / "ballast").write_bytes(bytes(40 * 1024**2))

        named = parts.examine_disk()
        shown = subprocess.run(["bash", "-c", named.cure], capture_output=True, text=True, check=True).stdout

        assert named.state == "wrong" and "Make room" in named.why
        assert "40M\t" in shown
        (disk / "ballast").unlink()
        assert parts.examine_disk().state == "ok"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_port_that_another_program_holds_is_named_with_one_that_is_free(settings):
    from dataclasses import replace

    from config.doctor import port

    with socket.create_server(("127.0.0.1", 0)) as squatter:
        settings.ENV = replace(settings.ENV, host="127.0.0.1", port=squatter.getsockname()[1])
        named = port.examine_port()
        assert (named.state, "Another program" in named.why) == ("wrong", True)
        settings.ENV = replace(settings.ENV, port=int(named.cure.partition("=")[2]))
        assert port.examine_port().state == "ok"

    settings.ENV = replace(settings.ENV, host="192.0.2.1")
    assert port.examine_port().cure == "unset GATEHOUSE_HOST"


@pytest.mark.django_db
def test_a_program_that_is_listed_but_not_installed_is_not_to_be_listed_again(alice, settings):
    from config.doctor import upstreams
    from tests.factories.registry import ServerFactory

    settings.STDIO_ALLOW = ("no-such-program --quick",)
    ServerFactory(organization=alice.organization, transport="stdio", url="", command=["no-such-program", "--quick"])
    (named,) = upstreams.examine_servers()

    assert (named.state, "Install it" in named.why) == ("wrong", True)
    assert named.cure.endswith("manage.py doctor --check")


@pytest.mark.django_db
def test_a_command_line_is_listed_by_its_cure_argument_by_argument(alice):
    from apps.registry.backends import commands
    from config.doctor import upstreams
    from tests.factories.registry import ServerFactory

    command = ["/bin/cat", "a file", "-n", "$HOME;x"]
    ServerFactory(organization=alice.organization, transport="stdio", url="", command=command)
    (named,) = upstreams.examine_servers()
    typed = f'{named.cure}; printf %s "$GATEHOUSE_STDIO_ALLOW"'
    entry = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True).stdout

    assert (named.state, commands.matches(entry, command)) == ("wrong", True)


@pytest.mark.django_db
def test_servers_of_all_organisations_are_named_with_their_last_check(alice, bob):
    from django.utils import timezone

    from config.doctor import upstreams
    from tests.factories.registry import ServerFactory

    now = timezone.now()
    ServerFactory(organization=alice.organization, slug="well", health="healthy", checked_at=now)
    ServerFactory(
        organization=bob.organization, slug="ill", health="unhealthy", checked_at=now, health_message="It is gone."
    )
    found = {each.what: each for each in upstreams.examine_servers()}

    assert found["server acme/well"].state == "ok"
    assert found["server globex/ill"].state == "wrong"
    assert "It is gone." in found["server globex/ill"].why
    assert found["server globex/ill"].cure.endswith("manage.py doctor --check")


@pytest.mark.django_db
def test_an_allowance_that_no_server_needs_is_noted(alice, settings, monkeypatch):
    from config.doctor import upstreams
    from config.env import env
    from tests.factories.registry import ServerFactory

    settings.EGRESS_ALLOW = frozenset({"127.0.0.1:3001", "[::1]:3002"})
    ServerFactory(organization=alice.organization, url="http://127.0.0.1:3001/mcp")
    ServerFactory(organization=alice.organization, url="http://[::1]:3002/mcp")
    made = type(
        "Env", (), {"egress_allow": ("127.0.0.1:3001", "::1:3002", "old.internal:80"), "stdio_allow": ("cat -n *",)}
    )
    monkeypatch.setattr(upstreams, "env", lambda: made)
    egress, stdio = upstreams.examine_lists()

    assert (egress.state, stdio.state) == ("note", "note")
    assert egress.cure == "export GATEHOUSE_EGRESS_ALLOW=127.0.0.1:3001,::1:3002"
    assert stdio.cure == "unset GATEHOUSE_STDIO_ALLOW"
    assert env().egress_allow == ()


@pytest.mark.django_db
def test_a_silent_worker_is_told_apart_from_a_silent_schedule():
    from django.utils import timezone
    from django_celery_beat.models import PeriodicTask

    from apps.jobs import services as jobs
    from config.doctor import parts

    made = jobs.ensure_schedule("jobs.requeue", "jobs.requeue", 15)
    assert next(parts.examine_schedule()).why.startswith("Neither schedule nor worker")

    PeriodicTask.objects.filter(pk=made.pk).update(last_run_at=timezone.now())
    assert "no worker takes" in next(parts.examine_schedule()).why

    jobs.note_alive("jobs.requeue")
    assert next(parts.examine_schedule()).state == "ok"


@pytest.mark.django_db
def test_a_schedule_that_nothing_has_written_is_named():
    from config.background import ensure_schedules
    from config.doctor import parts

    named = next(each for each in parts.examine_schedule() if each.what == "schedules")
    assert (named.state, "jobs.requeue" in named.why) == ("wrong", True)
    assert "ensure_schedules()" in named.cure

    ensure_schedules()
    assert next(each for each in parts.examine_schedule() if each.what == "schedules").state == "ok"


def test_separate_processes_are_started_through_the_broker(settings):
    from dataclasses import replace

    from config.doctor import parts

    settings.ENV = replace(settings.ENV, broker_url="amqp://127.0.0.1:5672//")
    worker, beat = parts._start_command().split(" & ")
    assert (worker.partition("manage.py ")[2], beat.partition("manage.py ")[2]) == (
        "up --role worker", "up --role beat",
    )  # fmt: skip
