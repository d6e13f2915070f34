"""Loads what settings name by dotted path: backends and toolboxes."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string


def load(dotted_path: str) -> Any:
    """The object at a dotted path; raises ImportError naming the path."""
    return import_string(dotted_path)


@cache
def backend(kind: str, name: str) -> Any:
    """The backend that settings list as `BACKENDS[kind][name]`: `{"path": dotted path, "options": {...}}`."""
    entry: Mapping[str, Any] = settings.BACKENDS[kind][name]
    return load(entry["path"])(**entry.get("options", {}))
