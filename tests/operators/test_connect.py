"""`manage.py connect`: what it prints is read here by each client's own rules."""

import io
import json
import shlex
import sys
import tomllib
from itertools import pairwise
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from apps.gateway.services import CLIENTS
from tests.journeys.platform import clean_environment

KEY = "gate_canary0123456789"
BEARER = f"Bearer {KEY}"
URL = "https://gatehouse.example.com/mcp"


def connect(client: str, *arguments: str) -> tuple[str, str]:
    """What goes to standard output and to standard error."""
    out, err = io.StringIO(), io.StringIO()
    call_command("connect", client, *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def server_of(text: str, *, under: str = "mcpServers") -> dict[str, Any]:
    """The one server of a client's JSON file, which has nothing else."""
    file = json.loads(text)
    assert list(file) == [under]
    assert list(file[under]) == ["gatehouse"]
    server: dict[str, Any] = file[under]["gatehouse"]
    return server


def test_claude_code_reads_one_command_line():
    words = shlex.split(connect("claude-code", "--key", KEY, "--url", URL)[0])
    options = {"--transport": "http", "--scope": "user", "--header": f"Authorization: {BEARER}"}

    # Options with one value may stand anywhere; --header takes all that follow, so that nothing may follow its value.
    assert words[:3] == ["claude", "mcp", "add"]
    assert {each: words[words.index(each) + 1] for each in options} == options
    assert words.index("--header") == len(words) - 2
    positional = [word for before, word in pairwise(words[2:]) if word not in options and before not in options]
    assert positional == ["gatehouse", URL]


def test_claude_desktop_starts_our_own_program():
    server = server_of(connect("claude-desktop", "--key", KEY)[0])

    assert set(server) == {"command", "args", "env"}  # what has a url is skipped as invalid
    assert server["command"] == sys.executable
    assert server["args"][1:] == ["mcp", "stdio"]
    assert server["env"]["GATEHOUSE_KEY"] == KEY
    assert server["env"]["GATEHOUSE_DATA"] == str(settings.DATA_DIR)


def test_claude_desktop_reaches_another_machine_through_a_bridge():
    server = server_of(connect("claude-desktop", "--key", KEY, "--url", URL)[0])

    assert server["args"] == ["-y", "mcp-remote", URL, "--header", "Authorization:${AUTHORIZATION}"]
    assert server["env"] == {"AUTHORIZATION": BEARER}
    plain = server_of(connect("claude-desktop", "--url", "http://10.0.0.1/mcp")[0])
    assert "--allow-http" in plain["args"]


def test_cursor_reads_a_url_with_headers():
    assert server_of(connect("cursor", "--key", KEY, "--url", URL)[0]) == {
        "url": URL,
        "headers": {"Authorization": BEARER},
    }


def test_vscode_reads_servers_with_a_type():
    server = server_of(connect("vscode", "--key", KEY, "--url", URL)[0], under="servers")

    assert server == {"type": "http", "url": URL, "headers": {"Authorization": BEARER}}


def test_codex_reads_a_table_of_toml():
    file = tomllib.loads(connect("codex", "--key", KEY, "--url", URL)[0])

    # `headers` would be ignored and `bearer_token` refused.
    assert file == {"mcp_servers": {"gatehouse": {"url": URL, "http_headers": {"Authorization": BEARER}}}}


def test_gemini_reads_an_http_url():
    # A plain `url` would mean SSE.
    assert server_of(connect("gemini-cli", "--key", KEY, "--url", URL)[0]) == {
        "httpUrl": URL,
        "headers": {"Authorization": BEARER},
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_key_it_says_how_to_get_one(client):
    out, err = connect(client)

    assert "gate_YOUR_KEY" in out
    assert f"{settings.PUBLIC_URL}/admin/" in err
    assert "provision --org SLUG" in err
    assert "gate_YOUR_KEY" not in connect(client, "--key", KEY)[1]


@pytest.mark.parametrize("client", sorted(set(CLIENTS) - {"claude-desktop"}))
def test_the_endpoint_is_that_of_this_installation(client):
    assert settings.MCP_AUDIENCE in connect(client)[0]


@pytest.mark.parametrize(
    "url", ["gatehouse.example.com/mcp", "ftp://h/mcp", "https://", "https://h/a b", "https://h/\n"]
)
def test_an_address_that_no_client_could_use_is_refused(url):
    with pytest.raises(CommandError, match="no address of an MCP endpoint"):
        connect("codex", "--url", url)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_hostile_key_or_address_breaks_out_of_nothing(client):
    hostile = "a'b\"c$(id)`id`"
    out = connect(client, "--key", hostile, "--url", f"https://h/{hostile.replace(chr(34), '%22')}")[0]

    if client == "codex":
        read: Any = tomllib.loads(out)
    else:
        read = shlex.split(out) if client == "claude-code" else json.loads(out)
    assert hostile in repr(read).replace("\\'", "'").replace('\\"', '"')


@pytest.mark.slow_process
def test_claude_desktops_program_serves_the_demo(tmp_path):
    """What is printed is started as the client starts it: with nothing but the variables that it was given."""
    import subprocess

    from tests.journeys.platform import Platform

    with Platform(tmp_path) as platform:
        made = subprocess.run(
            [sys.executable, "manage.py", "connect", "claude-desktop", "--key", platform.demo_key()],
            env=platform.env, capture_output=True, text=True, check=True, timeout=180,
        )  # fmt: skip
        server = server_of(made.stdout)
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        }}  # fmt: skip
        bare = {name: value for name, value in clean_environment().items() if name in ("PATH", "HOME")}
        done = subprocess.run(
            [server["command"], *server["args"]], env={**bare, **server["env"]}, cwd="/",
            input=json.dumps(hello) + "\n", capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip

    assert json.loads(done.stdout.splitlines()[0])["result"]["serverInfo"], done.stderr
