"""What a server refuses is asked again only where it has not looked at it: its session is over, and it said so."""

from typing import Any

import pytest

from apps.registry.backends.base import UpstreamError
from tests.registry.test_http_client import http, scripted_call

HELLO = (
    b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s"}}}'
)


@pytest.mark.parametrize("code", [-32602, -32603])
def test_a_call_that_a_server_refuses_in_words_about_sessions_is_not_made_again(settings: Any, code: int) -> None:
    refusal = b'{"jsonrpc":"2.0","id":2,"error":{"code":%d,"message":"The session of the shop could not be closed."}}'
    answers = (
        http(HELLO, extra="mcp-session-id: s1\r\n"), http(b"", status="202 Accepted"),
        http(refusal % code, status="400 Bad Request"),
    )  # fmt: skip

    error, requests = scripted_call(settings, *answers, era="2025-11-25")

    assert isinstance(error, UpstreamError) and error.rpc_code == code
    assert [b'"tools/call"' in request for request in requests].count(True) == 1
