"""The words of the Model Context Protocol that every transport speaks: messages, revisions, headers.

Two eras: up to 2025-11-25 a session begins with `initialize`; 2026-07-28 is stateless, each request names its revision
in `_meta` (and, over HTTP, in headers), and `server/discover` tells what a server speaks.
"""

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from django.conf import settings

from apps.core import budget
from apps.core.doors import has_too_many_values
from apps.core.errors import BackendError, BackendTimeout, TooLarge
from apps.registry.backends.base import Hello, HttpRefusal, ParamHeaders, UpstreamError
from apps.registry.backends.introductions import well_formed_capabilities, well_formed_info

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
BATCHING = "2025-03-26"
"""The one revision in which several messages may travel as one."""
LEGACY_VERSIONS = frozenset({"2024-11-05", BATCHING, "2025-06-18", LEGACY})

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REQUEST_CANCELLED = -32800
UNSUPPORTED_VERSION = -32022

META = "io.modelcontextprotocol/"
CAPABILITIES = META + "clientCapabilities"
PROGRESS_TOKEN = "progressToken"  # noqa: S105 - no password: a name for the progress of a request
_OURS = frozenset({META + "protocolVersion", META + "clientInfo", CAPABILITIES, PROGRESS_TOKEN})
INPUT_REQUIRED, TASK = "input_required", "task"
TASKS = META + "tasks"
"""The extension by which a server gives a call's result as a task, which is asked for until it has ended."""
RELATED_TASK = META + "related-task"
"""By this name in `_meta`, messages of 2025-11-25 say which task they are about."""
NAMED_BY = {
    "tools/call": "name", "prompts/get": "name", "resources/read": "uri",
    "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId",
}  # fmt: skip
MESSAGE_LENGTH = 1000
MOST_VALUES = 100_000
_SENTINEL = re.compile(r"=\?base64\?.*\?=\Z", re.ASCII | re.DOTALL)
_PLAIN = re.compile(r"[\x20-\x7e]*\Z", re.ASCII)
_CREDENTIALS_REFUSED = (401, 403)
_NOT_ABOUT_THE_ERA = frozenset({*_CREDENTIALS_REFUSED, 429, 502, 503, 504})


class Ask(Protocol):
    """Sends one request in the manner of a revision and gives its result."""

    async def __call__(self, method: str, params: Mapping[str, Any], *, version: str) -> dict[str, Any]:
        """The JSON-RPC result; raises UpstreamError, HttpRefusal, BackendTimeout, BackendDown or BackendError."""


# Revisions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who we say we are, and what a session of the older era is told that we can do."""

    client_info: dict[str, Any]
    capabilities: dict[str, Any]


def introduction(client_info: Mapping[str, Any] | None, capabilities: Mapping[str, Any] | None) -> Introduction:
    """How a connection is begun; by itself Gatehouse offers a server nothing to call back for."""
    return Introduction(well_formed_info(client_info or {}) or own_info(), well_formed_capabilities(capabilities or {}))


async def agree(ask: Ask, ours: Introduction, known: str = "") -> Hello:
    """Find the revision that both sides speak: the newest first, `initialize` where it is not understood.

    `known` is the revision that was spoken the last time; where it is of the older era, the newest is not tried first.
    """
    if known in LEGACY_VERSIONS:
        try:
            return await initialize(ask, ours)
        except (UpstreamError, HttpRefusal) as refusal:
            if not _may_speak_the_other_era(refusal):
                raise
    try:
        result = await ask("server/discover", {}, version=MODERN)
    except BackendTimeout:
        try:
            return await initialize(ask, ours)
        except UpstreamError as error:
            if error.rpc_code != UNSUPPORTED_VERSION:
                raise
        # It was only slow to start: meanwhile it has read our first question, and is of the newest era for good.
        result = await ask("server/discover", {}, version=MODERN)
    except (UpstreamError, HttpRefusal) as refusal:
        if not _may_speak_the_other_era(refusal):
            raise
        return await initialize(ask, ours)
    if MODERN in _texts(result.get("supportedVersions")):
        return _hello(MODERN, result, _mapping(_mapping(result.get("_meta")).get(META + "serverInfo")))
    return await initialize(ask, ours)


async def initialize(ask: Ask, ours: Introduction) -> Hello:
    """Begin a session of the older era; the server chooses its revision."""
    asked = {"protocolVersion": LEGACY, "capabilities": ours.capabilities, "clientInfo": ours.client_info}
    result = await ask("initialize", asked, version="")
    version = result.get("protocolVersion")
    if version not in LEGACY_VERSIONS:
        raise BackendError(
            f"The server answers in the protocol revision {str(version)[:40]!r}, which is not known here."
        )
    return _hello(version, result, _mapping(result.get("serverInfo")))


def _may_speak_the_other_era(refusal: BackendError) -> bool:
    if isinstance(refusal, HttpRefusal):
        return refusal.http_status not in _NOT_ABOUT_THE_ERA
    return True


def _hello(version: str, result: Mapping[str, Any], server_info: dict[str, Any]) -> Hello:
    instructions = result.get("instructions")
    return Hello(
        protocol_version=version,
        server_info=server_info,
        capabilities=_mapping(result.get("capabilities")),
        instructions=instructions if isinstance(instructions, str) else "",
    )


def own_info() -> dict[str, str]:
    """Who we say we are."""
    return {"name": "gatehouse", "version": settings.VERSION}


def modern_meta(ours: Introduction) -> dict[str, Any]:
    """What each request of the 2026 era says in its `_meta`, where its caller declares nothing."""
    return {META + "protocolVersion": MODERN, META + "clientInfo": ours.client_info, CAPABILITIES: {}}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


# Messages --------------------------------------------------------------------------------------------------------


def encode_request(
    number: int,
    method: str,
    params: Mapping[str, Any] | None,
    meta: Mapping[str, Any] | None,
    *,
    with_progress: bool = False,
) -> bytes:
    """One request, with the era's `_meta` where there is one.

    What the caller put into `_meta` stays beside it, but for what is ours to say. Progress is reported under our own
    number, where the caller has a token for it and somebody listens.
    """
    sent = dict(params or {})
    given = sent.get("_meta")
    if given is not None or meta:
        said = {name: value for name, value in _mapping(given).items() if name not in _OURS}
        if with_progress and progress_token(params) is not None:
            said[PROGRESS_TOKEN] = number
        if meta:
            said.update(meta)
        sent["_meta"] = said
        if not said:
            del sent["_meta"]
    return encode({"jsonrpc": "2.0", "id": number, "method": method, "params": sent})


def progress_token(params: Mapping[str, Any] | None) -> str | int | None:
    """The token under which the caller wants to hear of progress."""
    meta = params.get("_meta") if params else None
    token = meta.get(PROGRESS_TOKEN) if isinstance(meta, Mapping) else None
    return token if type(token) in (int, str) else None


def encode_notification(method: str, params: Mapping[str, Any] | None) -> bytes:
    """One notification."""
    return encode({"jsonrpc": "2.0", "method": method, **({"params": dict(params)} if params else {})})


def encode_reply(request: Mapping[str, Any]) -> bytes:
    """Our answer to a request of the server: we are there, and have nothing to offer."""
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request.get("id")}
    if request.get("method") == "ping":
        reply["result"] = {}
    else:
        reply["error"] = {"code": METHOD_NOT_FOUND, "message": "Gatehouse offers no such method to servers."}
    return encode(reply)


def encode(message: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8."""
    try:
        return orjson.dumps(message)
    except TypeError as error:
        raise BackendError("The request holds a value that JSON cannot carry to the server.") from error


def decode(text: bytes) -> dict[str, Any]:
    """One JSON-RPC message; raises BackendError for anything else."""
    return _message(_value(text))


def decode_all(text: bytes, version: str) -> list[dict[str, Any]]:
    """The JSON-RPC messages that travel as one: a single one, but for one revision; raises BackendError."""
    if version != BATCHING:
        return [decode(text)]
    found = _value(text)
    return [_message(each) for each in found] if isinstance(found, list) else [_message(found)]


def _value(text: bytes) -> Any:
    if is_too_much(text):
        message = f"The server's answer holds more than {MOST_VALUES} values. Ask for less."
        raise BackendError(message) from TooLarge(message)
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise BackendError("The server's answer is not valid JSON.") from error


def _message(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise BackendError("The server's answer is not a JSON-RPC message.")
    return value


def is_too_much(text: bytes) -> bool:
    """Whether a message has so many small values that reading it would hold up everybody else, and fill the memory."""
    return has_too_many_values(text, most=MOST_VALUES)


def is_request(message: Mapping[str, Any]) -> bool:
    """Whether the server asks something of us."""
    return "method" in message and "id" in message


def is_response(message: Mapping[str, Any]) -> bool:
    """Whether the message answers a request."""
    return "method" not in message and ("result" in message or "error" in message)


def is_complete(message: Mapping[str, Any]) -> bool:
    """Whether the message carries a result, and not one that asks for more first."""
    result = message.get("result")
    return isinstance(result, dict) and result.get("resultType", "complete") == "complete"


def declares_tasks(capabilities: Mapping[str, Any] | None) -> bool:
    """Whether a client that has declared these capabilities takes a task for an answer."""
    extensions = capabilities.get("extensions") if capabilities else None
    return isinstance(extensions, Mapping) and isinstance(extensions.get(TASKS), Mapping)


def may_defer(method: str, capabilities: Mapping[str, Any] | None) -> bool:
    """Whether a server of 2026-07-28 may answer such a request with a task."""
    return method == "tools/call" and declares_tasks(capabilities)


def result_of(message: Mapping[str, Any], *, may_ask: bool = False, may_defer: bool = False) -> dict[str, Any]:
    """The result that a response carries; raises UpstreamError for its error, BackendError for neither or both.

    A result that asks for more input is one only where it may ask, and a task only where it may come later.
    """
    if ("result" in message) == ("error" in message):
        raise BackendError("The server's answer has neither a result nor an error.")
    if "error" in message:
        raise _error_of(message["error"])
    result = message["result"]
    if not isinstance(result, dict):
        raise BackendError("The server's result is not a JSON object.")
    kind = result.get("resultType", "complete")
    if kind == "complete" or (may_ask and kind == INPUT_REQUIRED) or (may_defer and kind == TASK):
        return result
    if kind == INPUT_REQUIRED:
        raise BackendError("The server asks for more input before it answers, and there is nobody to ask.")
    if kind == TASK:
        raise BackendError("The server answers with a task, and the caller has not declared that it takes one.")
    raise BackendError(f"The server's result is of a kind that is not known here: {str(kind)[:40]!r}.")


def _error_of(error: Any) -> BackendError:
    if not isinstance(error, dict) or type(error.get("code")) is not int:
        return BackendError("The server answered with an error that is no JSON-RPC error.")
    return UpstreamError(error["code"], str(error.get("message"))[:MESSAGE_LENGTH], error.get("data"))


def check_id(message: Mapping[str, Any], number: int) -> None:
    """Raise BackendError for a response to something that was not asked here."""
    answered = message.get("id")
    if type(answered) is not int or answered != number:
        raise BackendError("The server answered a question that was not asked.")


def is_about_the_request(text: bytes, number: int) -> bool:
    """Whether an error is about what this request asked for, rather than about who asks."""
    with suppress(BackendError):
        message = decode(text)
        error = message.get("error")
        said = error.get("code") if isinstance(error, dict) else None
        return message.get("id") == number and said in (INVALID_PARAMS, INTERNAL_ERROR)
    return False


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer that came on a connection which requests share, and how long it was."""

    message: dict[str, Any]
    size: int

    def counted(self) -> dict[str, Any]:
        """The answer, counted into what is held for whoever takes it."""
        share = budget.current()
        if share is not None:
            share.take(self.size)
        return self.message


# Headers of the 2026 era -----------------------------------------------------------------------------------------


def encode_header(value: str) -> str:
    """A header's value: as it is where it survives the journey, else `=?base64?…?=`."""
    if _PLAIN.match(value) and value == value.strip() and not _SENTINEL.match(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def param_headers(declared: ParamHeaders, arguments: Any) -> dict[str, str]:
    """The `Mcp-Param-*` headers that repeat a call's arguments; absent and null arguments have none."""
    headers: dict[str, str] = {}
    for path, name in declared:
        value = arguments
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool):
            headers[f"Mcp-Param-{name}"] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            headers[f"Mcp-Param-{name}"] = encode_header(str(value))
    return headers
