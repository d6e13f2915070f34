"""FastMCP, mounted behind the road: it answers what the road does not know.

That is, for now, the refusal of unknown methods in 2026-07-28; extensions of the protocol have their place here.
"""

from typing import Any

from django.conf import settings
from fastmcp import FastMCP


def build_server() -> FastMCP[Any]:
    """The server; what agents may use is not in it."""
    return FastMCP("gatehouse", version=settings.VERSION)
