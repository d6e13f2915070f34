"""A client that speaks exactly one revision, in plain JSON-RPC over real sockets: it reads streams, and it answers.

Before 2026-07-28 a question comes as a request on the stream of a call, and its answer is a POST of its own; in that
revision it comes as a result, and the call is made again with the answer. `doors` are the addresses of one platform:
each process of it has one.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from tests.gateway.agent import META, MODERN

HAS_A_VERSION_HEADER = "2025-06-18"
NAMED = {
    "tools/call": "name", "prompts/get": "name", "resources/read": "uri",
    "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId",
}  # fmt: skip
PATIENCE_SECONDS = 60
"""More than the platform takes for a call to a server that hangs."""
MOST_ROUNDS = 5
Message = dict[str, Any]


@dataclass
class Heard:
    """What one request brought: its answer, and what was said and asked before that."""

    status: int = 0
    answer: Message = field(default_factory=dict)
    notices: list[Message] = field(default_factory=list)
    questions: list[Message] = field(default_factory=list)

    @property
    def result(self) -> Message:
        """The result; an error fails the test."""
        assert "result" in self.answer, self.answer
        found: Message = self.answer["result"]
        return found

    @property
    def error(self) -> Message:
        """The error; a result fails the test."""
        assert "error" in self.answer, self.answer
        found: Message = self.answer["error"]
        return found


@dataclass
class Speaker:
    """One client with a key; what it can be asked, it has declared in `capabilities` and answers from `answers`."""

    doors: tuple[str, ...]
    key: str
    revision: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Message] = field(default_factory=dict)
    asks_at: int = 0
    answers_at: int = 0
    session: str = ""
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def is_modern(self) -> bool:
        """Whether it has no sessions."""
        return self.revision == MODERN

    def begin(self) -> Message:
        """Shake hands as the revision does; what the other side says of itself."""
        if self.is_modern:
            return self.ask("server/discover").result
        hello = {
            "protocolVersion": self.revision, "capabilities": dict(self.capabilities),
            "clientInfo": {"name": "speaker", "version": "1"},
        }  # fmt: skip
        said = self.ask("initialize", hello).result
        self._tell({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return said

    def end(self) -> None:
        """End the session, where there is one."""
        if self.session:
            connection = self._connection(self.asks_at)
            connection.request("DELETE", "/mcp", headers=self._headers("", {}))
            assert connection.getresponse().status == 200
            connection.close()

    def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Heard:
        """Make a request, and answer every question that comes before its answer."""
        heard, asked = Heard(), dict(params or {})
        for number in range(MOST_ROUNDS):
            self._round(heard, self.answers_at if number else self.asks_at, method, asked)
            result = heard.answer.get("result", {})
            if result.get("resultType", "complete") == "complete":
                return heard
            asked = dict(params or {})
            asked["inputResponses"] = {
                name: self._answer(heard, question) for name, question in result["inputRequests"].items()
            }
            if "requestState" in result:
                asked["requestState"] = result["requestState"]
            if "progressToken" in asked.get("_meta", {}):
                asked["_meta"] = {"progressToken": f"{asked['_meta']['progressToken']}, round {number + 2}"}
        raise AssertionError(f"It asks and asks: {heard}")

    def listen(self) -> HTTPResponse:
        """The stream on which what belongs to no request is told."""
        connection = self._connection(self.asks_at)
        if self.is_modern:
            method, params = "subscriptions/listen", self._introduced({"notifications": {"toolsListChanged": True}})
            body = json.dumps({"jsonrpc": "2.0", "id": next(self.numbers), "method": method, "params": params})
            connection.request("POST", "/mcp", body.encode(), self._headers(method, params))
        else:
            connection.request("GET", "/mcp", headers=self._headers("", {}))
        stream = connection.getresponse()
        assert stream.headers.get_content_type() == "text/event-stream", stream.read()
        return stream

    def once(self, method: str, params: Mapping[str, Any]) -> Heard:
        """Make a request, and leave it at that where the result is a question."""
        heard = Heard()
        self._round(heard, self.asks_at, method, dict(params))
        return heard

    def use(self, tool: str, arguments: Mapping[str, Any] | None = None, *, progress: Any = None) -> Heard:
        """Call a tool."""
        meta = {} if progress is None else {"_meta": {"progressToken": progress}}
        return self.ask("tools/call", {"name": tool, "arguments": dict(arguments or {}), **meta})

    def _round(self, heard: Heard, door: int, method: str, params: Message) -> None:
        number = next(self.numbers)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": self._introduced(params)}
        connection = self._connection(door)
        try:
            connection.request("POST", "/mcp", json.dumps(message).encode(), self._headers(method, params))
            response = connection.getresponse()
            heard.status = response.status
            self.session = response.headers.get("mcp-session-id", self.session)
            for each in read(response):
                if "method" not in each:
                    assert each.get("id") == number, each
                    heard.answer = each
                elif "id" in each:
                    answer = self._answer(heard, each)
                    self._tell({"jsonrpc": "2.0", "id": each["id"], "result": answer})
                else:
                    heard.notices.append(each)
        finally:
            connection.close()

    def _answer(self, heard: Heard, question: Message) -> Message:
        heard.questions.append(question)
        return self.answers[question["method"]]

    def _tell(self, message: Message) -> None:
        """Send what gets no answer."""
        connection = self._connection(self.answers_at)
        connection.request("POST", "/mcp", json.dumps(message).encode(), self._headers("", {}))
        response = connection.getresponse()
        assert response.status == 202, (response.status, response.read())
        connection.close()

    def _connection(self, door: int) -> HTTPConnection:
        return HTTPConnection(urlsplit(self.doors[door]).netloc, timeout=PATIENCE_SECONDS)

    def _introduced(self, params: Message) -> Message:
        """The parameters of a request, which in 2026-07-28 says who asks."""
        if not self.is_modern:
            return params
        who = {META + "protocolVersion": MODERN, META + "clientCapabilities": dict(self.capabilities)}
        return {**params, "_meta": {**who, **params.get("_meta", {})}}

    def _headers(self, method: str, params: Message) -> dict[str, str]:
        sent = {
            "Authorization": f"Bearer {self.key}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }  # fmt: skip
        if self.is_modern:
            sent |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
            return sent | ({"Mcp-Name": params[NAMED[method]]} if method in NAMED else {})
        if self.session:
            sent["Mcp-Session-Id"] = self.session
            if self.revision >= HAS_A_VERSION_HEADER:
                sent["MCP-Protocol-Version"] = self.revision
        return sent


def read(response: HTTPResponse) -> Iterator[Message]:
    """The messages of an answer: one of JSON, or those of a stream as they come."""
    if response.headers.get_content_type() != "text/event-stream":
        yield json.loads(response.read())
        return
    while line := response.readline():
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "data" and value:
            yield json.loads(value)


def rest_of(response: HTTPResponse) -> bytes:
    """What is left of a stream to its end; one that does not end in time fails the test, and so does a broken one."""
    deadline, parts = time.monotonic() + PATIENCE_SECONDS, list[bytes]()
    while part := response.read1(65_536):  # raises IncompleteRead, which `readline` does not
        assert time.monotonic() < deadline, parts[:10]
        parts.append(part)
    return b"".join(parts)
