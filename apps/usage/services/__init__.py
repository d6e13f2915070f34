"""The verbs of usage: record a call off the hot path, add calls up, read calls and their figures."""

from apps.usage.services.figures import (
    SPANS,
    Busy,
    Figures,
    Overview,
    Point,
    Span,
    busiest_tools,
    has_been_called,
    latest_denials,
    list_events,
    look_back,
)
from apps.usage.services.rollups import Rebuilt, rebuild_rollups, reconcile
from apps.usage.services.writer import Backlog, backlog, flush, record_call, start_writer, stop_writer

__all__ = [
    "SPANS",
    "Backlog",
    "Busy",
    "Figures",
    "Overview",
    "Point",
    "Rebuilt",
    "Span",
    "backlog",
    "busiest_tools",
    "flush",
    "has_been_called",
    "latest_denials",
    "list_events",
    "look_back",
    "rebuild_rollups",
    "reconcile",
    "record_call",
    "start_writer",
    "stop_writer",
]
