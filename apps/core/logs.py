"""One JSON object a line, with the request's id and its actor, and nothing secret."""

import json
import logging
import re
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from apps.core.actor import Actor

request_id: ContextVar[str] = ContextVar("request_id", default="")
current_actor: ContextVar[Actor | None] = ContextVar("current_actor", default=None)

REDACTED = "[redacted]"
# Celery's `data` repeats the trace and adds the arguments of the task.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "request", "data"}
_CONFIDED = r"pass(?:word|wd|phrase)|secret|token|(?:api|private|sealing|signing)[_-]?key|authorization"
_SECRET_NAME = re.compile(rf"{_CONFIDED}|cookie|credential|pepper", re.I)
# Every part either begins where nothing of its kind went before or ends by itself: a long text takes linear time.
_SECRET_TEXT = re.compile(
    r"gate_[A-Za-z0-9_]{20,}"  # our own keys
    r"|(?<![A-Za-z0-9_-])(?:sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{12,}"  # those of others
    r"|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^/\s?#\"']+(?=@)"  # user:password in a URL
    rf"|(?i:(?:{_CONFIDED})\\*[\"']?\s*[=:]\s*)"  # a name, then its value: in quotes, after a scheme, or bare
    r"(?:\"[^\"\n\\]+\"|'[^'\n\\]+'|\\*[\"']?(?i:(?:bearer|basic)\s+)?[^\s\"',;&\\]{4,})"
    r"|(?i:\bcookie\\*[\"']?\s*[=:]\s*)[^\r\n]{4,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)


def redact(value: Any, name: str = "") -> Any:
    """The value with secrets masked: by the name they are kept under, or by their look."""
    if name and _SECRET_NAME.search(name) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value)
    if isinstance(value, dict):
        return {str(key): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    return value


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; control characters cannot break the line."""

    def format(self, record: logging.LogRecord) -> str:
        actor = current_actor.get()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            "request_id": request_id.get(),
            "actor_id": str(actor.id) if actor and actor.id else "",
            "org_id": str(actor.organization_id) if actor and actor.organization_id else "",
            "surface": actor.surface if actor else "",
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line.update({name: redact(value, name) for name, value in extra.items()})
        if record.exc_info and record.exc_info[0]:
            line["trace"] = redact("".join(traceback.format_exception(*record.exc_info)))
        return json.dumps(line, default=str, ensure_ascii=True)
