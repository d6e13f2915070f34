"""Staff pages of bundles and of what is in them."""

from apps.gateway.admin import bundles, items

__all__ = ["bundles", "items"]
