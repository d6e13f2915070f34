"""Staff pages of servers and of what belongs to them."""

from apps.registry.admin import capabilities, credentials, readings, servers

__all__ = ["capabilities", "credentials", "readings", "servers"]
