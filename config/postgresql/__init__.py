"""Django's PostgreSQL with patience: a new connection outlasts a short restart of the server."""
