"""The agent's side of a call: what a server may say to it and ask of it while it works.

A server may only ask for what the client has declared, and never for a password: a form that comes from somewhere
behind the gateway looks to a person as if the platform itself had asked.
"""

import logging
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from apps.core import budget
from apps.registry import services as registry

logger = logging.getLogger(__name__)

NOT_DECLARED = -32601
DECLINED = -32602
NEEDED_FOR = {
    "sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots",
}  # fmt: skip
LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
_SECRET = re.compile(r"pass(?:word|wd|phrase|code)|secret|api[ _-]?key|token|\bpin\b|\bcvv\b|credential", re.IGNORECASE)
_SECRET_WANTED = re.compile(
    r"pass(?:word|wd|phrase|code)|(?:api|access|private|secret|recovery)[ _-]?key|(?:access|bearer|auth)[ _-]?token"
    r"|\bcvv\b|\bpin\b|credential", re.IGNORECASE,
)  # fmt: skip
"""What the words around a form must not ask to be typed: fewer than names of fields, for words say many things."""
_MOST_FIELDS = 200


class Client(Protocol):
    """Who called, as far as a server may reach it while it works on the call."""

    @property
    def session_id(self) -> str | None:
        """Its session of the 2025 revisions."""

    @property
    def is_modern(self) -> bool:
        """Whether it speaks 2026-07-28: it is asked by results, not by requests."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What it has declared."""

    @property
    def info(self) -> Mapping[str, Any]:
        """What it says it is."""

    @property
    def log_level(self) -> str:
        """The least level of log messages that it wants; empty: it has not said."""

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Say something before the result; dropped where the client takes nothing."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the client, in the 2025 revisions; raises registry.Refused when it refuses or cannot be asked."""


@dataclass(frozen=True, slots=True)
class Silent:
    """A client that hears nothing but results: over stdio, in jobs, in tests."""

    session_id: str | None = None
    is_modern: bool = False
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    log_level: str = ""

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Nobody hears it."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Nobody can be asked."""
        raise registry.Refused(NOT_DECLARED, "This client cannot be asked.")


@dataclass(frozen=True, slots=True)
class TakesTasks:
    """A client of an older revision, for whom somebody here asks for tasks until they have ended."""

    client: Client

    @property
    def session_id(self) -> str | None:
        """Its session."""
        return self.client.session_id

    @property
    def is_modern(self) -> bool:
        """It is asked by requests."""
        return self.client.is_modern

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What it has declared, and the extension of tasks."""
        others = self.client.capabilities.get("extensions")
        extensions = {**(others if isinstance(others, Mapping) else {}), registry.TASKS: {}}
        return {**self.client.capabilities, "extensions": extensions}

    @property
    def info(self) -> Mapping[str, Any]:
        """What it says it is."""
        return self.client.info

    @property
    def log_level(self) -> str:
        """The least level of log messages that it wants."""
        return self.client.log_level

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Say something before the result."""
        self.client.notify(method, params)

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the client."""
        return await self.client.ask(method, params)


@dataclass(slots=True)
class Ask:
    """How an agent asks: at which endpoint, by which client, in which round of a conversation."""

    client: Client = field(default_factory=Silent)
    endpoint: str = "/mcp"
    bundle: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    input_responses: Mapping[str, Any] | None = None
    request_state: str | None = None
    share: budget.Share | None = None
    size: int = 0
    """How long the request is, in bytes; 0 where nobody has counted."""
    task: Mapping[str, Any] | None = None
    """What a client of 2025-11-25 says of the task that it wants its call to be: perhaps `ttl`; None: it wants none."""


def takes_tasks(client: Client) -> bool:
    """Whether a call of this client may be answered with a task."""
    return client.is_modern and registry.declares_tasks(client.capabilities)


def told_to_servers(client: Client) -> Mapping[str, Any]:
    """What servers are told that a client can do: all that it has declared, but for what cannot reach its revision.

    Nor can a question be answered with a task, as clients of 2025-11-25 may offer: nobody here asks for its result.
    """
    told = client.capabilities
    if "tasks" in told and not client.is_modern:
        told = {name: about for name, about in told.items() if name != "tasks"}
    if client.is_modern or isinstance(client, TakesTasks) or not registry.declares_tasks(told):
        return told
    others = {name: about for name, about in told["extensions"].items() if name != registry.TASKS}
    return {**told, "extensions": others}


def what_may_be_asked(capabilities: Mapping[str, Any]) -> str:
    """What a client can be asked, in one word: to a client that can be asked less, a server may offer less."""
    if not capabilities:
        return ""
    elicitation = capabilities.get("elicitation")
    by_url = ["url"] if isinstance(elicitation, Mapping) and "url" in elicitation else []
    return "+".join([name for name in NEEDED_FOR.values() if name in capabilities] + by_url)


def check_question(client: Client, method: str, params: Mapping[str, Any]) -> None:
    """Raise Refused for what a server must not ask of this client."""
    needed = NEEDED_FOR.get(method)
    if needed is None:
        raise registry.Refused(NOT_DECLARED, f"Clients of Gatehouse are not asked for {method[:60]}.")
    declared = client.capabilities.get(needed)
    if not isinstance(declared, Mapping):
        raise registry.Refused(NOT_DECLARED, f"The client has not declared {needed}.")
    if method == "elicitation/create":
        _check_form(declared, params)
    if method == "sampling/createMessage" and params.get("tools") and "tools" not in declared:
        raise registry.Refused(NOT_DECLARED, "The client has not declared sampling with tools.")


def _check_form(declared: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    mode = str(params.get("mode", "form"))
    if mode != "form" or (declared and "form" not in declared and "url" in declared):
        if mode not in declared:
            raise registry.Refused(NOT_DECLARED, f"The client has not declared elicitation by {mode[:20]}.")
        if mode != "form":
            return
    schema = params.get("requestedSchema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping) or len(properties) > _MOST_FIELDS:
        raise registry.Refused(DECLINED, "The form has no fields that could be shown.")
    is_wanted_around = _says(_SECRET_WANTED, params.get("message"))
    for name, about in properties.items():
        told = about if isinstance(about, Mapping) else {}
        is_named = any(_says(_SECRET, word) for word in (name, told.get("title"), told.get("format")))
        is_typed = told.get("type", "string") == "string" and not {"enum", "const", "oneOf"} & told.keys()
        if is_named or (is_typed and (is_wanted_around or _says(_SECRET_WANTED, told.get("description")))):
            raise PasswordAsked(
                DECLINED, f"The form asks for {name[:60]!r}. Gatehouse passes no question on that asks for a secret."
            )


def _says(pattern: re.Pattern[str], text: Any) -> bool:
    """Whether a text has such words, also where they are written with letters that only look otherwise."""
    return isinstance(text, str) and pattern.search(unicodedata.normalize("NFKC", text)) is not None


class PasswordAsked(registry.Refused):
    """A server wanted a person to type a secret."""


def is_wanted(level: Any, least: str, *, is_modern: bool) -> bool:
    """Whether a log message passes: 2026-07-28 wants none unless it has named a level, the others all."""
    if not least:
        return not is_modern
    if level not in LOG_LEVELS or least not in LOG_LEVELS:
        return False
    return LOG_LEVELS.index(level) >= LOG_LEVELS.index(least)
