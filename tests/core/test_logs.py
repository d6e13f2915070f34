"""A log line is one line of JSON, says for whom it was written, and holds nothing secret."""

import json
import logging
import sys
import time

import pytest
from celery import Celery

from apps.core.actor import system_actor
from apps.core.ids import new_id
from apps.core.logs import REDACTED, JsonFormatter, current_actor, redact, request_id

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
KEY = "gate_0123456789abcdef_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\ndef==\n-----END RSA PRIVATE KEY-----"


def line(message, *values, **extra):
    record = logging.getLogger("test").makeRecord(
        "test", logging.INFO, "file.py", 1, message, values, extra.pop("exc_info", None), extra=extra
    )
    return JsonFormatter().format(record)


@pytest.mark.parametrize(
    "text",
    [
        f"key {KEY} was used",
        f"token {JWT}",
        f"Authorization: Bearer {JWT}",
        "Authorization: Bearer abcdef0123456789",
        "authorization: basic dXNlcjpodW50ZXIyaHVudGVyMg==",
        "postgres://gatehouse:hunter2hunter2@db:5432/gatehouse",
        "amqp://guest:hunter2hunter2@mq//",
        "redis://:hunter2hunter2@cache:6379/0",
        "https://api.example/v1?api_key=hunter2hunter2&x=1",
        "https://api.example/v1?access_token=hunter2hunter2",
        "https://api.example/v1?apikey=hunter2hunter2",
        'body {"password": "hunter2hunter2"}',
        "body {'password': 'hunter2hunter2'}",
        'body {"client_secret":"hunter2hunter2"}',
        'body {"refresh_token": "hunter2hunter2"}',
        "password=hunter2hunter2",
        "password: hunter2hunter2",
        "X-Api-Key: hunter2hunter2",
        "x-api-key=hunter2hunter2",
        "Cookie: sessionid=hunter2hunter2; csrftoken=hunter2hunter2",
        "Set-Cookie: sessionid=hunter2hunter2",
        "sk-hunter2hunter2hunter2hunter2hunter2",
        "ghp_hunter2hunter2hunter2hunter2hunter2",
        f"the key is {PEM}",
        PEM[:60],
        "token: Bearer hunter2hunter2",
        'password: "hunter2 is the word"',
        "password='hunter2 is the word'",
        'nested {\\"password\\": \\"hunter2hunter2\\"}',
        'cut off {"password": "hunter2hun',
        "https://hunter2hunter2@github.com/acme/repo",
        "postgres://user:hunter2@hunter2@db/x",
    ],
)
def test_secrets_are_masked_by_their_look(text):
    masked = redact(text)

    for planted in ("hunter2", "MIIE", "c2lnbmF0dXJl", "ABCDEFGHIJ", "abcdef0123456789", "dXNlcjpodW"):
        assert planted not in masked
    assert REDACTED in masked


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "passwd", "passphrase", "client_secret", "secret", "token", "access_token", "api_key",
     "apikey", "X-Api-Key", "Authorization", "cookie", "Set-Cookie", "credential", "pepper", "private_key",
     "sealing_key", "signing_key"],
)  # fmt: skip
def test_secrets_are_masked_by_the_name_they_are_kept_under(name):
    assert redact({name: "hunter2"}) == {name: REDACTED}
    assert redact({"outer": [{name: ["hunter2"]}]}) == {"outer": [{name: REDACTED}]}


@pytest.mark.parametrize(
    "value",
    ["The server weather was registered.", "https://example.org/a?b=c", "key 7", "a token was refused",
     "user@example.org",
     {"name": "weather", "port": 8000, "tags": ["a"], "none": None}, 7, None, True, "12:30:45 basic facts"],
)  # fmt: skip
def test_what_is_no_secret_stays_readable(value):
    assert redact(value) == value


def test_empty_secrets_are_not_masked_so_that_their_absence_shows():
    assert redact({"password": "", "token": None}) == {"password": "", "token": None}


@pytest.mark.parametrize("nasty", ["a\nb", "a\r\nb", "\x1b[31mred", "\u2028", "\u0085", "half \ud800", "\x00"])
def test_a_line_stays_one_line_whatever_it_says(nasty):
    text = line("said %s", nasty, extra_field=nasty)

    assert len(text.splitlines()) == 1 and text.isascii() and text.isprintable()
    assert json.loads(text)["message"] == f"said {nasty}"


def test_a_line_says_for_whom_it_was_written():
    organization_id = new_id()
    tokens = request_id.set("r-1"), current_actor.set(system_actor(organization_id, surface="mcp"))

    fields = json.loads(line("hello"))
    request_id.reset(tokens[0])
    current_actor.reset(tokens[1])

    assert {"time", "level", "logger", "message"} <= set(fields)
    assert (fields["request_id"], fields["org_id"], fields["surface"]) == ("r-1", str(organization_id), "mcp")


def test_extra_fields_and_traces_are_masked_too():
    try:
        raise ValueError(f"could not use postgres://u:hunter2hunter2@db/ with {KEY}")
    except ValueError:
        text = line("failed", exc_info=sys.exc_info(), password="hunter2hunter2", headers={"Authorization": "hunter2"})

    assert "hunter2" not in text and KEY not in text
    assert "ValueError" in json.loads(text)["trace"]


def test_values_that_are_no_json_are_written_as_text():
    assert json.loads(line("x", when=new_id(), many={1, 2}, key=b"bytes"))["message"] == "x"


@pytest.mark.parametrize(
    "piece",
    ["a", "password", "password=", "password: '", 'secret="', "bearer ", "://", "://a", "://a:b", "-----BEGIN ",
     "eyJ", "eyJaaaaaaaa.",
     "-----BEGIN PRIVATE KEY-----", "gate_", "sk-", "cookie:", " ", "token  ", "=:", "\\\""],
)  # fmt: skip
def test_masking_takes_linear_time(piece):
    started = time.process_time()

    redact(piece * (400_000 // len(piece)))

    assert time.process_time() - started < 2


def test_what_celery_says_of_a_task_that_failed_repeats_no_argument(caplog: pytest.LogCaptureFixture) -> None:
    canary = "Canary-5f1c7b2e9d"
    app = Celery("of this test", set_as_current=False)

    @app.task(name="of.this.test")
    def fail(url: str, *, password: str) -> None:
        raise ValueError(f"{url} refused Authorization: Bearer {password}")

    with caplog.at_level(logging.DEBUG):
        fail.apply(args=[f"https://user:{canary}@vendor.example/?api_key={canary}"], kwargs={"password": canary})

    told = [JsonFormatter().format(record) for record in caplog.records]
    assert any("of.this.test" in line and "Traceback" in line for line in told)
    assert any(canary in str(vars(record)) for record in caplog.records), "Celery said nothing that had to be masked"
    assert not [line for line in told if canary in line]
