"""The engine that settings name; Django looks for `DatabaseWrapper` here."""

from typing import Any

from django.db.backends.postgresql import base

from config.postgresql.patience import Patience
from config.postgresql.silence import limit

_patience = Patience()
"""One for all threads: what one of them has found out the others need not."""


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's own, whose new connections outlast a restart of the server."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, again if need be."""
        connect = super().get_new_connection
        made = _patience.connect(lambda: connect(conn_params))
        limit(made)
        return made
