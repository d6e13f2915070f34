"""The verbs of usage: record a call off the hot path, read calls and their figures."""

from apps.usage.services.figures import Summary, latest_denials, list_events, summarize
from apps.usage.services.writer import Backlog, backlog, flush, record_call, start_writer, stop_writer

__all__ = [
    "Backlog",
    "Summary",
    "backlog",
    "flush",
    "latest_denials",
    "list_events",
    "record_call",
    "start_writer",
    "stop_writer",
    "summarize",
]
