"""What we give to a server does not come back through it, whatever it repeats."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from apps.core.errors import BackendError
from apps.registry.backends.http import StreamableHttp
from apps.registry.backends.masking import secrets_of, without_secrets
from apps.registry.services.reading import read_all
from tests.fixtures.servers import free_port, gossip
from tests.registry.conftest import make_route, run

AWKWARD = 'Tr0ub4dor/&"3+\\=='
BASIC = "Basic " + base64.b64encode(f"alice:{AWKWARD}".encode()).decode()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the gossip is."""
    number = free_port()
    with gossip(number):
        yield number


@pytest.mark.parametrize(
    "spelling",
    [
        str, json.dumps, lambda secret: json.dumps(json.dumps(secret))[1:-1], quote,
        lambda secret: quote(secret, safe=""), lambda secret: json.dumps(secret).replace("/", "\\/"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {AWKWARD}"}, {"X-Vendor": AWKWARD}, {"Authorization": BASIC}]
)
def test_a_secret_is_found_in_every_spelling(headers: dict[str, str], spelling: Any) -> None:
    secrets = secrets_of(make_route(headers=headers))
    said = {"a": [f"You sent {spelling(AWKWARD)}!"], f"key {spelling(AWKWARD)}": 1}

    masked = json.dumps(without_secrets(said, secrets))

    assert "Tr0ub4dor" not in masked
    assert masked.count("[redacted]") >= 2


def test_the_whole_header_of_the_basic_scheme_is_found_too() -> None:
    secrets = secrets_of(make_route(headers={"Authorization": BASIC}))

    assert without_secrets(f"{BASIC} is alice:{AWKWARD}", secrets) == "[redacted] is [redacted]"


def test_only_variables_that_are_called_secret_are_masked() -> None:
    secrets = secrets_of(
        make_route(env={"API_TOKEN": "a-token-of-theirs", "ZONE": "Europe/London", "PASSWORD": "short"})
    )

    assert without_secrets("a-token-of-theirs in Europe/London, short", secrets) == (
        "[redacted] in Europe/London, short"
    )


def test_what_is_nested_deeper_than_the_stack_is_masked_too() -> None:
    deep: Any = "a-secret-of-ours"
    for _ in range(5_000):
        deep = [deep]

    shown = without_secrets(deep, ["a-secret-of-ours"])

    while isinstance(shown, list):
        [shown] = shown
    assert shown == "[redacted]"


@pytest.mark.slow_process
@pytest.mark.parametrize("place", ["error", "refusal", "unauthorized", "type", "list", "call", "hello"])
def test_no_door_to_a_server_lets_its_own_credential_back_in(port: int, place: str, settings: Any) -> None:
    settings.EGRESS_ALLOW = frozenset({f"127.0.0.1:{port}"})
    headers = {"Authorization": f"Bearer {AWKWARD}", "X-Vendor": "another-secret-of-ours"}
    route = make_route(url=f"http://127.0.0.1:{port}/{place}", headers=headers)

    said = [_said(lambda: run(lambda: read_all(route))), _said(lambda: run(lambda: _called(route)))]

    assert any(said)
    for secret in ("Tr0ub4dor", "tr0ub4dor", "another-secret"):
        assert secret not in str(said)


async def _called(route: Any) -> Any:
    upstream = StreamableHttp(route)
    await upstream.open()
    return await upstream.request("tools/call", {"name": "gossip", "arguments": {}}, timeout_seconds=5)


def _said(work: Any) -> str:
    try:
        return repr(work())
    except BackendError as error:
        return f"{error.message} {error.details} {getattr(error, 'data', '')}"
