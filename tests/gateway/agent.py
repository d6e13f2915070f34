"""An agent in plain JSON-RPC over HTTP, in either revision: what the SDK's clients would hide is visible here."""

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from apps.auth import services as auth
from apps.gateway import services as gateway
from apps.registry.models import Capability, Server
from tests.live import Answer, Client, Live
from tests.people import Person

LEGACY, MODERN = "2025-11-25", "2026-07-28"
BOTH = (LEGACY, MODERN)
META = "io.modelcontextprotocol/"


@dataclass
class Agent:
    """One client with a key; in the 2025 revisions it opens a session with its first request."""

    url: str
    key: str
    revision: str = LEGACY
    headers: dict[str, str] = field(default_factory=dict)
    session: str = ""
    timeout: float = 60
    path: str = "/mcp"
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def send(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> Answer:
        """One POST with a JSON-RPC request."""
        params = dict(params or {})
        if self.revision == MODERN:
            params["_meta"] = {
                META + "protocolVersion": MODERN,
                META + "clientCapabilities": {},
                **params.get("_meta", {}),
            }
        message = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        return self.post(json.dumps(message).encode(), method, params, **options)

    def post(self, body: bytes, method: str = "", params: dict[str, Any] | None = None, **options: Any) -> Answer:
        """One POST of these very bytes."""
        sent = {**self._headers(method, params or {}), **options.pop("headers", {})}
        return Client(self.url).request(
            "POST", options.pop("path", self.path), body=body, headers=sent, timeout=self.timeout, **options
        )

    def open(self) -> "Agent":
        """Open a session, where the revision has them."""
        if self.revision != MODERN and not self.session:
            hello = {"protocolVersion": self.revision, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            answer = self.send("initialize", hello)
            assert answer.status == 200, answer.text
            self.session = answer.headers["mcp-session-id"]
            self.post(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return self

    def close(self) -> Answer:
        """End the session."""
        return Client(self.url).request("DELETE", self.path, headers=self._headers("", {}))

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON-RPC answer, result or error; what a stream says before it is left out."""
        answer = self.open().send(method, params)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            said = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            return next(each for each in said if "result" in each or "error" in each)
        message: dict[str, Any] = answer.json()
        return message

    def list(self) -> dict[str, Any]:
        """The result of tools/list."""
        result: dict[str, Any] = self.ask("tools/list")["result"]
        return result

    def names(self) -> set[str]:
        """The names of the tools."""
        return {tool["name"] for tool in self.list()["tools"]}

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The result of tools/call; a JSON-RPC error fails the test."""
        answer = self.ask("tools/call", {"name": name, "arguments": arguments})
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def text(self, name: str, **arguments: Any) -> str:
        """The text of a call that must succeed."""
        result = self.call(name, **arguments)
        assert not result.get("isError"), result
        text: str = result["content"][0]["text"]
        return text

    def failure(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The envelope's error of a call that must fail."""
        result = self.call(name, **arguments)
        assert result["isError"] is True
        assert result["content"][0]["text"]
        error: dict[str, Any] = result["_meta"]["gatehouse/error"]
        return error

    def _headers(self, method: str, params: dict[str, Any]) -> dict[str, str]:
        sent = {
            "Authorization": f"Bearer {self.key}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }
        if self.revision == MODERN:
            sent |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            name = str(params.get("taskId" if method.startswith("tasks/") else "name", ""))
            if (method == "tools/call" or method.startswith("tasks/")) and name.isascii():
                sent["Mcp-Name"] = name
        elif self.session:
            sent |= {"MCP-Protocol-Version": self.revision, "Mcp-Session-Id": self.session}
        return {**sent, **self.headers}


def agent_of(live: Live, person: Person, revision: str = LEGACY, scopes: tuple[str, ...] = ()) -> Agent:
    """An agent with a fresh key of this person."""
    return Agent(live.url, live.key(person, scopes), revision)


def offer(person: Person, slug: str, url: str = "", *, tools: tuple[str, ...] = ("echo",), **server: Any) -> Server:
    """A server of the person's organisation with these tools, approved as they are."""
    from django.utils import timezone

    given = {"name": slug, "slug": slug, "url": url, "approved_at": timezone.now(), "health": "healthy", **server}
    made = Server(organization=person.organization, **given).store()
    for tool in tools:
        add_tool(made, tool)
    refresh(person)
    return made


def add_tool(server: Server, name: str, **capability: Any) -> Capability:
    """One more approved tool."""
    definition = {"name": name, "description": f"The tool {name}.", "inputSchema": {"type": "object"}}
    digest = hashlib.sha256(f"{server.slug}{name}".encode()).hexdigest()
    given = {
        "kind": "tool", "name": name, "public_name": f"{server.slug}__{name}", "definition": definition,
        "digest": digest, "approved_digest": digest, "approved_definition": definition, **capability,
    }  # fmt: skip
    return Capability(organization=server.organization, server=server, **given).store()


def change(row: Server | Capability, **values: Any) -> None:
    """Change a row as a service would, with the revision."""
    type(row).objects.filter(pk=row.pk).update(**values)
    auth.raise_revision(row.organization_id)
    gateway.forget_snapshots()


def refresh(person: Person) -> None:
    """Let the gateway see what was written beside the services."""
    auth.raise_revision(person.organization.id)
    gateway.forget_snapshots()
