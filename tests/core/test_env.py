"""Settings: a wrong one stops the start with its name and the cure; a good start needs none."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apps.core.keyfiles import new_signing_key
from config.env import SECRET_VARIABLES, SettingsError, read, variables

PROJECT = Path(__file__).parent.parent.parent
KEY_32 = base64.b64encode(b"k" * 32).decode()
SIGNING_KEY = new_signing_key()
PRODUCTION = {
    "GATEHOUSE_ENV": "production",
    "GATEHOUSE_PUBLIC_URL": "https://gate.example.org",
    "GATEHOUSE_SECRET_KEY": "s" * 50,
    "GATEHOUSE_KEY_PEPPER": "p" * 50,
    "GATEHOUSE_JOURNAL_KEY": "j" * 50,
    "GATEHOUSE_SEALING_KEYS": f"1:{KEY_32}",
    "GATEHOUSE_SIGNING_KEY": SIGNING_KEY,
}


@pytest.fixture
def given(tmp_path):
    """A development installation with an empty data folder."""
    return {"GATEHOUSE_DATA": str(tmp_path / "data")}


def refusal(given):
    with pytest.raises(SettingsError) as refused:
        read(given)
    return str(refused.value)


def test_nothing_needs_to_be_set(given):
    env = read(given)

    assert (env.port, env.env, env.database_url, env.base_url) == (8000, "development", None, "http://127.0.0.1:8000")


def test_secrets_are_made_once_and_kept_for_their_owner_alone(given, tmp_path):
    first, second = read(given), read(given)

    assert first == second
    folder = tmp_path / "data" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = sorted(folder.iterdir())
    assert len(kept) == 5 and {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert len({first.secret_key, first.key_pepper, first.journal_key}) == 3


def test_processes_that_start_together_agree_on_the_secrets(given):
    code = "import os; from config.env import read; print(hash(str(read(dict(os.environ)).secret_key)))"
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "1", **given}
    starts = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]

    answers = {start.communicate(timeout=180)[0] for start in starts}

    assert len(answers) == 1 and all(start.returncode == 0 for start in starts)


def test_a_secret_may_come_from_a_file(given, tmp_path):
    file = tmp_path / "pepper"
    file.write_text("x" * 40 + "\n")

    assert read({**given, "GATEHOUSE_KEY_PEPPER_FILE": str(file)}).key_pepper == "x" * 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEHOUSE_PORT", "0"), ("GATEHOUSE_PORT", "65536"), ("GATEHOUSE_PORT", "eighty"), ("GATEHOUSE_PORT", "-1"),
        ("GATEHOUSE_PORT", "80 80"), ("GATEHOUSE_PORT", "٨٠"), ("GATEHOUSE_PORT", "1e3"),
        ("GATEHOUSE_DEV", "maybe"), ("GATEHOUSE_DEV", "2"),
        ("GATEHOUSE_ENV", "prod"), ("GATEHOUSE_LOG_LEVEL", "loud"),
        ("GATEHOUSE_PUBLIC_URL", "gate.example.org"), ("GATEHOUSE_PUBLIC_URL", "ftp://x"), ("GATEHOUSE_PUBLIC_URL", "https://"),
        ("GATEHOUSE_PUBLIC_URL", "https://x:port"), ("GATEHOUSE_PUBLIC_URL", "https://x:99999"),
        ("GATEHOUSE_EGRESS_ALLOW", "localhost"), ("GATEHOUSE_EGRESS_ALLOW", "a:1,b"), ("GATEHOUSE_EGRESS_ALLOW", "a:0"),
        ("DATABASE_URL", "mysql://x/y"), ("DATABASE_URL", "postgres://"), ("DATABASE_URL", "gatehouse"),
        ("DATABASE_URL", "postgres://x:y:z/db"),
        ("REDIS_URL", "http://x"), ("BROKER_URL", "kafka://x"), ("BROKER_URL", "memory://"),
        ("UPSTREAM_TIMEOUT_SECONDS", "0"), ("UPSTREAM_TIMEOUT_SECONDS", "-1"), ("UPSTREAM_TIMEOUT_SECONDS", "30s"),
        ("UPSTREAM_TIMEOUT_SECONDS", "nan"), ("UPSTREAM_TIMEOUT_SECONDS", "inf"), ("BREAKER_FAILURES", "five"),
        ("GATEHOUSE_SECRET_KEY", "short"), ("GATEHOUSE_KEY_PEPPER", "x" * 31), ("GATEHOUSE_JOURNAL_KEY", "x"),
        ("GATEHOUSE_SEALING_KEYS", "1:short"), ("GATEHOUSE_SEALING_KEYS", "nonsense"), ("GATEHOUSE_SEALING_KEYS", ","),
        ("GATEHOUSE_SEALING_KEYS", "x:" + KEY_32), ("GATEHOUSE_SEALING_KEYS", "1:ü"),
        ("GATEHOUSE_SEALING_KEYS", f"1:{KEY_32},1:{KEY_32}"), ("GATEHOUSE_SEALING_KEYS", "²:" + KEY_32),
        ("GATEHOUSE_SIGNING_KEY", "not a key"), ("GATEHOUSE_SECRET_KEY_FILE", "/nowhere/at/all"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(given, name, value):
    message = refusal({**given, name: value})

    assert name.removesuffix("_FILE") in message
    assert "Traceback" not in message


def test_a_wrong_secret_is_not_repeated_in_the_refusal(given):
    for name in sorted(SECRET_VARIABLES - {"GATEHOUSE_KEY"}):
        assert "hunter2" not in refusal({**given, name: "hunter2://hunter2:x@hunter2"})


@pytest.mark.parametrize("password", ["hunter2/x", "hunter2#x", "hunter2?x", "x/hunter2", "hunter2:hunter2/"])
def test_a_password_that_breaks_its_address_is_not_repeated(given, password):
    for name, scheme in (("DATABASE_URL", "postgres"), ("REDIS_URL", "redis"), ("BROKER_URL", "amqp")):
        message = refusal({**given, name: f"{scheme}://gatehouse:{password}@db.example:5432/gatehouse"})

        assert name in message
        assert "%2F" in message
        assert "hunter2" not in message


def test_every_wrong_setting_is_named_at_once(given):
    message = refusal({**given, "GATEHOUSE_PORT": "x", "DATABASE_URL": "y", "GATEHOUSE_DEV": "z"})

    assert all(name in message for name in ("GATEHOUSE_PORT", "DATABASE_URL", "GATEHOUSE_DEV"))


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("DATABSE_URL", "DATABASE_URL"), ("DATABASE_URI", "DATABASE_URL"), ("REDIS_ULR", "REDIS_URL"),
     ("BROKER_UR", "BROKER_URL"), ("GATEHOUSE_PROT", "GATEHOUSE_PORT"), ("GATEHOUSE_SECRETKEY", "GATEHOUSE_SECRET_KEY"),
     ("UPSTREAM_TIMEOUT", "UPSTREAM_TIMEOUT_SECONDS"), ("BREAKER_FAILURE", "BREAKER_FAILURES"),
     ("GATEHOUSE_JOURNAL_KEY_FIL", "GATEHOUSE_JOURNAL_KEY"), ("gatehouse_port", "GATEHOUSE_PORT")],
)  # fmt: skip
def test_a_misspelt_name_is_refused_with_the_nearest_one(given, misspelt, meant):
    message = refusal({**given, misspelt: "1"})

    assert misspelt in message and f"Did you mean {meant}?" in message


def test_an_unknown_name_of_ours_is_refused_even_when_nothing_is_near(given):
    assert "GATEHOUSE_FLUX" in refusal({**given, "GATEHOUSE_FLUX": "1"})


def test_names_of_other_programs_are_left_alone(given):
    read({**given, "PATH": "/bin", "HOME": "/", "PGHOST": "x", "KUBERNETES_PORT": "tcp://x", "REDIS_PORT": "x"})


def test_a_secret_given_twice_is_refused(given, tmp_path):
    file = tmp_path / "key"
    file.write_text("x" * 40)

    message = refusal({**given, "GATEHOUSE_SECRET_KEY": "y" * 40, "GATEHOUSE_SECRET_KEY_FILE": str(file)})

    assert "GATEHOUSE_SECRET_KEY" in message and "both" in message


def test_production_starts_when_everything_is_given(given):
    env = read({**given, **PRODUCTION})

    assert env.is_production and env.base_url == "https://gate.example.org"


@pytest.mark.parametrize("name", ["production", "staging"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"GATEHOUSE_SECRET_KEY": ""}, "GATEHOUSE_SECRET_KEY"),
        ({"GATEHOUSE_KEY_PEPPER": ""}, "GATEHOUSE_KEY_PEPPER"),
        ({"GATEHOUSE_JOURNAL_KEY": ""}, "GATEHOUSE_JOURNAL_KEY"),
        ({"GATEHOUSE_SEALING_KEYS": ""}, "GATEHOUSE_SEALING_KEYS"),
        ({"GATEHOUSE_SIGNING_KEY": ""}, "GATEHOUSE_SIGNING_KEY"),
        ({"GATEHOUSE_SECRET_KEY": "changeme"}, "GATEHOUSE_SECRET_KEY"),
        ({"GATEHOUSE_PUBLIC_URL": ""}, "GATEHOUSE_PUBLIC_URL"),
        ({"GATEHOUSE_PUBLIC_URL": "http://gate.example.org"}, "GATEHOUSE_PUBLIC_URL"),
        ({"GATEHOUSE_ALLOWED_HOSTS": "*"}, "GATEHOUSE_ALLOWED_HOSTS"),
        ({"GATEHOUSE_ALLOWED_HOSTS": "a.example, *"}, "GATEHOUSE_ALLOWED_HOSTS"),
        ({"GATEHOUSE_DEV": "1"}, "GATEHOUSE_DEV"),
    ],
)
def test_production_refuses_unsafe_defaults(given, name, change, named):
    message = refusal({**given, **PRODUCTION, "GATEHOUSE_ENV": name, **change})

    assert named in message


def test_a_refused_start_makes_no_secrets(given, tmp_path):
    refusal({**given, "GATEHOUSE_PORT": "x"})

    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="needs a folder that refuses")
def test_a_data_folder_that_cannot_be_used_is_named():
    assert "GATEHOUSE_DATA" in refusal({"GATEHOUSE_DATA": "/proc/gatehouse"})


def test_a_secret_file_that_was_emptied_is_refused(given, tmp_path):
    read(given)
    (tmp_path / "data" / "secrets" / "gatehouse_secret_key").write_text("")

    assert "GATEHOUSE_SECRET_KEY" in refusal(given)


def test_every_variable_has_a_sentence():
    for variable in variables():
        assert variable["about"].endswith("."), variable["name"]


def test_the_start_ends_with_the_message_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=180,
        env={"PATH": os.environ["PATH"], "GATEHOUSE_DATA": str(tmp_path), "DATABSE_URL": "postgres://x/y"},
    )  # fmt: skip

    assert done.returncode != 0
    assert "DATABSE_URL" in done.stderr and "Did you mean DATABASE_URL?" in done.stderr
    assert "Traceback" not in done.stderr
