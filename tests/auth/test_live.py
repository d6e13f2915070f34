"""The identity door of the whole application on a real port (attacks A11, A16, A28, and the second of A27)."""

import json
import logging
import time
from typing import Any

import pytest

from apps.auth import services
from tests.auth.forge import ME, sign_in
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)


class Lines(logging.Handler):
    """Keeps every line that is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        from apps.core.logs import JsonFormatter

        self.lines.append(JsonFormatter().format(record))


@pytest.fixture
def lines() -> Any:
    """What is logged meanwhile, at the loudest level, by everybody."""
    handler = Lines()
    loggers = [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.access", "uvicorn.error", "django", "mcp")]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler.lines
    for logger, level in before:
        logger.removeHandler(handler)
        logger.setLevel(level)


ADDRESSES = [ME, "/api/v1/mcp/servers", "/api/v1/audit/logs", "/api/v1/jobs"]


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("name", ["access_token", "token", "api_key"])
def test_a_credential_in_the_query_opens_nothing_and_is_not_logged(
    live: Any, alice: Person, lines: list[str], path: str, name: str
) -> None:
    for credential in (sign_in(alice).access, live.key(alice)):
        answer = live.anonymous().get(path, query={name: credential})

        assert answer.status == 401
        assert answer.json()["error"]["code"] == "NOT_AUTHENTICATED"
        assert credential not in answer.text
        assert not [line for line in lines if credential in line]
    assert lines, "nothing was logged at all, so nothing was shown"


def test_login_me_refresh_logout(live: Any, dora: Person) -> None:
    body = {"email": dora.email, "password": dora.password}
    pair = live.anonymous().post("/api/v1/auth/login", body).json()
    me = live.with_key(pair["access"]).get(ME)
    after = live.anonymous().post("/api/v1/auth/refresh", {"refresh": pair["refresh"]}).json()
    out = live.anonymous().post("/api/v1/auth/logout", {"refresh": after["refresh"]})

    assert me.json()["role"] == "developer"
    assert out.status == 204
    assert live.with_key(after["access"]).get(ME).status == 401


def test_hints_of_another_issuer_are_not_followed(live: Any, alice: Person) -> None:
    answer = live.anonymous().get(ME, headers={"X-User-Pool-Id": "evil", "X-Region": "evil", "X-Issuer": live.url})

    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_revoked_key_opens_nothing_on_rest_and_mcp_within_a_second(live: Any, dora: Person) -> None:
    made = services.create_key(dora.actor, name="agent")
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream"}
    assert live.with_key(made.plain).get(ME).status == 200
    assert live.with_key(made.plain).post("/mcp", call, headers=headers).status != 401

    services.revoke_key(dora.actor, key_id=made.key.id)
    time.sleep(1)

    assert live.with_key(made.plain).get(ME).status == 401
    assert live.with_key(made.plain).post("/mcp", call, headers=headers).status == 401


def test_a_token_for_rest_does_not_open_mcp(live: Any, dora: Person) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream"}

    assert live.with_key(sign_in(dora).access).post("/mcp", call, headers=headers).status == 401


def test_the_key_set_is_where_the_world_looks_for_it(live: Any) -> None:
    answer = live.anonymous().get("/.well-known/jwks.json")

    assert answer.status == 200
    assert answer.json()["keys"][0]["alg"] == "RS256"
    assert "max-age" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"email": NaN}', b'{"email":"\\u0000"}', b'{"a":1,"a":2}', b"[" * 9000]
)
def test_a_body_that_is_none_is_no_error_of_ours(live: Any, body: bytes) -> None:
    answer = live.anonymous().request("POST", "/api/v1/auth/login", body=body)

    assert answer.status in (400, 422)
    assert set(json.loads(answer.body)["error"]) == {"code", "message", "details", "timestamp", "request_id"}


def test_a_lock_out_answers_429_with_the_time_to_wait(live: Any, dora: Person) -> None:
    body = {"email": dora.email, "password": "wrong wrong wrong"}
    statuses = [
        live.anonymous().post("/api/v1/auth/login", body, headers={"X-Forwarded-For": f"198.51.100.{n}"})
        for n in range(6)
    ]

    assert [answer.status for answer in statuses] == [401] * 5 + [429]
    assert int(statuses[-1].headers["retry-after"]) > 0


def test_behind_a_proxy_the_lock_is_that_of_the_address_which_the_proxy_saw(
    live: Any, dora: Person, settings: Any
) -> None:
    settings.TRUSTED_PROXIES = 1

    def enter(password: str, forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded, "X-Real-IP": "192.0.2.99", "Forwarded": "for=192.0.2.99"}
        body = {"email": dora.email, "password": password}
        return int(live.anonymous().post("/api/v1/auth/login", body, headers=headers).status)

    # The proxy appends whom it saw: what comes before that is written by the attacker, anew each time.
    attacks = [enter("wrong wrong wrong", f"198.51.100.{number}, 203.0.113.9") for number in range(6)]

    assert attacks == [401] * 5 + [429]
    assert enter(dora.password, "198.51.100.77, 203.0.113.9") == 429
    assert enter(dora.password, "203.0.113.9, 192.0.2.7") == 200
